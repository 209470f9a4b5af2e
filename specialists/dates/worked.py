"""Solutions written out for a small model: every operand stands on the page before the step that needs it.

Three lines carry all kinds:

* a year line, `95-84=11=4*2+3 common`: the last two digits less a multiple of 28 (the weekdays of a century
  repeat after 28 years), then divided by 4 with rest; a year ending in 00 goes on with its century,
  `00-0=0=4*0+0 century 19=4*4+3 common`.
* a month line, `2025-04:30`: how long that month is; February puts its year line in between. What is compared with that
  length stands beside it, `31>30`, before anything follows from the comparison.
* a sum line, `30+2=32`: one small addition or subtraction; with three digits, hundreds, tens and units apart.

Weekdays follow the key-value method (year + quarter of the year + codes for century and month + day,
modulo 7, with Sunday = 0); the usual month codes are shifted by one so that 2000 to 2099 need no correction.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from itertools import accumulate

from ..domain import Task

LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
BEFORE = tuple(accumulate(LENGTHS[:-1], initial=0))  # days of a common year before each month
MONTH_CODES = (6, 2, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4)  # BEFORE, less 1, modulo 7
CENTURY_CODES = {19: 1, 20: 0, 21: 5}
NAMES = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
PLACES = {"first": 0, "second": 7, "third": 14, "fourth": 21}  # days after the first such weekday


def _year_line(year: int) -> tuple[str, bool]:
    """The line that finds out whether a year is a leap year, and what it found."""
    short = year % 100
    cycles = short // 28 * 28
    quarter, rest = divmod(short - cycles, 4)
    line = f"{short:02d}-{cycles}={short - cycles}=4*{quarter}+{rest}"
    if short == 0:
        quarter, rest = divmod(year // 100, 4)
        line += f" century {year // 100}=4*{quarter}+{rest}"
    return f"{line} {'common' if rest else 'leap'}", rest == 0


def _month_line(year: int, month: int) -> tuple[str, int]:
    """The line that gives a month's length, and the length in days."""
    if month != 2:
        return f"{year}-{month:02d}:{LENGTHS[month - 1]}", LENGTHS[month - 1]
    line, leap = _year_line(year)
    return f"{year}-02 {line}:{28 + leap}", 28 + leap


def _weekday_lines(year: int, month: int, day: int) -> tuple[list[str], int, bool]:
    """Lines from a date to its weekday, the weekday's number (Sunday = 0), and whether it is a leap year."""
    first, leap = _year_line(year)
    rest = year % 100 % 28
    early = leap and month <= 2  # the leap day is still to come
    century, code = CENTURY_CODES[year // 100], MONTH_CODES[month - 1] - early
    a = rest + rest // 4
    b = a + century
    c = b + code
    total = c + day
    number = total % 7
    lines = [
        f"{year}-{month:02d}-{day:02d}",
        first,
        f"{rest}+{rest // 4}={a}",
        f"{year // 100}:{century} {a}+{century}={b}",
        f"{month:02d}:{code + 1}-1={code} {b}+{code}={c}" if early else f"{month:02d}:{code} {b}+{code}={c}",
        f"{c}+{day}={total}",
        f"{total}-{total - number}={number} {NAMES[number]}",
    ]
    return lines, number, leap


def _weekday(day: date) -> tuple[list[str], str]:
    lines, number, _ = _weekday_lines(day.year, day.month, day.day)
    return lines, NAMES[number]


def _leap(year: int) -> tuple[list[str], str]:
    line, leap = _year_line(year)
    return [f"{year}", line], "YES" if leap else "NO"


def _nth(year: int, month: int, place: str, weekday: str) -> tuple[list[str], str]:
    lines, have, leap = _weekday_lines(year, month, 1)
    want = NAMES.index(weekday)
    offset = (want - have) % 7
    lines.append(f"{weekday} {want}: {want}{'+7' if want < have else ''}-{have}={offset}")
    day = 1 + offset
    lines.append(f"1+{offset}={day}")
    if place != "last":
        last = day + PLACES[place]
        lines.append(f"{place}: {day}+{PLACES[place]}={last}")
    else:
        length = LENGTHS[month - 1] + (leap and month == 2)
        last = day + 28
        line = f"last of {length}: {day}+28={last}"
        if last > length:
            last = day + 21
            line += f" over {day}+21={last}"
        lines.append(line)
    return lines, f"{year}-{month:02d}-{last:02d}"


def _sign(a: int, b: int) -> str:
    return f"{a}{'<' if a < b else '>' if a > b else '='}{b}"


def _plus(a: int, b: int) -> str:
    """The sum a+b, or the difference for a negative b; hundreds, tens and units apart if either has three digits."""
    sign, size = ("+", 1) if b >= 0 else ("-", -1)
    steps = []
    for part in [b] if a < 100 and abs(b) < 100 else [size * part for part in _places(abs(b))]:
        steps.append(f"{a}{sign}{abs(part)}={a + part}")
        a += part
    return " ".join(steps)


def _places(number: int) -> list[int]:
    """Hundreds, tens and units that are not 0; [0] for 0."""
    parts = [number // 100 * 100, number // 10 % 10 * 10, number % 10]
    return [part for part in parts if part] or [0]


def _between(start: date, end: date) -> tuple[list[str], str]:
    lines = [f"{start} to {end}"]
    lengths = {}
    for year in range(start.year, end.year + 1):
        line, leap = _year_line(year)
        lengths[year] = 365 + leap
        lines.append(f"{year} {line}:{lengths[year]}")
    first, last = (_day_of_year(day, lengths[day.year], lines) for day in (start, end))
    if start.year == end.year:
        return [*lines, f"{end.year}:{_plus(last, -first)}"], f"{last - first}"
    total = lengths[start.year] - first
    lines.append(f"{start.year}:{_plus(lengths[start.year], -first)}")
    for year in range(start.year + 1, end.year + 1):
        step = lengths[year] if year < end.year else last
        lines.append(f"{year}:{_plus(total, step)}")
        total += step
    return lines, f"{total}"


def _day_of_year(day: date, length: int, lines: list[str]) -> int:
    """Write the line that counts the days of a year up to a date, and return the count."""
    count = BEFORE[day.month - 1]
    line = f"{day} {length}:{count}"
    if length == 366 and day.month > 2:
        line += f"+1={count + 1}"
        count += 1
    lines.append(f"{line} {_plus(count, day.day)}")
    return count + day.day


def _forward(day: date, count: int) -> tuple[list[str], str]:
    year, month, total = day.year, day.month, day.day + count
    lines = [f"{day.day}+{count}={total}"]
    while True:
        line, length = _month_line(year, month)
        if total <= length:
            return [*lines, f"{line} {_sign(total, length)} fits"], f"{year}-{month:02d}-{total:02d}"
        lines.append(f"{line} {_sign(total, length)} {total}-{length}={total - length}")
        total -= length
        year, month = (year, month + 1) if month < 12 else (year + 1, 1)


def _backward(day: date, count: int) -> tuple[list[str], str]:
    if count < day.day:
        left = day.day - count
        return [
            f"{_sign(count, day.day)} {day.day}-{count}={left} fits"
        ], f"{day.year}-{day.month:02d}-{left:02d}"
    year, month, left = day.year, day.month, count - day.day
    lines = [f"{_sign(count, day.day)} {count}-{day.day}={left} left"]
    while True:
        year, month = (year, month - 1) if month > 1 else (year - 1, 12)
        line, length = _month_line(year, month)
        line += f" {_sign(left, length)}"
        if left < length:
            last = length - left
            return [*lines, f"{line} {length}-{left}={last} fits"], f"{year}-{month:02d}-{last:02d}"
        lines.append(f"{line} {left}-{length}={left - length} left")
        left -= length


def _months(day: date, sign: int, count: int) -> tuple[list[str], str]:
    year, month, lines = day.year, day.month, []
    if sign > 0:
        lines.append(f"{month}+{count}={month + count}")
        month += count
        while month > 12:
            year += 1
            lines.append(f"{_sign(month, 12)} {month}-12={month - 12} {year}")
            month -= 12
        lines.append(_sign(month, 12))
    else:
        while month <= count:
            year -= 1
            lines.append(f"{_sign(month, count)} {month}+12={month + 12} {year}")
            month += 12
        lines.append(f"{_sign(month, count)} {month}-{count}={month - count}")
        month -= count
    line, length = _month_line(year, month)
    lines.append(f"{line} {_sign(day.day, length)} {'fits' if day.day <= length else f'over {length}'}")
    return lines, f"{year}-{month:02d}-{min(day.day, length):02d}"


def _shift(day: date, sign: int, count: int, unit: str) -> tuple[list[str], str]:
    lines = [f"{day} {'+' if sign > 0 else '-'} {count} {unit}"]
    if unit == "months":
        rest, answer = _months(day, sign, count)
        return lines + rest, answer
    if unit == "weeks":
        lines.append(f"{count}*7={count * 7}")
        count *= 7
    rest, answer = (_forward if sign > 0 else _backward)(day, count)
    return lines + rest, answer


_SOLVERS: dict[str, Callable[..., tuple[list[str], str]]] = {
    "weekday": _weekday,
    "between": _between,
    "shift": _shift,
    "leap": _leap,
    "nth": _nth,
}


def solution(task: Task) -> str:
    """The worked solution of a task, one step a line, ending in "Answer: ..."."""
    facts = {k: date.fromisoformat(v) if k in ("day", "start", "end") else v for k, v in task.facts.items()}
    lines, answer = _SOLVERS[task.kind](**facts)
    return "\n".join([*lines, f"Answer: {answer}"])
