"""The written-out solution a small model can follow.

Every operand stands on the page before the decision that needs it: times are rewritten as HHMM, meetings are put in
order by looking them up hour by hour (a lookup, not a sort), and each meeting compares its start with the end of
every room in use before it takes one (greedy interval partitioning: Kleinberg and Tardos, Algorithm Design, 4.1).
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
    lines += [span(meeting) for meeting in problem.meetings]
    lines.append("By hour")
    lines += _by_hour(problem)
    lines.append("Rooms")
    sweep, rooms, full = _sweep(problem)
    lines += sweep
    if problem.kind == "slots":
        lines.append("Gaps")
        lines += _gaps(problem, full)
    else:
        used = f"Used {' '.join(LETTERS[:rooms])} = {rooms}"
        lines.append(f"{used}, have {problem.rooms}" if problem.kind == "fits" else used)
    lines.append(f"Answer: {answer(problem)}")
    return "\n".join(lines)


def _header(problem: Problem) -> str:
    if problem.kind == "fits":
        return f"Fit in {problem.rooms}"
    if problem.kind == "rooms":
        return "How many"
    return f"Start {problem.minutes} in {problem.rooms}, {span(problem.day)}"


def _by_hour(problem: Problem) -> list[str]:
    ordered = sorted(problem.meetings)
    hours = range(ordered[0][0] // 60, ordered[-1][0] // 60 + 1)
    return [" ".join([f"{hour:02d}", *(span(m) for m in ordered if m[0] // 60 == hour)]) for hour in hours]


def _sweep(problem: Problem) -> tuple[list[str], int, list[Meeting]]:
    """Lines, rooms used, and the periods in which every room is taken (slots only)."""
    ends: list[int] = []
    lines, full = [], []
    for start, end in sorted(problem.meetings):
        checks = [
            f" {LETTERS[i]}{hhmm(until)} {'free' if until <= start else 'busy'}"
            for i, until in enumerate(ends)
        ]
        busy = [until for until in ends if until > start]
        room = next((i for i, until in enumerate(ends) if until <= start), len(ends))
        ends[room : room + 1] = [end]
        line = f"{span((start, end))}:{''.join(checks)} > {LETTERS[room]}{hhmm(end)}"
        if problem.kind == "slots" and len(busy) + 1 == problem.rooms:
            full.append((start, min([end, *busy])))
            line += f" full {span(full[-1])}"
        lines.append(line)
    return lines, len(ends), full


def _gaps(problem: Problem, full: list[Meeting]) -> list[str]:
    """One line a gap: its end less the new meeting's minutes, borrowing hours first, against its beginning."""
    lines, since = [], problem.day[0]
    for start, end in [*full, (problem.day[1], problem.day[1])]:
        hour, minute = divmod(start, 60)
        while minute < problem.minutes:
            hour, minute = hour - 1, minute + 60
        last = start - problem.minutes
        verdict = "ok" if last >= since else "no"
        lines.append(
            f"{span((since, start))}: {hour:02d}h{minute:02d}-{problem.minutes}={last % 60:02d}"
            f" > {hhmm(last)} {verdict}"
        )
        since = end
    return lines
