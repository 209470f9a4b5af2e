"""Phrases for the dates: what settles the day, month and weekday fields."""

from __future__ import annotations

import re
from calendar import monthrange
from random import Random

from ..parsers import MONTHS, WEEKDAYS
from .pieces import Piece, listed, ordinal, piece, some

PHRASES: dict[str, tuple[str, ...]] = {
    "weekday": ("on {d}s", "every {d}", "each {d}", "weekly on {d}", "once a week on {d}"),
    "weekdays": ("on weekdays", "every weekday", "weekdays only"),
    "weekend": ("on weekends", "every weekend day", "at weekends", "weekends only"),
    "weekday range": ("from {a} to {b}", "{a} through {b}", "{a} to {b}"),
    "weekday list": ("on {ds}", "every {ds}", "only on {ds}"),
    "not weekday": ("every day except {d}", "on every day but {d}", "every day of the week except {d}"),
    "not weekdays": ("every weekday except {d}", "on weekdays but not on {d}"),
    "day": ("on the {o}", "on day {n}", "on the {o} day"),
    "days": ("on the {os}", "on days {ns}"),
    "day range": ("from the {a} to the {b}", "on days {m} through {n}"),
    "first days": ("on the first {n} days", "during the first {n} days"),
    "parity": ("on odd-numbered days", "on even-numbered days", "on odd days", "on even days"),
    "of the month": ("of every month", "of each month", "of the month"),
    "monthly": (
        "monthly on the {o}",
        "once a month on the {o}",
        "every month on the {o}",
        "on the {o} monthly",
    ),
    "month": ("in {ms}", "only in {ms}", "during {ms}"),
    "month range": ("from {a} to {b}", "from {a} through {b}", "{a} through {b}"),
    "every months": ("every {o} month starting in {a}", "every {n} months starting in {a}"),
    "quarter": ("of every quarter", "of each quarter"),
    "yearly": (
        "every year on {m} {n}",
        "yearly on {n} {m}",
        "once a year on {m} {o}",
        "annually on the {o} of {m}",
        "on {m} {n}",
        "each {m} {o}",
        "on the {o} of {m}",
        "on {m} {o}",
    ),
}

SPANS = {  # names of parts of the year, first month, last month
    "the first quarter": (1, 3),
    "the second quarter": (4, 6),
    "the third quarter": (7, 9),
    "the fourth quarter": (10, 12),
    "the first half of the year": (1, 6),
    "the second half of the year": (7, 12),
}
QUARTERS = (1, 4, 7, 10)


ONCE = re.compile(r"weekly|once|monthly|every month|yearly|year|annually")


def pick(rng: Random, name: str, once: bool) -> str:
    """A phrase; those that say how often ("monthly on ...") only where nothing contradicts them."""
    return rng.choice([one for one in PHRASES[name] if once or not ONCE.search(one)])


def joined(values: list[int]) -> str:
    """[1, 3] -> "1,3", a list in cron."""
    return ",".join(map(str, values))


def weekday_names(rng: Random) -> list[str]:
    """Names of the weekdays with Sunday at 0, as Monday or as Mon."""
    names = (WEEKDAYS[6], *WEEKDAYS[:6])
    return [*names] if rng.random() < 0.75 else [name[:3] for name in names]


def weekday(rng: Random, once: bool) -> Piece:
    """Days of the week; `once` if the time of day allows "weekly"."""
    names = weekday_names(rng)
    choice = rng.random()
    if choice < 0.15:
        text = rng.choice(PHRASES["weekdays"])
        return piece(text, weekday=("weekdays", "1-5"))
    if choice < 0.25:
        text = rng.choice(PHRASES["weekend"])
        return piece(text, weekday=("weekend = Saturday, Sunday", "6,0"))
    if choice < 0.5:
        one = rng.randrange(7)
        name = WEEKDAYS[one - 1]  # "on Mons" is not English
        return piece(pick(rng, "weekday", once).format(d=name), weekday=(name, str(one)))
    if choice < 0.65:
        first = rng.randrange(1, 6)
        last = rng.randrange(first + 1, 8 if first > 1 else 7)  # Monday to Sunday restricts nothing
        first, last = (1, 5) if rng.random() < 0.3 else (first, last)
        text = rng.choice(PHRASES["weekday range"]).format(a=names[first], b=names[last % 7])
        seen = f"{names[first]} = {first}, {names[last % 7]} = {last % 7}"
        # Sunday is 0, and not every crontab takes 7: a range that ends on Sunday is written out.
        cron = f"{first}-{last}" if last < 7 else joined([*range(first, 7), 0])
        return piece(text, weekday=(seen, cron))
    if choice < 0.75:
        one = rng.randrange(7)
        text = rng.choice(PHRASES["not weekday"]).format(d=names[one])
        return piece(
            text, weekday=(f"not {names[one]} = {one}", joined([day for day in range(7) if day != one]))
        )
    if choice < 0.8:
        one = rng.randrange(1, 6)
        text = rng.choice(PHRASES["not weekdays"]).format(d=names[one])
        seen = f"weekdays, not {names[one]} = {one}"
        return piece(text, weekday=(seen, joined([day for day in range(1, 6) if day != one])))
    days = some(rng, (1, 2, 3, 4, 5, 6, 0), 2, 4)
    phrase = rng.choice(PHRASES["weekday list"])
    plural = phrase.startswith("on ") and names[1] == "Monday" and rng.random() < 0.5
    text = phrase.format(ds=listed([names[day] + "s" * plural for day in days]))
    return piece(text, weekday=(", ".join(f"{names[day]} = {day}" for day in days), joined(days)))


def month_names(rng: Random) -> list[str]:
    """Names of the months with January at 1, as January or as Jan."""
    names = ("", *MONTHS)
    return [*names] if rng.random() < 0.8 else [name[:3] for name in names]


def month(rng: Random) -> Piece:
    """Months of the year."""
    names = month_names(rng)
    choice = rng.random()
    if choice < 0.4:
        one = rng.randrange(1, 13)
        return piece(rng.choice(PHRASES["month"]).format(ms=names[one]), month=(names[one], str(one)))
    if choice < 0.6:
        chosen = some(rng, range(1, 13), 2, 3)
        text = rng.choice(PHRASES["month"]).format(ms=listed([names[one] for one in chosen]))
        return piece(text, month=(", ".join(f"{names[one]} = {one}" for one in chosen), joined(chosen)))
    if choice < 0.75:
        name = rng.choice(list(SPANS))
        first, last = SPANS[name]
        seen = f"{name} = {MONTHS[first - 1]} to {MONTHS[last - 1]}"
        return piece(rng.choice(("in {}", "during {}")).format(name), month=(seen, f"{first}-{last}"))
    first, length = rng.randrange(1, 13), rng.randint(3, 6)
    last = (first + length - 2) % 12 + 1
    if last < first and rng.random() < 0.5:  # over the new year: kept, but rarer than its share
        first, last = last, first
    text = rng.choice(PHRASES["month range"]).format(a=names[first], b=names[last])
    seen = f"{names[first]} = {first}, {names[last]} = {last}"
    over = joined([*range(first, 13), *range(1, last + 1)])
    return piece(text, month=(seen, f"{first}-{last}" if first < last else over))


def month_day(rng: Random) -> Piece:
    """Days of the month, in words that still want an "of ..."; none that some month lacks."""
    choice = rng.random()
    if choice < 0.45:
        day = rng.choice((1, 15, rng.randint(1, 28)))
        text = "on the first day" if day == 1 and rng.random() < 0.4 else rng.choice(PHRASES["day"])
        return piece(text.format(o=ordinal(day), n=day), day=(f"day {day}", str(day)))
    if choice < 0.7:
        days = some(rng, range(1, 29), 2, 3)
        text = rng.choice(PHRASES["days"])
        text = text.format(os=listed([ordinal(day) for day in days]), ns=listed([str(day) for day in days]))
        return piece(text, day=(f"days {listed([str(day) for day in days])}", joined(days)))
    if choice < 0.85:
        first = rng.randint(1, 20)
        last = rng.randint(first + 2, 28)
        text = rng.choice(PHRASES["day range"]).format(a=ordinal(first), b=ordinal(last), m=first, n=last)
        return piece(text, day=(f"days {first} to {last}", f"{first}-{last}"))
    if choice < 0.92:
        last = rng.randint(2, 14)
        return piece(
            rng.choice(PHRASES["first days"]).format(n=last), day=(f"first {last} days", f"1-{last}")
        )
    text = rng.choice(PHRASES["parity"])
    odd = "odd" in text
    return piece(text, day=("odd days from 1", "1-31/2") if odd else ("even days from 2", "2-30/2"))


def day(rng: Random, once: bool) -> Piece:
    """Days of every month; `once` if the time of day allows "monthly"."""
    if once and rng.random() < 0.3:
        one = rng.randint(1, 28)
        return piece(rng.choice(PHRASES["monthly"]).format(o=ordinal(one)), day=(f"day {one}", str(one)))
    found = month_day(rng)
    return Piece(f"{found.text} {rng.choice(PHRASES['of the month'])}", found.fields, found.steps)


def year_day(rng: Random, once: bool) -> Piece:
    """Days of some months: yearly, quarterly, every so many months, or any days in any months."""
    choice = rng.random()
    if choice < 0.4:
        one = rng.randint(1, 12)
        at = rng.randint(1, monthrange(2027, one)[1])  # a common year: February 29 would be no yearly date
        name = month_names(rng)[one]
        text = pick(rng, "yearly", once).format(m=name, n=at, o=ordinal(at))
        return piece(text, day=(f"day {at}", str(at)), month=(name, str(one)))
    days = month_day(rng)
    if choice < 0.5:
        first = piece("on the first day", day=("day 1", "1"))
        text = f"{first.text} {rng.choice(PHRASES['quarter'])}"
        months = piece(text, month=("quarters = January, April, July, October", joined(list(QUARTERS))))
        days = first
    elif choice < 0.65:
        step = rng.choice((2, 3, 4, 6))
        start = rng.randint(1, step)
        phrase = rng.choice(PHRASES["every months"])
        name = MONTHS[start - 1]
        text = f"{days.text} of {phrase.format(o='other' if step == 2 else ordinal(step), n=step, a=name)}"
        seen = f"{name} = {start}, every {step} months"
        months = piece(text, month=(seen, f"{start}-12/{step}"))
    else:
        months = month(rng)
        words = months.text.removeprefix("in ")
        joint = "of" if words != months.text and not words.startswith("the ") else ""
        text = f"{days.text} {joint} {words}" if joint else f"{days.text} of the month {months.text}"
        months = Piece(text, months.fields, months.steps)
    return Piece(months.text, {**days.fields, **months.fields}, {**days.steps, **months.steps})


def dates(rng: Random, restricted: int, once: bool) -> list[Piece]:
    """Pieces that restrict that many of the three date fields; never both day of month and day of week.

    `once` says that the time of day is a single one or a few, so that "weekly" or "once a month" may be said.
    """
    if restricted == 0:
        return []
    if restricted == 1:
        choice = rng.random()
        return [weekday(rng, once) if choice < 0.5 else day(rng, once) if choice < 0.8 else month(rng)]
    if rng.random() < 0.45:
        pieces = [weekday(rng, once), month(rng)]
        rng.shuffle(pieces)
        return pieces
    return [year_day(rng, once)]
