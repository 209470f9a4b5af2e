"""Times of day as people write them, and how their hour and minute are read off."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Clock:
    """A time of day as written, with what stands before the arrow of its minute and of its hour."""

    text: str
    hour: int
    minute: int
    sum: str = ""  # the arithmetic that gives the hour, empty if it can be read off
    minute_sum: str = ""

    def alone(self) -> str:
        """Before the arrow, where this is the only time: "2:30 pm = 2+12"."""
        return f"{self.text} = {self.sum}" if self.sum else self.text

    def among(self) -> str:
        """Before the arrow, among others: "2:30 pm = 2+12 = 14"."""
        return f"{self.alone()} = {self.hour}"


def half_day(hour: int) -> tuple[int, str]:
    """The hour on a twelve-hour dial, and the sum that leads back to the 24-hour one."""
    dial = (hour + 11) % 12 + 1
    if hour == 0:
        return dial, "12-12"
    return dial, f"{dial}+12" if hour > 12 else ""


def part_of_day(hour: int) -> str:
    """The words that make a dial hour unambiguous; only for hours 5 to 21."""
    return "in the morning" if hour < 12 else "in the afternoon" if hour < 18 else "in the evening"


def style(rng: Random) -> str:
    """How all times of one question are written."""
    return rng.choices(("2:30 pm", "2:30pm", "2:30 PM", "14:30", "words"), (30, 15, 8, 27, 20))[0]


def clock(rng: Random, how: str, hour: int, minute: int) -> Clock:
    """A time of day in a style; where a style has no words for it, as "2:30 pm"."""
    dial, total = half_day(hour)
    if how == "14:30":
        return Clock(f"{hour:02d}:{minute:02d}", hour, minute)  # "8:45" might be in the evening
    if how == "words":
        if minute == 0 and hour in (0, 12):
            return Clock("noon" if hour else "midnight", hour, 0)
        half = "am" if hour < 12 else "pm"
        if minute in (15, 30) and rng.random() < 0.7:
            return Clock(f"{'half' if minute == 30 else 'quarter'} past {dial} {half}", hour, minute, total)
        if minute == 45 and hour % 12 not in (11, 0):
            later = f"{dial + 1}-1" + ("+12" if hour > 12 else "")
            return Clock(f"quarter to {dial + 1} {half}", hour, minute, later, "60-15")
        if 5 <= hour < 22 and hour != 12:
            digits = (
                f"{dial}:{minute:02d}" if minute else f"{dial} o'clock" if rng.random() < 0.5 else str(dial)
            )
            return Clock(f"{digits} {part_of_day(hour)}", hour, minute, total)
    half = "am" if hour < 12 else "pm"
    half = half.upper() if how.endswith("PM") else half
    gap = "" if how == "2:30pm" else " "
    return Clock(f"{dial}:{minute:02d}{gap}{half}" if minute else f"{dial}{gap}{half}", hour, minute, total)


def read_minute(at: Clock) -> tuple[str, str]:
    """The step from a time of day to the minute field."""
    return f"{at.text} = {at.minute_sum}" if at.minute_sum else at.text, str(at.minute)
