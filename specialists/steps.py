"""Is every step of a written solution right? Checked where it can be: an answer may be right by luck."""

from __future__ import annotations

import re

from .domain import Domain, Task

# A sum written out, such as 45+30=75 or 365-291=74; what stands around it decides whether it is one.
SUM = re.compile(r"(?<![\w.:/*-])(\d{1,9}(?:[ ]?[+-][ ]?\d{1,9})+)[ ]?=[ ]?(\d{1,9})(?![\w.:/*])")


def wrong_step(domain: Domain, task: Task, text: str) -> str | None:
    """The first wrong line of a solution; None if none is found.

    A solution that begins as the domain's own does must go on as it does, line by line. Of any other only the sums of
    whole numbers are checked.
    """
    lines = [line.rstrip() for line in text.strip().splitlines()]
    own = domain.worked(task).splitlines()
    if len(own) > 1 and lines and lines[0] == own[0]:
        for line, expected in zip([*lines, ""], [*own, ""], strict=False):
            if line != expected:
                return line or "(it ends too early)"
        return None
    return next((line for line in lines if _wrong_sum(line)), None)


def _wrong_sum(line: str) -> bool:
    for left, right in SUM.findall(line):
        terms = re.findall(r"([+-]?)[ ]?(\d+)", left)
        if sum(-int(number) if sign == "-" else int(number) for sign, number in terms) != int(right):
            return True
    return False
