"""What a phrase is made of: pieces that carry words, cron fields and the steps that lead there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 10: "ten", 12: "twelve"}
NUMBERS |= {15: "fifteen", 20: "twenty", 30: "thirty"}


@dataclass(frozen=True)
class Piece:
    """Some words of the question and, for each field they settle, its cron text and the step to it."""

    text: str
    fields: Mapping[str, str]
    steps: Mapping[str, str]


def piece(text: str, **fields: tuple[str, str]) -> Piece:
    """A piece from field=(what is on the page before the arrow, cron text)."""
    return Piece(
        text=text,
        fields={name: cron for name, (_, cron) in fields.items()},
        steps={name: f"{seen} -> {cron}" for name, (seen, cron) in fields.items()},
    )


def listed(parts: Sequence[str]) -> str:
    """a / a and b / a, b and c"""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def some(rng: Random, pool: Sequence[int], low: int, high: int) -> list[int]:
    """Between low and high distinct members of the pool, in its order."""
    chosen = set(rng.sample(range(len(pool)), rng.randint(low, high)))
    return [value for place, value in enumerate(pool) if place in chosen]


def number(rng: Random, value: int) -> str:
    """A number as people write it in a sentence: mostly digits, sometimes the word."""
    return NUMBERS[value] if value in NUMBERS and rng.random() < 0.25 else str(value)


def ordinal(day: int) -> str:
    """1st, 2nd, 3rd, 4th, ..."""
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return f"{day}{ending}"
