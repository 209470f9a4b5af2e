"""Schedules in words to five-field cron expressions, graded by when they fire."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.resources import files

from ..domain import Task, Verdict, draw
from . import firing, problems, shortcuts, worked


class Cron:
    """The cron domain: the answer is right if it fires at the same times, however it is spelled."""

    name = "cron"
    prompt = "cron"
    parser = "cron"
    max_new_tokens = 224  # the longest of 30,000 worked solutions took 175 tokens of Qwen2.5; a quarter more

    def task(self, split: str, index: int) -> Task:
        """The index-th item of a split; difficulties and kinds take turns, so any run is balanced."""
        difficulty, kind = problems.cell(index)
        return draw(self.name, split, index, lambda rng: problems.make(rng, difficulty, kind))

    def verify(self, task: Task, answer: str | None) -> Verdict:
        """RIGHT if the expression fires exactly when the task's does; a malformed expression is WRONG."""
        if answer is None:
            return Verdict.UNPARSED
        return Verdict.RIGHT if firing.same(task.answer, answer) else Verdict.WRONG

    def worked(self, task: Task) -> str:
        """Field by field, ending in the answer line."""
        return worked.render(task.facts["steps"], task.answer)

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        """Shortcuts that skip the work, by name."""
        return shortcuts.SHORTCUTS

    def exemplars(self) -> list[str]:
        """Questions as people phrase them, one a line of exemplars.txt."""
        return files(__package__).joinpath("exemplars.txt").read_text(encoding="utf-8").splitlines()


__all__ = ["Cron"]
