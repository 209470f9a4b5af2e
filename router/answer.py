"""What became of a question."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decision import Decision


class Status(StrEnum):
    """What became of a question. Only `answered` comes from a specialist and holds an answer of its form."""

    ANSWERED = "answered"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    HANDED_ON = "handed_on"
    REFUSED = "refused"


@dataclass(frozen=True)
class Answer:
    """A decision and what came of it.

    answer: the parsed answer, or the whole text where no specialist answered; None if there is none. text:
    all that was generated. seconds: from the start of generation. notes: what to know of the weights used.
    model: the model elsewhere that was asked, None when the answer was made here. dollars: what that cost now.
    """

    decision: Decision
    status: Status
    answer: str | None = None
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    first_token_seconds: float = 0.0
    notes: tuple[str, ...] = field(default=(), compare=False)
    model: str | None = None
    dollars: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """The stable JSON object of `router ask --json`; model and dollars only where another model was asked."""
        elsewhere = {"model": self.model, "dollars": round(self.dollars, 9)} if self.model else {}
        return {
            **self.decision.to_json(),
            "answer": self.answer,
            "text": self.text,
            "status": str(self.status),
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            **elsewhere,
        }
