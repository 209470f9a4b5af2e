"""Another written-out solution, for whether few meetings fit: every moment asks every meeting in turn.

Looking up all that happens at a moment means finding the next match again and again, and forgetting none; where a
hundred examples are all there is, that is what slips (docs/training.md). Here each step is about one meeting and one
moment, `1030 A. B-1 C+2`: does it end, start, or neither, and how many rooms are in use after it. Within a moment the
order does not matter, as the count is compared with the rooms once all have been asked: `2/2 ok`. That takes longer than
the sweep of worked.py, the more so the more meetings there are.
"""

from __future__ import annotations

from .problems import Problem, answer
from .worked import LETTERS, hhmm


def scan(problem: Problem, spans: tuple[str, ...] = ()) -> str:
    """The solution of a "fits" problem as lines, ending in "Answer: ..."; `spans`: the meetings as the question has
    them, each copied before it is rewritten."""
    lines = [f"Fit in {problem.rooms}"]
    for index, (start, end) in enumerate(problem.meetings):
        lines += [spans[index]] if spans else []
        lines += [f"{hhmm(start)}+{LETTERS[index]}", f"{hhmm(end)}-{LETTERS[index]}"]
    last = max(end for _, end in problem.meetings)
    lines.append(f"{len(problem.meetings)} meetings, {problem.rooms} rooms until {last // 60:02d}")
    moments = sorted({moment for meeting in problem.meetings for moment in meeting})
    used = 0
    for hour in range(moments[0] // 60, moments[-1] // 60 + 1):
        within = [moment for moment in moments if moment // 60 == hour]
        lines.append(" ".join([f"{hour:02d}", *(f"{moment % 60:02d}" for moment in within)]))
        for moment in within:
            line = hhmm(moment)
            for (start, end), letter in zip(problem.meetings, LETTERS, strict=False):
                used += (start == moment) - (end == moment)
                sign = "+" if start == moment else "-" if end == moment else "."
                line += f" {letter}{sign}" + (str(used) if sign != "." else "")
            over = used > (problem.rooms or 0)
            lines.append(f"{line} {used}/{problem.rooms} {'over' if over else 'ok'}")
            if over:
                return "\n".join([*lines, f"Answer: {answer(problem)}"])
    return "\n".join([*lines, f"Answer: {answer(problem)}"])
