"""Meeting-room problems: a generator with balanced labels and an exact solver.

Times are minutes after midnight; a meeting is (start, end) and half-open, so touching meetings do not conflict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from random import Random

Meeting = tuple[int, int]

LENGTHS = (15, 20, 30, 45, 60, 90)  # minutes a new meeting may last
HARDEST = {"easy": (2, 4), "medium": (5, 8), "hard": (9, 12)}  # meetings, both ends included


@dataclass(frozen=True)
class Problem:
    """`kind` is fits, rooms or slots; `rooms` is None for rooms; `day` and `minutes` only for slots."""

    kind: str
    difficulty: str
    meetings: tuple[Meeting, ...]
    rooms: int | None = None
    day: Meeting = (0, 0)
    minutes: int = 0

    def key(self) -> str:
        """Canonical content: order of the meetings and the hour at which it all begins do not matter."""
        zero = self.day[0] if self.kind == "slots" else min(start for start, _ in self.meetings)
        body = " ".join(f"{start - zero}-{end - zero}" for start, end in sorted(self.meetings))
        return f"{self.kind} k{self.rooms} {body} day{self.day[1] - self.day[0]} m{self.minutes}"


def peak(meetings: Sequence[Meeting]) -> int:
    """The largest number of meetings under way at once: the rooms needed."""
    edges = sorted([(start, 1) for start, _ in meetings] + [(end, -1) for _, end in meetings])
    most = now = 0
    for _, step in edges:  # at one time, -1 sorts before +1: half-open
        now += step
        most = max(most, now)
    return most


def full_periods(meetings: Sequence[Meeting], rooms: int) -> list[Meeting]:
    """The periods in which all rooms are taken, in order; touching ones are not merged."""
    periods = []
    for start, _ in sorted(meetings):
        under_way = [e for s, e in meetings if s <= start < e]
        if len(under_way) >= rooms:
            periods.append((start, min(under_way)))
    return sorted(set(periods))


def free_starts(problem: Problem) -> list[Meeting]:
    """Ranges of start times (first, last), both included, at which a new meeting of `minutes` finds a room."""
    assert problem.rooms
    ranges, since = [], problem.day[0]
    for start, end in [*full_periods(problem.meetings, problem.rooms), (problem.day[1], problem.day[1])]:
        if start - problem.minutes >= since:
            ranges.append((since, start - problem.minutes))
        since = max(since, end)
    return ranges


def clock(minutes: int) -> str:
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def answer(problem: Problem) -> str:
    """The exact answer in the parser's canonical form."""
    if problem.kind == "fits":
        assert problem.rooms
        return "YES" if peak(problem.meetings) <= problem.rooms else "NO"
    if problem.kind == "rooms":
        return str(peak(problem.meetings))
    return ", ".join(f"{clock(a)}-{clock(b)}" for a, b in free_starts(problem)) or "none"


def label(problem: Problem) -> str:
    """The class that is balanced: YES/NO, rooms needed, or how many ranges are free (3+ counted as one)."""
    if problem.kind == "slots":
        return f"slots {min(3, len(free_starts(problem)))}"
    return f"{problem.kind} {answer(problem)}"


def _meetings(rng: Random, n: int, day: Meeting, step: int, longest: int) -> tuple[Meeting, ...]:
    """n meetings within the day; about a third copy, touch or share an edge with an earlier one."""
    found: list[Meeting] = []
    while len(found) < n:
        start = rng.randrange(day[0], day[1] - step + 1, step)
        length = rng.randrange(min(longest, max(step, 15)), longest + 1, step)
        if found and rng.random() < 0.35:
            other = rng.choice(found)
            start = rng.choice((other[1], other[0], other[0] - length))
            length = other[1] - other[0] if rng.random() < 0.2 else length
        if day[0] <= start and start + length <= day[1]:
            found.append((start, start + length))
    return tuple(found)


def _wanted(rng: Random, kind: str, n: int) -> str:
    if kind == "fits":
        return rng.choice(("fits YES", "fits NO"))
    if kind == "rooms":
        return f"rooms {rng.randint(1, min(n, 6))}"
    return f"slots {rng.randint(0, 3)}"


def full_range(rng: Random) -> Problem:
    """All three kinds, 2-12 meetings at 5-minute steps; rooms and number of meetings say nothing of the label."""
    kind = rng.choice(("fits", "rooms", "slots"))
    difficulty = rng.choice(tuple(HARDEST))
    n = rng.randint(*HARDEST[difficulty])
    step = rng.choice((5, 5, 15, 30))
    return _search(rng, kind, difficulty, n, step)


def half_hour(rng: Random) -> Problem:
    """Fits-or-not, 2-8 meetings at half-hour times."""
    n = rng.randint(2, 8)
    return _search(rng, "fits", "easy" if n <= 4 else "medium", n, 30)


def seeds(rng: Random) -> Problem:
    """The distribution of the project's first experiment, label left as it falls (88 % YES).

    Starts 9-15 h, 1-3 h long, whole hours; easy 2 meetings / 2-3 rooms, medium 3-4 / 2-3, hard 4-6 / 2-4.
    """
    difficulty = rng.choice(("easy", "medium", "hard"))
    low, high, rooms = {"easy": (2, 2, 3), "medium": (3, 4, 3), "hard": (4, 6, 4)}[difficulty]
    starts = [rng.randint(9, 15) for _ in range(rng.randint(low, high))]
    meetings = tuple((60 * s, 60 * (s + rng.randint(1, 3))) for s in starts)
    return Problem("fits", difficulty, meetings, rng.randint(2, rooms))


def _search(rng: Random, kind: str, difficulty: str, n: int, step: int) -> Problem:
    """Draw until the label is the one wanted, so that labels are balanced whatever n and rooms are."""
    wanted = _wanted(rng, kind, n)
    rooms = None if kind == "rooms" else rng.randint(1, min(n - 1, 5 if kind == "fits" else 3))
    for tries in count(1):
        if kind != "fits" and tries % 200 == 0:  # a rare combination, such as 12 meetings that never overlap
            n = rng.randint(*HARDEST[difficulty])
            wanted = _wanted(rng, kind, n)
            rooms = rooms and rng.randint(1, min(n - 1, 3))
        first = rng.choice((7, 8, 8, 9, 9, 10)) * 60
        hours = rng.randint(3, 10) if kind != "slots" else rng.randint(5, 10)
        if wanted == "slots 0" and n <= 8:  # a short day: few meetings rarely fill a long one
            hours = rng.randint(2, 4)
        day = (first, first + 60 * hours)
        longest = rng.choice((30, 60, 60, 90, 120, 180))
        minutes = rng.choice(LENGTHS) if kind == "slots" else 0
        if step == 30 and minutes in (15, 20, 45):
            minutes = 30
        problem = Problem(
            kind,
            difficulty,
            _meetings(rng, n, day, step, longest),
            rooms,
            day if minutes else (0, 0),
            minutes,
        )
        needed = peak(problem.meetings)
        if kind == "slots" and rooms and needed > rooms:
            continue
        # Answers that leave slack are easy; keep only a third of them.
        if kind == "fits" and rooms and needed not in (rooms, rooms + 1) and rng.random() < 0.67:
            continue
        if label(problem) == wanted:
            return problem
    raise AssertionError("unreachable: count() has no end")
