"""Questions that fit no specialist, put to Claude: the only answers that leave this machine and cost money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from specialists.prompts import PROMPTS

from .answer import Answer, Status
from .claude import BUDGET, Claude
from .ledger import OverBudget
from .settings import setting

if TYPE_CHECKING:
    from .decision import Decision

PURPOSE = "ask"
CUT = ("max_tokens", "model_context_window_exceeded", "pause_turn")


def open_claude(model: str | None, budget: float | None) -> Claude:
    """Claude for one invocation: `model`, else the setting claude_model, else the cheapest; budget in dollars."""
    return Claude(model or setting("claude_model"), BUDGET if budget is None else budget)


def ask_claude(
    claude: Claude, decision: Decision, turns: Sequence[dict[str, str]], max_tokens: int
) -> Answer:
    """Claude's answer to a question under the plain prompt; `turns` ends with the question.

    Refused, with the reason in the decision, when the budget does not allow the call or the model declines.
    Raises Unavailable and BadInput as Claude.say does.
    """
    begun = perf_counter()
    try:
        said = claude.say(turns, PROMPTS["plain"], max_tokens, PURPOSE)
    except OverBudget as error:
        return Answer(replace(decision, reason=str(error)), Status.REFUSED)
    seconds = perf_counter() - begun
    text: str | None = said.text.strip() or None
    status = Status.HANDED_ON
    if said.stop_reason in CUT:
        status = Status.TRUNCATED
    elif said.stop_reason == "refusal":
        status, text = Status.REFUSED, None
        decision = replace(decision, reason=f"{claude.model} declined to answer; rephrase the question.")
    return Answer(
        decision,
        status,
        text,
        said.text,
        said.usage.output,
        seconds,
        seconds,
        model=claude.model,
        dollars=said.dollars,
    )
