"""Questions that fit no specialist, put to Claude: the only answers that leave this machine and cost money."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

from specialists.errors import BadInput
from specialists.prompts import PROMPTS

from .answer import Answer, Status
from .claude import BUDGET, Claude
from .decision import CLAUDE
from .ledger import OverBudget, Usage
from .settings import setting

if TYPE_CHECKING:
    from .decision import Decision

PURPOSE = "ask"
TOKENS = 1024  # how far Claude may write unless told, which includes what it thinks first
CUT = ("max_tokens", "model_context_window_exceeded", "pause_turn")


def open_claude(
    fallback: str, model: str | None, budget: float | None, run: str | None = None
) -> Claude | None:
    """Claude where the fallback is "claude": `model`, else the setting claude_model, else the cheapest.

    budget: dollars. run: see Claude. Raises BadInput where another fallback is given a model or a budget.
    """
    if fallback == CLAUDE:
        return Claude(model or setting("claude_model"), BUDGET if budget is None else budget, run=run)
    if model or budget is not None:
        raise BadInput(
            "A Claude model and a budget are of use with --fallback claude only; add it or drop them."
        )
    return None


def ask_claude(
    claude: Claude, decision: Decision, conversation: Sequence[dict[str, str]], max_tokens: int | None = None
) -> tuple[Answer, Usage]:
    """Claude's answer to the end of a conversation, and the tokens of it.

    Under the conversation's own system messages, or the plain prompt where it has none. Refused, with the reason in the
    decision, when the budget does not allow the call or the model declines. Raises Unavailable and BadInput as
    Claude.say does.
    """
    begun = perf_counter()
    system = [message["content"] for message in conversation if message["role"] == "system"]
    turns = [message for message in conversation if message["role"] != "system"]
    try:
        said = claude.say(turns, "\n\n".join(system) or PROMPTS["plain"], max_tokens or TOKENS, PURPOSE)
    except OverBudget as error:
        return Answer(replace(decision, reason=str(error)), Status.REFUSED), Usage()
    seconds = perf_counter() - begun
    text: str | None = said.text.strip() or None
    status = Status.HANDED_ON
    if said.stop_reason in CUT:
        status = Status.TRUNCATED
    elif said.stop_reason == "refusal":
        status, text = Status.REFUSED, None
        decision = replace(decision, reason=f"{claude.model} declined to answer; rephrase the question.")
    answer = Answer(
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
    return answer, said.usage
