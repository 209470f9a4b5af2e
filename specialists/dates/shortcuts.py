"""Answers without the work: what a specialist has to beat."""

from __future__ import annotations

from datetime import date

from ..domain import Task
from ..parsers import WEEKDAYS
from .problems import PLACES

# The most frequent answers of 20,000 training items, kind by kind; dates hardly ever repeat.
_CONSTANTS = {
    "weekday": "Saturday",
    "leap": "NO",
    "between": "10",
    "shift": "2001-06-30",
    "nth": "2034-01-28",
}
MONTH = 30.4375  # mean length in days (Julian year / 12)


def constants(task: Task) -> str:
    """One fixed answer for each kind."""
    return _CONSTANTS[task.kind]


def _months(day: date) -> int:
    return day.year * 12 + day.month - 1


def _iso(months: int, day: int) -> str:
    return f"{months // 12}-{months % 12 + 1:02d}-{day:02d}"


def _moved(day: date, sign: int, count: int, unit: str) -> str:
    """Months are counted and the day is kept; days walk through months of mean length."""
    if unit == "months":
        return _iso(_months(day) + sign * count, day.day)
    months, total = _months(day), float(day.day + sign * count * (7 if unit == "weeks" else 1))
    while total > MONTH:
        months, total = months + 1, total - MONTH
    while total < 0.5:
        months, total = months - 1, total + MONTH
    return _iso(months, max(1, round(total)))


def rules_of_thumb(task: Task) -> str:
    """Every fourth year is a leap year, months have their mean length, and every month begins on a Monday."""
    facts = task.facts
    if task.kind == "leap":
        return "NO" if facts["year"] % 4 else "YES"
    if task.kind == "between":
        start, end = (date.fromisoformat(facts[name]) for name in ("start", "end"))
        return str(round((_months(end) - _months(start)) * MONTH + end.day - start.day))
    if task.kind == "shift":
        return _moved(date.fromisoformat(facts["day"]), facts["sign"], facts["count"], facts["unit"])
    if task.kind == "weekday":
        return WEEKDAYS[(date.fromisoformat(facts["day"]).day - 1) % 7]
    week = 3 if facts["place"] == "last" else PLACES.index(facts["place"])
    return _iso(facts["year"] * 12 + facts["month"] - 1, 1 + WEEKDAYS.index(facts["weekday"]) + 7 * week)
