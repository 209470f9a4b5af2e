"""The written-out solution a small model can follow: a sweep over the day that counts free rooms.

Every start and end is rewritten as a line of its own, `0900+A` or `1030-A`, so that finding what happens at a moment is
to look for that moment and copy what stands behind it. The rooms free at first and the last hour follow, next to the
first count and to the hours that need them. Then, hour by hour, the minutes at which anything happens are
listed (a lookup, not a sort), and under each hour one line a moment: who ends, who starts, and how many rooms are free
after each. Ends come first, since meetings that touch do not conflict. The rooms needed are the meetings under way at
the busiest moment (Kleinberg and Tardos, Algorithm Design, 4.1). A gap writes both numbers before it decides anything:
whether to borrow an hour (`10h05-15 borrow 09h65-15=50`), and whether the last start is early enough (`0950 0900 ok`).
"""

from __future__ import annotations

from collections.abc import Sequence

from .problems import Meeting, Problem, answer, clock

LETTERS = "ABCDEFGHIJKL"


def hhmm(minutes: int) -> str:
    return f"{minutes // 60:02d}{minutes % 60:02d}"


def span(meeting: Meeting) -> str:
    return f"{hhmm(meeting[0])}-{hhmm(meeting[1])}"


def worked(problem: Problem, spans: Sequence[str] = ()) -> str:
    """The solution as lines, ending in "Answer: ..."; `spans`: the meetings as the question has them, each copied
    before it is rewritten, which helps where few examples are all there is (docs/training.md)."""
    lines = [_header(problem)]
    for index, (start, end) in enumerate(problem.meetings):
        lines += spans[index : index + 1]
        lines += [f"{hhmm(start)}+{LETTERS[index]}", f"{hhmm(end)}-{LETTERS[index]}"]
    last = max(end for _, end in problem.meetings)
    lines.append(f"free {problem.rooms or 0} until {last // 60:02d}")
    lines += _sweep(problem)
    if problem.kind == "rooms":
        lines.append(f"How many: {answer(problem)}")
    lines.append(f"Answer: {answer(problem)}")
    return "\n".join(lines)


def _header(problem: Problem) -> str:
    if problem.kind == "fits":
        return f"Fit in {problem.rooms}"
    if problem.kind == "rooms":
        return "How many"
    return f"Start {problem.minutes} in {problem.rooms}, {span(problem.day)}"


def _sweep(problem: Problem) -> list[str]:
    """The lines of the sweep; it ends early where a meeting finds no room and none may be added."""
    lines: list[str] = []
    free, rooms, since = problem.rooms or 0, 0, problem.day[0]
    moments = sorted({moment for meeting in problem.meetings for moment in meeting})
    for hour in range(moments[0] // 60, moments[-1] // 60 + 1):
        within = [moment for moment in moments if moment // 60 == hour]
        lines.append(" ".join([f"{hour:02d}", *(f"{moment % 60:02d}" for moment in within)]))
        for moment in within:
            line, was_full = hhmm(moment), free == 0
            for (_, end), letter in zip(problem.meetings, LETTERS, strict=False):
                if end == moment:
                    free += 1
                    line += f"-{letter}{free}"
            for (start, _), letter in zip(problem.meetings, LETTERS, strict=False):
                if start == moment and free == 0:
                    if problem.kind == "fits":
                        return [*lines, f"{line}+{letter} over"]
                    rooms += 1
                    line += f"+{letter} new{rooms}"
                elif start == moment:
                    free -= 1
                    line += f"+{letter}{free}"
            if problem.kind == "slots" and was_full:
                since = moment
                line += " open"
            lines.append(line)
            if problem.kind == "slots" and free == 0:
                lines.append(_gap((since, moment), problem.minutes))
    if problem.kind == "slots":
        lines.append(_gap((since, problem.day[1]), problem.minutes))
    return lines


def _gap(gap: Meeting, minutes: int) -> str:
    """Does a meeting fit between two moments: the later one less the minutes, hours borrowed first, and the earlier."""
    since, until = gap
    if since == until:
        return f"{span(gap)} no"
    hour, minute = divmod(until, 60)
    steps = f"{hour:02d}h{minute:02d}-{minutes}"
    while minute < minutes:
        hour, minute = hour - 1, minute + 60
        steps += f" borrow {hour:02d}h{minute}-{minutes}"
    last = until - minutes
    verdict = "no" if last < since else f"ok {clock(since)}-{clock(last)}"
    return f"{span(gap)} {steps}={last % 60:02d} {hhmm(last)} {hhmm(since)} {verdict}"
