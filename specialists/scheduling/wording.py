"""How people phrase meeting-room questions: ways to write times, lists of meetings, and the question itself."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from .problems import Problem

NAMES = (
    "Standup", "Budget review", "Interview", "Design sync", "1:1 with Ana", "Board call", "Retro", "Planning",
    "Sales demo", "All-hands", "Training", "Legal check-in",
    "Roadmap", "Hiring panel", "Client call", "Onboarding", "Press briefing",
    "Lab meeting", "Workshop", "Payroll", "Security review", "Brainstorm", "Town hall", "Kickoff",
)  # fmt: skip
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

FITS = (
    "Do {k} rooms cover {m}?",
    "Do these meetings fit in {k} rooms? {m}",
    "We have {k} rooms. Can we hold {m}?",
    "Can all of these happen with {k} rooms: {m}?",
    "Meetings: {m}. Are {k} rooms enough?",
    "Is it possible to schedule {m} using only {k} rooms?",
    "I've got {k} meeting rooms and these bookings: {m}. Does it work out?",
    "{m}. Will {k} rooms do?",
    "Our floor has {k} rooms. Today's meetings are {m}. Can everyone get a room?",
    "would {k} rooms be enough for {m}",
    "Check whether {k} rooms suffice for the following meetings: {m}",
    "Given {k} conference rooms, can we run {m} without a clash?",
    "Tomorrow: {m}. Can we manage with {k} rooms?",
    "Someone booked {m}. Is there space for all of them in {k} rooms?",
)
COUNT = (
    "How many rooms do we need for {m}?",
    "What is the smallest number of rooms for {m}?",
    "Meetings: {m}. How many rooms are needed?",
    "{m}. Minimum number of meeting rooms?",
    "how many meeting rooms do i have to book for {m}",
    "I need to host {m}. What's the fewest rooms I can get away with?",
    "These meetings are planned: {m}. How many rooms must be reserved?",
    "At most how many of these run at once, i.e. how many rooms: {m}?",
    "Tell me the number of rooms required for {m}.",
    "Our agenda: {m}. How many conference rooms does that take?",
)
SLOTS = (
    "We have {k} rooms, open {d}. Already booked: {m}. When can a {l} meeting start?",
    "With {k} rooms between {d} and bookings {m}, which start times are free for a new {l} meeting?",
    "Bookings today: {m}. There are {k} rooms and the office is open {d}. At what times could a {l} meeting begin?",
    "Find all start times for a {l} meeting. Rooms: {k}. Working day: {d}. Booked: {m}.",
    "The working day is {d}. {m} are taken. With {k} rooms, when could I start a meeting of {l}?",
    "when is a room free for {l}? {k} rooms, day {d}, existing meetings {m}",
    "I want to add a {l} call. We have {k} rooms, hours are {d}, and these are booked: {m}. Which start times work?",
    "Given {k} rooms and a day of {d}, list the possible starts for a {l} meeting besides {m}.",
    "Calendar ({k} rooms, {d}): {m}. Where does another {l} meeting fit?",
    "Which starting times remain for a {l} session if {m} are already in our {k} rooms and we work {d}?",
)


def _hours(minutes: int, style: str) -> str:
    hour, minute = divmod(minutes, 60)
    if style == "24h":
        return f"{hour:02d}:{minute:02d}"
    if style == "french":
        return f"{hour}h{minute:02d}" if minute else f"{hour}h"
    if style == "ampm":
        half = "am" if hour < 12 else "pm"
        return f"{(hour - 1) % 12 + 1}:{minute:02d}{half}" if minute else f"{(hour - 1) % 12 + 1}{half}"
    return f"{hour}:{minute:02d}" if minute else str(hour)  # bare: 9-10:30, always on the 24-hour clock


_JOIN = {
    "bare": ("-", " to ", "–"),
    "24h": ("–", "-", " to ", " - "),
    "ampm": (" to ", "-", " - "),
    "french": ("-", " - ", "–"),
}


def _list(rng: Random, spans: Sequence[str], style: str) -> str:
    naming = rng.random()
    if naming < 0.2:
        names = rng.sample(NAMES, len(spans))
        mark = rng.choice((" ", ": ", " (")) if style != "bare" else rng.choice((": ", " ("))
        spans = [
            f"{name}{mark}{span}{')' if mark == ' (' else ''}"
            for name, span in zip(names, spans, strict=True)
        ]
    elif naming < 0.3:
        spans = [f"{chr(65 + i)} {span}" for i, span in enumerate(spans)]
    layout = rng.random()
    if layout < 0.6:
        return ", ".join(spans[:-1]) + rng.choice((" and ", ", ", " and ")) + spans[-1]
    if layout < 0.8:
        return "; ".join(spans)
    return "\n" + "\n".join(f"- {span}" for span in spans) + "\n" if layout < 0.9 else " / ".join(spans)


def _length(rng: Random, minutes: int) -> str:
    usual = {
        30: ("30-minute", "30 min", "half-hour"),
        60: ("60-minute", "1-hour", "one-hour"),
        90: ("90-minute", "90 min"),
    }
    return rng.choice(usual.get(minutes, (f"{minutes}-minute", f"{minutes} min")))


def wording(problem: Problem, rng: Random) -> tuple[str, tuple[str, ...]]:
    """One of many ways to ask the problem, and the meetings as it has them. One question writes times in one style."""
    style = rng.choice(tuple(_JOIN))
    join = rng.choice(_JOIN[style])
    spans = tuple(_hours(start, style) + join + _hours(end, style) for start, end in problem.meetings)
    template = rng.choice({"fits": FITS, "rooms": COUNT, "slots": SLOTS}[problem.kind])
    rooms = problem.rooms or 0
    text = template.format(
        k=str(rooms) if rng.random() < 0.6 else WORDS[rooms],
        m=_list(rng, spans, style),
        d=_hours(problem.day[0], style) + join + _hours(problem.day[1], style),
        l=_length(rng, problem.minutes),
    )
    if rooms == 1:
        text = text.replace("1 rooms", "1 room").replace("one rooms", "one room")
        text = text.replace("1 meeting rooms", "1 meeting room").replace(
            "one meeting rooms", "one meeting room"
        )
        text = text.replace("1 conference rooms", "1 conference room").replace(
            "one conference rooms", "one conference room"
        )
    return text.replace("\n.", "\n").replace("\n?", "\n").replace(":\n", ":\n").strip(), spans
