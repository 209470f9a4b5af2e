"""Shortcuts that skip the work: what a model must beat besides the majority class."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from ..domain import Task
from ..parsers import MONTHS, WEEKDAYS

_TIME = re.compile(r"\b(\d{1,2})(?::(\d\d))?(?: ?([ap]m)|(?<=:\d\d))")
_STEP = re.compile(r"\b(\d+)[ -]min(?!utes (?:past|before))")
_HOURS = re.compile(r"(?:every|each) (\d+) hours")
_PAST = re.compile(r"\bminute (\d+)| :(\d\d)\b|\b(\d+) (?:minutes )?past")
_DAY = re.compile(r"\b(\d+)(?:st|nd|rd|th)\b|\bdays? (\d+)")
_NAMED = {"weekday": "1-5", "weekend": "6,0"}


def _times(asked: str) -> list[tuple[int, int]]:
    """Hour and minute of every time of day written in digits."""
    found = []
    for hour, minute, half in _TIME.findall(asked.lower()):
        found.append((int(hour) % 12 + 12 * (half == "pm") if half else int(hour), int(minute or 0)))
    return found


def midnight(task: Task) -> str:
    """Always the best-known schedule: daily at midnight."""
    return "0 0 * * *"


def first_time(task: Task) -> str:
    """The first time of day in the question, every day; midnight if there is none."""
    hour, minute = (_times(task.question) or [(0, 0)])[0]
    return f"{minute} {hour} * * *"


def keywords(task: Task) -> str:
    """Each field a list of all the words that could belong to it, blind to ranges, windows and exceptions."""
    asked = task.question.lower()
    step, hours, past = (pattern.search(asked) for pattern in (_STEP, _HOURS, _PAST))
    times = _times(asked)
    minute, hour = "0", "*"
    if times:
        minute, hour = str(times[0][1]), _joined([hour for hour, _ in times])
    elif past:
        minute = str(int(next(one for one in past.groups() if one)))
    minute = f"*/{step[1]}" if step else minute
    hour = f"*/{hours[1]}" if hours else hour
    days = [int(nth or number) for nth, number in _DAY.findall(asked)]
    named = next((cron for word, cron in _NAMED.items() if word in asked), None)
    weekday = named or _joined([place % 7 for place in _named(asked, WEEKDAYS)])
    return f"{minute} {hour} {_joined(days)} {_joined(_named(asked, MONTHS))} {weekday}"


def _named(asked: str, names: Sequence[str]) -> list[int]:
    """The numbers, from 1, of the names in the question."""
    return [place for place, name in enumerate(names, 1) if re.search(rf"\b{name[:3].lower()}", asked)]


def _joined(values: Sequence[int]) -> str:
    """A list in cron, "*" if it is empty."""
    return ",".join(map(str, values)) or "*"


SHORTCUTS: Mapping[str, Callable[[Task], str]] = {
    "daily at midnight": midnight,
    "first time of day, every day": first_time,
    "keywords as lists": keywords,
}
