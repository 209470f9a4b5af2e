"""The first experiment's problems, texts and parser, from its published parameters.

Its generator is not public, so the stream has its parameters and seeds and not its bytes: starts 9 to 15 h, 1 to 3 h
long, whole hours, half-open; YES when the meetings under way at once never exceed the rooms.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING, Any

from specialists.domain import Task
from specialists.scheduling import item
from specialists.scheduling.problems import Problem, answer, clock

if TYPE_CHECKING:
    from ..encode import Encoded

TEACHER, EXAMPLES, TEST = 42, 999, 123  # seeds: the teacher's problems, the student's examples, the test
LEVELS = {"easy": (2, 2, 3), "medium": (3, 4, 3), "hard": (4, 6, 4)}  # meetings from, to; rooms from 2 to
READ = 50  # characters that the lenient parser looks at; 20 in some stages of the experiment
CUT = 512  # tokens that a training text was cut to
STRATEGY = (
    "Sweep line: turn every meeting into a start and an end on one time line and sort these events. Go through them in "
    "order and keep count of the meetings under way: one more at a start, one less at an end. At equal times take ends "
    "before starts, since meetings that only touch do not conflict. Remember the largest count. The meetings fit if "
    "that count is at most the number of rooms."
)


def drawn(seed: int, counts: Mapping[str, int]) -> list[Problem]:
    """So many problems of each level, level after level, from Random(seed)."""
    rng = Random(seed)
    found = []
    for level, count in counts.items():
        low, high, rooms = LEVELS[level]
        for _ in range(count):
            starts = [rng.randint(9, 15) for _ in range(rng.randint(low, high))]
            meetings = tuple((60 * start, 60 * (start + rng.randint(1, 3))) for start in starts)
            found.append(Problem("fits", level, meetings, rng.randint(2, rooms)))
    return found


def evenly(n: int) -> dict[str, int]:
    """n problems spread over the levels, the first levels getting what is left over."""
    return {level: n // 3 + (at < n % 3) for at, level in enumerate(LEVELS)}


def task(problem: Problem, seed: int, index: int) -> Task:
    """A problem as an item of scheduling:seeds; how it is worded depends on seed and index only."""
    return item("scheduling:seeds", problem, Random(f"seeds-study/{seed}/{index}"))


def again(test: Sequence[Problem], train: Sequence[Problem]) -> dict[str, int]:
    """How many test problems are in train: with the meetings in any order, and at any hour of the day as well."""

    def fixed(problem: Problem) -> tuple[Any, ...]:
        return (problem.rooms, *sorted(problem.meetings))

    by_order, by_hour = {fixed(one) for one in train}, {one.key() for one in train}
    return {
        "any_order": sum(fixed(one) in by_order for one in test),
        "any_order_and_hour": sum(one.key() in by_hour for one in test),
    }


def strategy(long: bool) -> str:
    """What stands above every problem: STRATEGY, or the domain's whole method, which leaves no room for the answer."""
    if not long:
        return STRATEGY
    return files("specialists.scheduling").joinpath("strategy.md").read_text(encoding="utf-8").strip()


def plain(problem: Problem, long: bool) -> str:
    """The experiment's prompt as plain text: strategy, problem, and "Answer:" at the end."""
    meetings = "\n".join(
        f"Meeting {number}: {clock(start)} to {clock(end)}"
        for number, (start, end) in enumerate(problem.meetings, 1)
    )
    asked = f"Rooms: {problem.rooms}\n{meetings}\nCan all meetings be held?\nAnswer:"
    return f"Strategy:\n{strategy(long)}\n\nProblem:\n{asked}"


def rows(tokenizer: Any, problems: Sequence[Problem], long: bool) -> tuple[list[Encoded], int]:
    """Training rows as the experiment made them, and how many lost their answer to the cut at CUT tokens.

    Plain text and the bare answer: no template, no steps, no end token, and loss on every token but the first.
    """
    from ..encode import Encoded

    found, lost = [], 0
    for problem in problems:
        ids = tokenizer(f"{plain(problem, long)} {answer(problem)}", add_special_tokens=False).input_ids
        kept = ids[:CUT]
        lost += kept != ids
        found.append(Encoded(tuple(kept), 1))
    return found, lost


def lenient(text: str) -> str:
    """The experiment's parser: YES anywhere in the first READ characters, else NO, whatever the text says."""
    return "YES" if "YES" in text[:READ].upper() else "NO"


def says_neither(text: str) -> bool:
    """Whether the lenient parser's NO is a default: neither word stands in what it read."""
    return re.search(r"\b(YES|NO)\b", text[:READ], re.IGNORECASE) is None
