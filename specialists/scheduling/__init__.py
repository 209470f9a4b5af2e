"""Meeting rooms: do meetings fit, how many rooms are needed, when can a new meeting start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.resources import files
from random import Random

from ..domain import Task, Verdict, draw
from ..errors import BadInput
from .problems import Problem, answer, full_range, half_hour, label, seeds
from .wording import wording
from .worked import worked

RANGES: dict[str, Callable[[Random], Problem]] = {"full": full_range, "half-hour": half_hour, "seeds": seeds}
LONGEST = {
    "full": 900,
    "half-hour": 460,
    "seeds": 260,
}  # tokens: the longest worked solution and a fifth more


HOURS = (7, 20)  # that a problem told again lies between


def item(name: str, problem: Problem, rng: Random) -> Task:
    """A problem as an item of the domain `name`, in words that rng chooses."""
    question, spans = wording(problem, rng)
    return Task(
        domain=name,
        kind=problem.kind,
        question=question,
        answer=answer(problem),
        key=problem.key(),
        difficulty=problem.difficulty,
        label=label(problem),
        facts={"problem": problem, "spans": spans},
    )


class Scheduling:
    """The scheduling domain; `variant` is full (the default), half-hour, or seeds (see problems.py)."""

    prompt = "scheduling"
    parser = "scheduling"
    unthinned = ("scheduling:seeds",)  # variants whose test items training must be told to leave out

    def __init__(self, variant: str = "full") -> None:
        if variant not in RANGES:
            raise BadInput(f"scheduling has no variant {variant!r}; use one of {', '.join(RANGES)}.")
        self.variant = variant
        self.max_new_tokens = LONGEST[variant]
        self.name = "scheduling" if variant == "full" else f"scheduling:{variant}"

    def task(self, split: str, index: int) -> Task:
        if self.variant == "seeds":  # its distribution is the point: not thinned out by split
            return self._make(Random(f"{self.name}/{split}/{index}"))
        return draw(self.name, split, index, self._make)

    def _make(self, rng: Random) -> Task:
        return item(self.name, RANGES[self.variant](rng), rng)

    def retell(self, task: Task, rng: Random) -> Task:
        """The same problem, by its key, in other words, with its meetings in another order and at another hour."""
        problem: Problem = task.facts["problem"]
        meetings = rng.sample(problem.meetings, len(problem.meetings))
        edges = [*(moment for meeting in meetings for moment in meeting), *filter(None, problem.day)]
        first, last = min(edges) // 60, -(-max(edges) // 60)
        earliest, latest = HOURS
        later = (
            60 * rng.choice(range(earliest - first, latest - last + 1))
            if last - first <= latest - earliest
            else 0
        )
        told = replace(
            problem,
            meetings=tuple((start + later, end + later) for start, end in meetings),
            day=(problem.day[0] + later, problem.day[1] + later) if problem.kind == "slots" else problem.day,
        )
        return item(self.name, told, rng)

    def verify(self, task: Task, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.UNPARSED
        return Verdict.RIGHT if answer == task.answer else Verdict.WRONG

    def worked(self, task: Task) -> str:
        if self.variant == "half-hour":
            return worked(task.facts["problem"], task.facts["spans"])
        return worked(task.facts["problem"])

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        """Shortcuts that never compare two meetings."""
        return {
            "meetings <= rooms + 2": lambda task: _by_count(task, 2),
            "meetings <= 2 * rooms": lambda task: _by_count(task, None),
            "total hours against rooms": _by_load,
        }

    def exemplars(self) -> list[str]:
        text = files(__package__).joinpath("exemplars.txt").read_text(encoding="utf-8")
        return [line.strip() for line in text.splitlines() if line.strip()]


def _by_count(task: Task, extra: int | None) -> str:
    problem: Problem = task.facts["problem"]
    n, rooms = len(problem.meetings), problem.rooms or 0
    if problem.kind == "fits":
        return "YES" if n <= (2 * rooms if extra is None else rooms + extra) else "NO"
    return str((n + 2) // 3) if problem.kind == "rooms" else "none"


def _by_load(task: Task) -> str:
    """Total meeting time over the time from first start to last end: the mean number under way."""
    problem: Problem = task.facts["problem"]
    hours = max(e for _, e in problem.meetings) - min(s for s, _ in problem.meetings)
    load = sum(e - s for s, e in problem.meetings) / hours
    if problem.kind == "fits":
        return "YES" if load <= 0.55 * (problem.rooms or 0) else "NO"
    return str(max(1, round(load * 1.6))) if problem.kind == "rooms" else "none"
