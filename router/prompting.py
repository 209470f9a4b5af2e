"""What a model is asked, and what its text amounts to: the same for one question, a batch, and a server."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

from registry.store import Version
from specialists.domain import items, load
from specialists.errors import BadInput
from specialists.parsers import PARSERS
from specialists.prompts import PROMPTS, messages

from .answer import Answer, Status

if TYPE_CHECKING:
    from .decision import Decision
    from .engine.request import Generation, Request

BASE_TOKENS = 512  # how far the base may write when it answers alone
HINTS = 20  # worked solutions that speed up a specialist whose domain is installed (lookup.py)
HISTORY = 4  # earlier turns that the base or Claude sees in a conversation

Turns = Sequence[tuple[str, str]]
Conversation = list[dict[str, str]]


def turns(question: str, history: Turns) -> Conversation:
    """A conversation up to the question, without what nobody answered."""
    answered = [(asked, said) for asked, said in history if said.strip()][-HISTORY:]
    earlier = [
        {"role": role, "content": text}
        for turn in answered
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    return [*earlier, {"role": "user", "content": question}]


def ask_base(conversation: Sequence[dict[str, str]], max_new_tokens: int | None = None) -> Request:
    """The request for the base alone. A conversation without a system message gets the plain one."""
    from .engine.request import Request

    plain = messages(PROMPTS["plain"], "")[:1]
    whole = conversation if conversation[0]["role"] == "system" else [*plain, *conversation]
    return Request(list(whole), None, max_new_tokens or BASE_TOKENS)


def ask_specialist(
    version: Version, question: str, max_new_tokens: int | None = None, hinted: bool = True
) -> Request:
    """The request for a specialist, which sees one question under the prompt it was trained with."""
    from .engine.request import Request

    length = max_new_tokens or version.card.max_new_tokens
    known = hints(version.card.name) if hinted else ()
    return Request(messages(version.prompt_text(), question), version.ref, length, known)


def read(
    decision: Decision, version: Version | None, said: Generation, notes: tuple[str, ...] = ()
) -> Answer:
    """What a generation amounts to. Text cut in mid-air is truncated unless it already holds an answer."""
    if version is None:
        answer = said.text.strip() or None
        status = Status.TRUNCATED if said.truncated else Status.HANDED_ON
    else:
        answer = PARSERS[version.card.parser](said.text)
        status = Status.TRUNCATED if said.truncated else Status.UNPARSED
        if answer is not None:
            status = Status.ANSWERED
    return Answer(
        decision, status, answer, said.text, said.tokens, said.seconds, said.first_token_seconds, notes
    )


@cache
def hints(name: str) -> tuple[str, ...]:
    """Worked solutions of an installed domain of that name, which its specialist's answers repeat in parts."""
    try:
        domain = load(name)
    except BadInput:
        return ()
    return tuple(domain.worked(task) for task in items(domain, "train", HINTS))
