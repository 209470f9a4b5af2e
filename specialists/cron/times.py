"""Phrases for the time of day: what settles the minute and hour fields."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from .clock import clock, read_minute, style
from .pieces import Piece, listed, number, piece, some

PHRASES: dict[str, tuple[str, ...]] = {
    "every minutes": (
        "every {n} minutes",
        "every {n} min",
        "once every {n} minutes",
        "at {n}-minute intervals",
        "each {n} minutes",
    ),
    "every minute": ("every minute", "once a minute", "every single minute"),
    "offset": (
        "every {n} minutes starting at minute {m}",
        "every {n} minutes, starting {m} minutes past the hour",
        "every {n} minutes beginning at :{m:02d}",
    ),
    "past": (
        "at {m} minutes past every hour",
        "at minute {m} of every hour",
        "hourly at :{m:02d}",
        "every hour at :{m:02d}",
        "{m} minutes past every hour",
        "once an hour at minute {m}",
        "every hour at {m} past",
    ),
    "on the hour": (
        "every hour on the hour",
        "at the top of every hour",
        "hourly, on the hour",
        "once an hour, at :00",
    ),
    "before": ("{m} minutes before every hour", "every hour at {m} to the hour"),
    "past several": (
        "at {ms} minutes past every hour",
        "at minutes {ms} of every hour",
        "every hour at minutes {ms}",
        "hourly at minutes {ms}",
    ),
    "minute range": (
        "every minute from minute {a} through minute {b} of every hour",
        "every minute from :{a:02d} through :{b:02d} of each hour",
    ),
    "window": (
        "from {a} through {b}",
        "between {a} and {b}",
        "from {a} until {b}",
    ),
    "window hours": (
        "during hours {a} to {b} inclusive",
        "in hours {a} through {b}",
        "while the hour is {a} to {b}",
    ),
    "hourly window": (
        "hourly from {a} through {b}",
        "every hour from {a} through {b}",
        "once an hour, first at {a} and last at {b}",
        "every hour from {a} to {b} inclusive",
    ),
    "every hours": (
        "every {n} hours",
        "once every {n} hours",
        "every {n} hours on the hour",
        "each {n} hours",
    ),
    "every hours past": (
        "every {n} hours at minute {m}",
        "every {n} hours at {m} minutes past the hour",
        "every {n} hours, at :{m:02d}",
        "at {m} minutes past the hour, every {n} hours",
    ),
    "hours from": (
        "every {n} hours starting at {a}",
        "every {n} hours, first at {a}",
        "every {n} hours beginning at {a}",
    ),
    "hours window": ("every {n} hours from {a} through {b}", "every {n} hours, first at {a} and last at {b}"),
    "daily": (
        "every day at {t}",
        "daily at {t}",
        "at {t} every day",
        "once a day at {t}",
        "each day at {t}",
        "{t} daily",
    ),
    "times": (
        "every day at {t}",
        "daily at {t}",
        "at {t} every day",
        "each day at {t}",
        "{k} a day, at {t}",
    ),
}

HALVES = {30: "every half hour", 15: "every quarter of an hour", 2: "every other minute"}
QUARTERS = {15: "at a quarter past every hour", 30: "at half past every hour"}
STEPS = (2, 3, 4, 5, 6, 10, 12, 15, 20, 30)  # divisors of 60
HOUR_STEPS = (2, 3, 4, 6, 8, 12)  # divisors of 24


def some_hour(rng: Random) -> int:
    """An hour of the day; the two hours around twelve, where am and pm mislead, come up more often."""
    return rng.choice((0, 12)) if rng.random() < 0.1 else rng.randrange(24)


def some_minute(rng: Random) -> int:
    """A minute, favouring the ones people choose."""
    choice = rng.random()
    return 0 if choice < 0.15 else rng.choice((15, 30, 45)) if choice < 0.35 else rng.randrange(60)


def every_minutes(rng: Random) -> tuple[str, str, str]:
    """Words, what stands before the arrow, and the cron text of a step over minutes."""
    step = rng.choice(STEPS)
    text = rng.choice(PHRASES["every minutes"]).format(n=number(rng, step))
    if step in HALVES and rng.random() < 0.3:
        text = HALVES[step]
    return text, text, f"*/{step}"


def minutes(rng: Random) -> Piece:
    """Every so many minutes, all day."""
    choice = rng.random()
    if choice < 0.05:
        text = rng.choice(PHRASES["every minute"])
        return piece(text, minute=(text, "*"))
    if choice < 0.6:
        text, seen, cron = every_minutes(rng)
        return piece(text, minute=(seen, cron))
    step = rng.choice(STEPS[1:])
    start = rng.randrange(1, step)
    text = rng.choice(PHRASES["offset"]).format(n=step, m=start)
    return piece(text, minute=(f"every {step} from {start}", f"{start}-59/{step}"))


def hourly(rng: Random) -> Piece:
    """At one or several minutes of every hour."""
    choice = rng.random()
    minute = rng.randrange(1, 60)
    if choice < 0.08:
        text = rng.choice(PHRASES["on the hour"])
        return piece(text, minute=(text, "0"))
    if choice < 0.16:
        minute = rng.choice(list(QUARTERS))
        return piece(QUARTERS[minute], minute=(QUARTERS[minute].removeprefix("at "), str(minute)))
    if choice < 0.26:
        before = rng.choice((5, 10, 15, 20, 25, rng.randrange(1, 30)))
        text = rng.choice(PHRASES["before"]).format(m=before)
        return piece(text, minute=(f"{before} before = 60-{before}", str(60 - before)))
    if choice < 0.6:
        text = rng.choice(PHRASES["past"]).format(m=minute)
        return piece(text, minute=(f"minute {minute}", str(minute)))
    if choice < 0.7:
        first = rng.randrange(0, 50)
        last = rng.randrange(first + 2, 60)
        text = rng.choice(PHRASES["minute range"]).format(a=first, b=last)
        return piece(text, minute=(f"minute {first} through {last}", f"{first}-{last}"))
    chosen = some(rng, range(0, 60, rng.choice((1, 5))), 2, 4)
    text = rng.choice(PHRASES["past several"]).format(ms=listed([str(one) for one in chosen]))
    return piece(text, minute=(f"minutes {listed([str(one) for one in chosen])}", ",".join(map(str, chosen))))


def window(rng: Random) -> Piece:
    """Within some hours of the day, every so many minutes or once an hour. Both ends belong to the window."""
    first = rng.randrange(0, 21)
    last = rng.randrange(first + 2, 24 if first else 23)  # all 24 hours restrict nothing
    how = style(rng)
    if rng.random() < 0.5:
        minute = some_minute(rng)
        start, end = clock(rng, how, first, minute), clock(rng, how, last, minute)
        text = rng.choice(PHRASES["hourly window"]).format(a=start.text, b=end.text)
        hour = (f"{start.among()}, {end.among()}", f"{first}-{last}")
        return piece(text, minute=read_minute(start), hour=hour)
    text, seen, cron = every_minutes(rng)
    if rng.random() < 0.3:
        within = rng.choice(PHRASES["window hours"]).format(a=first, b=last)
        return piece(
            f"{text} {within}", minute=(seen, cron), hour=(f"hours {first} to {last}", f"{first}-{last}")
        )
    start, end = clock(rng, how, first, 0), clock(rng, "2:30 pm" if how == "words" else how, last, 59)
    within = rng.choice(PHRASES["window"]).format(a=start.text, b=end.text)
    hour = (f"{start.among()}, {end.among()}", f"{first}-{last}")
    return piece(f"{text} {within}", minute=(seen, cron), hour=hour)


def hours(rng: Random) -> Piece:
    """Every so many hours: from midnight, from a later start, or within part of the day."""
    step = rng.choice(HOUR_STEPS)
    words = number(rng, step)
    every = f"every {words} hours"
    choice = rng.random()
    if choice < 0.08:
        text = rng.choice(PHRASES["every hours"]).format(n=words)
        text = "every other hour" if step == 2 and rng.random() < 0.4 else text
        return piece(
            text, minute=("on the hour", "0"), hour=(text if "other" in text else every, f"*/{step}")
        )
    how = style(rng)
    minute = some_minute(rng)
    if choice < 0.45:
        minute = minute or rng.randrange(1, 60)
        text = rng.choice(PHRASES["every hours past"]).format(n=words, m=minute)
        return piece(text, minute=(f"minute {minute}", str(minute)), hour=(every, f"*/{step}"))
    if choice < 0.7:
        start = clock(rng, how, rng.randrange(1, step), minute)
        text = rng.choice(PHRASES["hours from"]).format(n=words, a=start.text)
        hour = (f"{start.among()}, {every}", f"{start.hour}-23/{step}")
        return piece(text, minute=read_minute(start), hour=hour)
    step = rng.choice((2, 3, 4))
    times = rng.randint(2, 18 // step)
    start = clock(rng, how, rng.randrange(0, 24 - step * times), minute)
    end = clock(rng, how, start.hour + step * times, minute)
    words = number(rng, step)
    text = rng.choice(PHRASES["hours window"]).format(n=words, a=start.text, b=end.text)
    hour = (f"{start.among()}, {end.among()}, every {words} hours", f"{start.hour}-{end.hour}/{step}")
    return piece(text, minute=read_minute(start), hour=hour)


def daily(rng: Random) -> Piece:
    """Once a day."""
    at = clock(rng, style(rng), some_hour(rng), some_minute(rng))
    return piece(at.text, minute=read_minute(at), hour=(at.alone(), str(at.hour)))


def times(rng: Random) -> Piece:
    """Several times a day, all at the same minute of their hour."""
    minute, how = some_minute(rng), style(rng)
    at = [clock(rng, how, hour, minute) for hour in some(rng, range(24), 2, rng.choice((2, 3, 4)))]
    seen = ", ".join(one.among() for one in at)
    hour = (seen, ",".join(str(one.hour) for one in at))
    return piece(listed([one.text for one in at]), minute=read_minute(at[0]), hour=hour)


KINDS: dict[str, Callable[[Random], Piece]] = {
    "minutes": minutes,
    "hourly": hourly,
    "hours": hours,
    "window": window,
    "daily": daily,
    "times": times,
}
