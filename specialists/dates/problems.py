"""Questions about dates, and their exact answers from the standard library's calendar."""

from __future__ import annotations

from calendar import isleap, monthrange
from datetime import date, timedelta
from random import Random
from typing import Any

from ..domain import Task
from ..parsers import MONTHS, WEEKDAYS
from . import phrasings

# Kind and variant of 20 items in a row; leap years come half YES, half NO.
SCHEDULE: tuple[tuple[str, str], ...] = (
    ("weekday", ""),
    ("between", ""),
    ("shift", "days"),
    ("nth", ""),
    ("shift", "months"),
    ("weekday", ""),
    ("between", ""),
    ("leap", "YES"),
    ("nth", ""),
    ("shift", "days"),
    ("weekday", ""),
    ("between", ""),
    ("shift", "weeks"),
    ("nth", ""),
    ("shift", "months"),
    ("weekday", ""),
    ("between", ""),
    ("leap", "NO"),
    ("nth", ""),
    ("shift", "days"),
)
PLACES = ("first", "second", "third", "fourth", "last")
SPANS = {"easy": (1, 60), "medium": (61, 365), "hard": (366, 1095)}  # days between two dates
STEPS = {  # how far a date is moved, by unit
    "days": {"easy": (1, 20), "medium": (21, 60), "hard": (61, 120)},
    "weeks": {"easy": (1, 3), "medium": (4, 8), "hard": (9, 16)},
    "months": {"easy": (1, 6), "medium": (7, 12), "hard": (13, 18)},
}


def add_months(day: date, months: int) -> date:
    """The same day of another month, or that month's last day where it is too short."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    return date(year, month + 1, min(day.day, monthrange(year, month + 1)[1]))


def nth_weekday(year: int, month: int, place: str, weekday: str) -> date:
    """The date of, say, the third Friday of a month; place is one of PLACES."""
    first, length = monthrange(year, month)
    days = range(1 + (WEEKDAYS.index(weekday) - first) % 7, length + 1, 7)
    return date(year, month, days[-1] if place == "last" else days[PLACES.index(place)])


def _year(rng: Random) -> int:
    """Mostly the years one asks about; century years, with their own rule, oftener than by chance."""
    if rng.random() < 0.04:
        return rng.choice((1900, 2000, 2100))
    return rng.randint(1990, 2040) if rng.random() < 0.8 else rng.randint(1900, 2100)


def _day(rng: Random) -> date:
    year = _year(rng)
    return date(year, 1, 1) + timedelta(rng.randrange(365 + isleap(year)))


def _distance(year: int) -> str:
    """Difficulty of a year: how far it is from the years one has met most."""
    if 2000 <= year <= 2027:
        return "easy"
    return "medium" if 1990 <= year <= 2040 else "hard"


def _task(
    kind: str, question: str, answer: str, content: str, difficulty: str, label: str = "", **facts: Any
) -> Task:
    return Task("dates", kind, question, answer, f"{kind} {content}", difficulty, label or kind, facts)


def _weekday(rng: Random, _: str) -> Task:
    day = _day(rng)
    answer = WEEKDAYS[day.weekday()]
    question = phrasings.ask(rng, phrasings.WEEKDAY, d=phrasings.written(rng, day))
    return _task("weekday", question, answer, f"{day}", _distance(day.year), label=answer, day=f"{day}")


def _between(rng: Random, _: str) -> Task:
    difficulty = rng.choices(list(SPANS), (35, 45, 20))[0]
    start = _day(rng)
    end = start + timedelta(rng.randint(*SPANS[difficulty]))
    form = phrasings.date_form(rng)  # people keep to one form within a question
    question = phrasings.ask(rng, phrasings.BETWEEN, a=form(start), b=form(end))
    days = (end - start).days
    return _task("between", question, f"{days}", f"{start} {end}", difficulty, start=f"{start}", end=f"{end}")


def _shift(rng: Random, unit: str) -> Task:
    difficulty = rng.choices(list(STEPS[unit]), (35, 40, 25))[0]
    count = rng.randint(*STEPS[unit][difficulty])
    sign = rng.choice((1, -1))
    day = _day(rng)
    if unit == "months":
        if rng.random() < 0.25:  # days that a shorter month may lack
            day = day.replace(day=monthrange(day.year, day.month)[1])
        end = add_months(day, sign * count)
    else:
        end = day + timedelta(**{unit: sign * count})
    amount = phrasings.amount(rng, count, unit)
    templates = phrasings.AFTER if sign > 0 else phrasings.BEFORE
    question = phrasings.ask(rng, templates, d=phrasings.written(rng, day), n=amount)
    if unit == "months" and (day.day > 28 or rng.random() < 0.1):
        question += ("" if question[-1] in ".?" else ".") + rng.choice(phrasings.CLAMP)
    # Weeks are days by another name, so "2 weeks" and "14 days" are one problem.
    moved = f"{sign * count:+d} months" if unit == "months" else f"{(end - day).days:+d} days"
    facts: dict[str, Any] = {"day": f"{day}", "sign": sign, "count": count, "unit": unit}
    return _task("shift", question, f"{end}", f"{day} {moved}", difficulty, **facts)


def _leap(rng: Random, want: str) -> Task:
    """Years 1600 to 2999, since 1900 to 2100 hold too few century years to learn their rule from."""
    while True:
        if rng.random() < 0.12:
            year, difficulty = rng.randrange(1600, 3000, 100), "hard"
        elif rng.random() < 0.3:
            year, difficulty = rng.randint(1901, 2099), "easy"
        else:
            year, difficulty = rng.randint(1600, 2999), "medium"
        if isleap(year) == (want == "YES"):
            break
    question = phrasings.ask(rng, phrasings.LEAP, y=f"{year}")
    return _task("leap", question, want, f"{year}", difficulty, label=want, year=year)


def _nth(rng: Random, _: str) -> Task:
    place = rng.choice(PLACES)
    weekday = rng.choice(WEEKDAYS)
    year, month = _year(rng), rng.randint(1, 12)
    answer = nth_weekday(year, month, place, weekday)
    name = MONTHS[month - 1]
    question = phrasings.ask(
        rng,
        phrasings.NTH,
        p=phrasings.place(rng, place),
        w=weekday,
        m=name if rng.random() < 0.7 else name[:3],
        y=f"{year}",
    )
    difficulty = "hard" if place == "last" else _distance(year)
    content = f"{year}-{month:02d} {place} {weekday}"
    facts: dict[str, Any] = {"year": year, "month": month, "place": place, "weekday": weekday}
    return _task("nth", question, f"{answer}", content, difficulty, **facts)


_MAKERS = {"weekday": _weekday, "between": _between, "shift": _shift, "leap": _leap, "nth": _nth}


def make(kind: str, variant: str, rng: Random) -> Task:
    """A random item of a kind; the variant is the unit of a shift or the answer of a leap year question."""
    return _MAKERS[kind](rng, variant)
