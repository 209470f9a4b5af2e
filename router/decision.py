"""The decision on a question: who answers it, and why. Without a model, for those who only show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from specialists.errors import BadInput

AUTO, BASE = "auto", "base"  # who answers, besides a name: the specialist that fits, or none
CLAUDE, NONE = "claude", "none"  # where no specialist fits, besides the base
MAX_CHARACTERS = 8000  # some 2,000 tokens of English, ten windows of the encoder: far beyond any question


@dataclass(frozen=True)
class Nearest:
    """An exemplar and its cosine similarity to the question."""

    text: str
    specialist: str
    similarity: float


@dataclass(frozen=True)
class Decision:
    """Who answers, and why.

    confidence is the estimated probability that the best specialist is the right one; when that is below
    threshold, specialist is None and runner_up names the one that came closest. Otherwise runner_up is the
    second best, if any. scores: the confidence of every specialist. When the user named the specialist (asked_for)
    nothing was measured: confidence and threshold are None.
    """

    question: str
    specialist: str | None
    version: str | None
    confidence: float | None
    threshold: float | None
    runner_up: tuple[str, float] | None
    exemplars: tuple[Nearest, ...]
    reason: str
    scores: tuple[tuple[str, float], ...] = ()

    @classmethod
    def asked_for(cls, question: str, name: str | None, version: str | None = None) -> Decision:
        """The decision when the user named the specialist, or the base alone (None)."""
        return cls(
            question, name, version, None, None, None, (), f"{name or 'the base'} was asked for by name"
        )

    @property
    def abstained(self) -> bool:
        """True if no specialist should answer."""
        return self.specialist is None

    def to_json(self) -> dict[str, Any]:
        """The stable JSON object of `router route --json`."""
        return {
            "question": self.question,
            "specialist": self.specialist,
            "version": self.version,
            "confidence": _rounded(self.confidence),
            "threshold": _rounded(self.threshold),
            "runner_up": (
                {"specialist": self.runner_up[0], "confidence": _rounded(self.runner_up[1])}
                if self.runner_up
                else None
            ),
            "exemplars": [
                {"text": near.text, "specialist": near.specialist, "similarity": _rounded(near.similarity)}
                for near in self.exemplars
            ],
            "reason": self.reason,
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def checked(question: str) -> str:
    """The question without surrounding space. Raises BadInput when it is empty or too long to be one."""
    text = question.strip()
    if not text:
        raise BadInput("The question is empty; type one.")
    if len(text) > MAX_CHARACTERS:
        raise BadInput(
            f"The question has {len(text):,} characters and at most {MAX_CHARACTERS:,} are read; shorten it."
        )
    return text
