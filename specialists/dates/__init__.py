"""Dates: weekdays, distances, shifts, leap years and the nth weekday of a month (Gregorian calendar)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib.resources import files

from ..domain import Task, Verdict, draw
from . import shortcuts, worked
from .problems import SCHEDULE, make


class Dates:
    """The dates domain (see specialists.domain.Domain for the contract)."""

    name = "dates"
    prompt = "dates"
    parser = "dates"
    # The longest worked solution (days between dates in four calendar years) is 197 tokens of Qwen's
    # pre-tokeniser, which gives every digit a token of its own; a quarter is kept in reserve.
    max_new_tokens = 448

    def task(self, split: str, index: int) -> Task:
        """The index-th item of a split; the kind follows from the index, so any 20 in a row are balanced.

        Raises BadInput for a split that does not exist.
        """
        kind, variant = SCHEDULE[index % len(SCHEDULE)]
        return draw(self.name, split, index, partial(make, kind, variant))

    def verify(self, task: Task, answer: str | None) -> Verdict:
        """RIGHT if the canonical answers are equal, UNPARSED for None, else WRONG."""
        if answer is None:
            return Verdict.UNPARSED
        return Verdict.RIGHT if answer == task.answer else Verdict.WRONG

    def worked(self, task: Task) -> str:
        """The solution step by step, computed from the question's content and not from the stored answer."""
        return worked.solution(task)

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        """Shortcuts by name: constants of each kind, and rules of thumb without a calendar."""
        return {"constants": shortcuts.constants, "rules of thumb": shortcuts.rules_of_thumb}

    def exemplars(self) -> list[str]:
        """Questions as people phrase them, one for each line of exemplars.txt."""
        return (files(__package__) / "exemplars.txt").read_text(encoding="utf-8").splitlines()


__all__ = ["Dates"]
