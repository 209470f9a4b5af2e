"""How people write dates and ask about them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from random import Random

from ..parsers import MONTHS

WEEKDAY = (
    "What day of the week was {d}?",
    "What day of the week is {d}?",
    "On which weekday does {d} fall?",
    "Which day of the week did {d} fall on?",
    "{d}: which weekday is that?",
    "Tell me the weekday of {d}.",
    "Is {d} a Monday, a Tuesday, or which other day?",
    "weekday of {d}",
    "I was born on {d}. Which day of the week was it?",
)
BETWEEN = (
    "How many days are there between {a} and {b}?",
    "How many days are there from {a} to {b}?",
    "How many days after {a} is {b}?",
    "How many days before {b} is {a}?",
    "Count the days from {a} until {b}.",
    "How many days passed between {b} and {a}?",
    "What is the difference in days between {a} and {b}?",
    "A project ran from {a} to {b}. How many days later did it end than it began?",
    "days between {a} and {b}",
)
AFTER = (
    "What date is {n} after {d}?",
    "What is the date {n} after {d}?",
    "Add {n} to {d}.",
    "Which date do you get when you add {n} to {d}?",
    "What is {d} plus {n}?",
    "An invoice of {d} is due {n} later. On which date?",
    "Starting from {d}, go forward {n}. Which date is it?",
    "{d} + {n}",
)
BEFORE = (
    "What date is {n} before {d}?",
    "What was the date {n} before {d}?",
    "Subtract {n} from {d}.",
    "Which date do you get when you take {n} off {d}?",
    "What is {d} minus {n}?",
    "The event is on {d}; tickets went on sale {n} earlier. On which date?",
    "Starting from {d}, go back {n}. Which date is it?",
    "{d} - {n}",
)
CLAMP = (
    " If that month is too short, take its last day.",
    " Use the last day of the month if the day does not exist.",
    " If there is no such day, take the end of the month.",
)
LEAP = (
    "Is {y} a leap year?",
    "Was {y} a leap year?",
    "Does {y} have a February 29?",
    "Is there a 29th of February in {y}?",
    "Does the year {y} have 366 days?",
    "Tell me whether {y} is a leap year.",
    "{y} leap year?",
)
NTH = (
    "What is the date of the {p} {w} of {m} {y}?",
    "When is the {p} {w} in {m} {y}?",
    "Which date is the {p} {w} of {m} {y}?",
    "We meet on the {p} {w} of {m} {y}. Give the date.",
    "In {m} {y}, on which date does the {p} {w} fall?",
    "Find the {p} {w} in {m} {y}.",
    "{p} {w} of {m} {y}",
)
_WORDS = (
    *("one", "two", "three", "four", "five", "six"),
    *("seven", "eight", "nine", "ten", "eleven", "twelve"),
)
_ORDINALS = {"first": "1st", "second": "2nd", "third": "3rd", "fourth": "4th"}


def _ordinal(day: int) -> str:
    tail = "th" if 10 < day < 14 else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{tail}"


def _name(day: date) -> str:
    return MONTHS[day.month - 1]


# Only forms that one cannot misread: the month is a name, or the order is year, month, day.
FORMS: tuple[Callable[[date], str], ...] = (
    date.isoformat,
    lambda day: f"{day:%Y/%m/%d}",
    lambda day: f"{_name(day)} {day.day}, {day.year}",
    lambda day: f"{day.day} {_name(day)} {day.year}",
    lambda day: f"{day.day} {_name(day)[:3]} {day.year}",
    lambda day: f"{_name(day)[:3]} {_ordinal(day.day)} {day.year}",
    lambda day: f"{_name(day)} {_ordinal(day.day)}, {day.year}",
    lambda day: f"{_name(day)[:3]} {day.day}, {day.year}",
    lambda day: f"the {_ordinal(day.day)} of {_name(day)} {day.year}",
)


def date_form(rng: Random) -> Callable[[date], str]:
    """One way of writing dates; every second time the plain ISO or "March 5, 2024" way."""
    return rng.choice((FORMS[0], FORMS[2])) if rng.random() < 0.3 else rng.choice(FORMS)


def written(rng: Random, day: date) -> str:
    """A date in one of the FORMS."""
    return date_form(rng)(day)


def amount(rng: Random, count: int, unit: str) -> str:
    """ "3 weeks", "three weeks", "1 month"; the unit is given in the plural."""
    number = _WORDS[count - 1] if count <= len(_WORDS) and rng.random() < 0.25 else f"{count}"
    return f"{number} {unit.removesuffix('s') if count == 1 else unit}"


def place(rng: Random, name: str) -> str:
    """ "third" or "3rd"; "last" stays."""
    return _ORDINALS.get(name, name) if rng.random() < 0.3 else name


def ask(rng: Random, templates: tuple[str, ...], **slots: str) -> str:
    """A filled-in template, starting with a capital, or now and then all in lower case as typed in haste."""
    question = rng.choice(templates).format(**slots)
    return question.lower() if rng.random() < 0.15 else question[0].upper() + question[1:]
