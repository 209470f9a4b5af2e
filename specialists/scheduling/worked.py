"""The written-out solution a small model can follow: a sweep over the day that counts free rooms.

Meetings are rewritten as `0900+A 1030-A`: every time is followed by what happens then, so that finding who starts or
ends at a moment is to look for the moment and copy what stands behind it. Then, hour by hour, the minutes at which
anything happens are listed (a lookup, not a sort), and under each hour one line a moment: who ends, who starts, and how
many rooms are free after each. Ends come first, since meetings that touch do not conflict. The rooms needed are the
meetings under way at the busiest moment (Kleinberg and Tardos, Algorithm Design, 4.1). Only a gap's last step compares
two times, side by side.
"""

from __future__ import annotations

from .problems import Meeting, Problem, answer

LETTERS = "ABCDEFGHIJKL"


def hhmm(minutes: int) -> str:
    return f"{minutes // 60:02d}{minutes % 60:02d}"


def span(meeting: Meeting) -> str:
    return f"{hhmm(meeting[0])}-{hhmm(meeting[1])}"


def worked(problem: Problem) -> str:
    """The solution as lines, ending in "Answer: ..."."""
    lines = [_header(problem)]
    lines += [
        f"{hhmm(start)}+{letter} {hhmm(end)}-{letter}"
        for (start, end), letter in zip(problem.meetings, LETTERS, strict=False)
    ]
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
    steps = [f"{hour:02d}h{minute:02d}{_sign(minute, minutes)}{minutes}"]
    while minute < minutes:
        hour, minute = hour - 1, minute + 60
        steps.append(f"{hour:02d}h{minute}{_sign(minute, minutes)}{minutes}")
    last = until - minutes
    steps.append(f"{minute}-{minutes}={last % 60:02d}")
    verdict = "no" if last < since else "ok"
    return f"{span(gap)} {' '.join(steps)} {hhmm(last)}{_sign(last, since)}{hhmm(since)} {verdict}"


def _sign(a: int, b: int) -> str:
    return "<" if a < b else ">" if a > b else "="
