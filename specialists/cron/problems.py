"""The generator: questions composed piece by piece, with the expression the pieces spell out.

Every piece settles its own fields, so composing them is the exact solver; what the result means is `firing`.
"""

from __future__ import annotations

import re
from random import Random

from ..domain import Task
from . import times
from .days import dates
from .firing import FIELDS, canonical
from .pieces import Piece

# How many of the five fields an item restricts (easy: at most), and how many of them its time of day does.
TARGETS = {"easy": 2, "medium": 3, "hard": 4}
OWN_FIELDS = {"minutes": 1, "hourly": 1, "hours": 2, "window": 2, "daily": 2, "times": 2}
CELLS = {
    difficulty: [kind for kind, own in OWN_FIELDS.items() if target - own <= 2]
    for difficulty, target in TARGETS.items()
}

WRAPPERS = (
    "cron for {s}",
    "Cron expression for {s}",
    "Write a crontab schedule that runs {s}.",
    "What is the cron expression for {s}?",
    "{s}, as a cron expression?",
    "{s} in cron syntax",
    "crontab: {s}",
    "{s}",
    "Run {job} {s}.",
    "Schedule {job} {s}",
    "I want {job} to run {s}. What goes in the crontab?",
    "Give me the five cron fields for {s}.",
    "How do I schedule {job} to run {s} with cron?",
    "Which cron line fires {s}?",
    "Set up a cron job that starts {s}",
    "Trigger {job} {s}",
    "I need a job to run {s}.",
)
OFTEN = ("once", "twice", "three times", "four times")
JOBS = (
    "the backup",
    "my script",
    "./sync.sh",
    "the report",
    "a cleanup job",
    "log rotation",
    "backup.py",
    "the import",
)


def cell(index: int) -> tuple[str, str]:
    """Difficulty and kind of the index-th item: all difficulties in turn, in each all its kinds in turn."""
    difficulties = list(CELLS)
    difficulty = difficulties[index % len(difficulties)]
    kinds = CELLS[difficulty]
    return difficulty, kinds[index // len(difficulties) % len(kinds)]


def sentence(rng: Random, kind: str, time: Piece, when: list[Piece]) -> str:
    """The pieces as one phrase, in either order."""
    text = time.text
    if kind in ("daily", "times"):
        if when:
            text = f"at {text}"
        else:
            count = OFTEN[time.fields["hour"].count(",")]
            text = rng.choice(times.PHRASES[kind]).format(t=text, k=count)
    if not when:
        return text
    words = " ".join(one.text for one in when)
    parts = [text, words] if rng.random() < 0.6 else [words, text]
    return (" " if rng.random() < 0.7 else ", ").join(parts).replace("only only", "only")


def question(rng: Random, phrase: str) -> str:
    """The phrase as a question or a request, or on its own."""
    wrapper = rng.choice(WRAPPERS)
    before = wrapper.partition("{s}")[0]
    if before.endswith(("for ", "crontab: ")):
        phrase = phrase.removeprefix("at ")
    asked = re.sub(r"\b1 minutes\b", "1 minute", wrapper.format(s=phrase, job=rng.choice(JOBS)))
    return asked if rng.random() < 0.3 else asked[0].upper() + asked[1:]


def make(rng: Random, difficulty: str, kind: str) -> Task:
    """One item of a difficulty ("easy", "medium", "hard") and kind (a key of times.KINDS)."""
    time = times.KINDS[kind](rng)
    while difficulty != "easy" and "*" in time.fields.values():  # "every minute" restricts nothing
        time = times.KINDS[kind](rng)
    restricted = TARGETS[difficulty] - OWN_FIELDS[kind]
    if difficulty == "easy" and rng.random() < 0.15:
        restricted = 0
    when = dates(rng, restricted, kind in ("daily", "times"))
    fields: dict[str, str] = {}
    steps: dict[str, str] = {}
    for one in (time, *when):
        fields |= one.fields
        steps |= one.steps
    asked = question(rng, sentence(rng, kind, time, when))
    if rng.random() < 0.2:
        asked = asked.lower()
        steps = {name: step.lower() for name, step in steps.items()}
    answer = " ".join(fields.get(name, "*") for name in FIELDS)
    return Task(
        domain="cron",
        kind=kind,
        question=asked,
        answer=answer,
        key=canonical(answer),
        difficulty=difficulty,
        label=kind,
        facts={"steps": steps},
    )
