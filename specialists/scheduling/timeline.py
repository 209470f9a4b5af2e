"""Another written-out solution, for whether few meetings at half-hour times fit: every half hour is one letter.

With a hundred examples what slips is finding all that happens at a moment, four digits among many that look alike
(docs/training.md). So each meeting is copied, its times written as four digits and then as one letter each: G is seven
o'clock and g half past, H is eight, and so on to T. The day is then the alphabet, said from G to T, with no first or
last hour to be found, and what happens at a letter is where that letter stands: `+2=3`, meeting 2 starts and 3 rooms
are in use. Within a half hour the order does not matter, as the count is compared with the rooms once all have come.
"""

from __future__ import annotations

from .problems import Problem, answer
from .worked import hhmm

FIRST, LAST, STEP = 7 * 60, 20 * 60, 30  # minutes after midnight: G to T


def letter_of(minutes: int) -> str:
    """The letter of a half hour: A for one o'clock, a for half past one."""
    capital = chr(ord("A") + minutes // 60 - 1)
    return capital.lower() if minutes % 60 else capital


def timeline(problem: Problem, spans: tuple[str, ...]) -> str:
    """The solution of a "fits" problem as lines, ending in "Answer: ..."; `spans`: the meetings as the question has
    them. All times are half hours from FIRST to LAST."""
    lines = [f"Fit in {problem.rooms}"]
    for number, ((start, end), span) in enumerate(zip(problem.meetings, spans, strict=True), 1):
        lines += [f"{span} = {hhmm(start)}-{hhmm(end)}", f"#{number} {letter_of(start)} {letter_of(end)}"]
    used = 0
    for moment in range(FIRST, LAST + 1, STEP):
        line = f" {letter_of(moment)}"
        for number, (start, end) in enumerate(problem.meetings, 1):
            if moment in (start, end):
                used += 1 if start == moment else -1
                line += f" {'+' if start == moment else '-'}{number}={used}"
        if any(moment in meeting for meeting in problem.meetings):
            over = used > (problem.rooms or 0)
            line += f" {used}/{problem.rooms} {'over' if over else 'ok'}"
            if over:
                return "\n".join([*lines, line, f"Answer: {answer(problem)}"])
        lines.append(line)
    return "\n".join([*lines, f"Answer: {answer(problem)}"])
