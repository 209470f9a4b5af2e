"""When a five-field cron expression fires: the exact ground that answers are graded on."""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from functools import lru_cache

from croniter import croniter

FIELDS = ("minute", "hour", "day", "month", "weekday")
BOUNDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))

_NAMES = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat"
_ITEM = rf"(?:\*|\d{{1,2}}|{_NAMES})(?:-(?:\d{{1,2}}|{_NAMES}))?(?:/\d{{1,2}})?"
_FIELD = re.compile(rf"{_ITEM}(?:,{_ITEM})*", re.IGNORECASE)
_RANGE = re.compile(r"(\d+)-(\d+)")
_LEAP_YEAR = 2028


@dataclass(frozen=True)
class Firing:
    """Minutes, hours and dates at which a schedule fires.

    `dates` holds (month, day, weekday) triples. Over 400 Gregorian years each day of a leap year falls on
    each weekday, so two schedules fire at the same times for ever exactly when their Firings are equal.
    """

    minutes: frozenset[int]
    hours: frozenset[int]
    dates: frozenset[tuple[int, int, int]]


def expand(expression: str) -> list[frozenset[int] | None] | None:
    """The values of each of the five fields (None where every value fits); None if crontab would refuse it.

    Only what crontab(5) of Vixie cron knows: numbers, names, lists, ranges that run upwards, steps. The
    extensions of croniter (L, W, #, H, R, @daily, ranges that wrap) are refused, as a crontab would.
    """
    fields = expression.split()
    if len(fields) != len(FIELDS) or not all(_FIELD.fullmatch(one) for one in fields):
        return None
    if any(int(low) > int(high) for one in fields for low, high in _RANGE.findall(one)):
        return None
    try:
        expanded, _ = croniter.expand(expression)
    except ValueError:  # the root of croniter's own errors
        return None
    found: list[frozenset[int] | None] = []
    for values, (low, high) in zip(expanded, BOUNDS, strict=True):
        if values == ["*"]:
            found.append(None)
        elif all(isinstance(value, int) and low <= value <= high for value in values):
            found.append(frozenset(values))
        else:
            return None
    return found


@lru_cache(maxsize=4096)
def firing(expression: str) -> Firing | None:
    """When an expression fires, or None if it is malformed.

    A date fires if it fits both day fields, or either of them when both are restricted: crontab(5).
    """
    found = expand(expression)
    if found is None:
        return None
    minutes, hours, days, months, weekdays = found
    either = days is not None and weekdays is not None

    def fires(day: int, weekday: int) -> bool:
        by_day, by_weekday = days is None or day in days, weekdays is None or weekday in weekdays
        return by_day or by_weekday if either else by_day and by_weekday

    return Firing(
        minutes=frozenset(range(60)) if minutes is None else minutes,
        hours=frozenset(range(24)) if hours is None else hours,
        dates=frozenset(
            (month, day, weekday)
            for month in (range(1, 13) if months is None else months)
            for day in range(1, monthrange(_LEAP_YEAR, month)[1] + 1)
            for weekday in range(7)
            if fires(day, weekday)
        ),
    )


def same(one: str, other: str) -> bool:
    """Whether two expressions fire at the same times for ever; a malformed one equals nothing."""
    left, right = firing(one), firing(other)
    return left is not None and left == right


def canonical(expression: str) -> str:
    """The schedule with all spelling removed: sorted values of each field, or * where every value fits."""
    found = expand(expression)
    if found is None:
        raise ValueError(f"{expression!r} is not a cron expression")
    return " ".join("*" if one is None else ",".join(map(str, sorted(one))) for one in found)
