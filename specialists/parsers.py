"""Named pure parsers: generated text -> canonical answer, or None when there is none."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date

_LINE = re.compile(r"answer\s*(?:is)?\s*[:=]\s*(.+)", re.IGNORECASE)
_DRESS = " \t`*_\"'$"


def answer_line(text: str) -> str | None:
    """What follows the last "Answer:" of the text, without markdown dress or a final full stop."""
    found = _LINE.findall(text)
    if not found:
        return None
    answer = found[-1].strip(_DRESS).removesuffix(".").strip(_DRESS)
    return answer or None


_CLOCK = re.compile(r"^(\d{1,2}):(\d{2})$")


def clock(text: str) -> str | None:
    """ "9:05" -> "09:05"; None unless it is a time of day."""
    found = _CLOCK.match(text.strip())
    if not found:
        return None
    hour, minute = int(found[1]), int(found[2])
    return f"{hour:02d}:{minute:02d}" if hour <= 24 and minute < 60 else None


def scheduling(text: str) -> str | None:
    """YES or NO, a number of rooms, or ranges of start times as "09:00-10:15, 13:30-16:00" (or "none")."""
    answer = answer_line(text)
    if answer is None:
        return None
    word = re.match(r"(yes|no|none)\b", answer, re.IGNORECASE)
    if word:
        said = word[1].lower()
        return said if said == "none" else said.upper()
    number = re.match(r"(\d{1,4})(?:\s+rooms?)?$", answer)
    if number:
        return str(int(number[1]))
    ranges = []
    for part in re.split(r"\s*,\s*", answer):
        ends = [clock(end) for end in re.split(r"\s*[-–]\s*", part)]
        if not 1 <= len(ends) <= 2 or None in ends:
            return None
        ranges.append(f"{ends[0]}-{ends[-1]}")
    return ", ".join(ranges)


# English names, whatever the locale (the calendar module's names follow it).
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTH = r"(?P<name>[a-z]{3,9})\.?"
_DATES = (
    r"(?P<year>[0-9]{4})[-/](?P<month>[0-9]{1,2})[-/](?P<day>[0-9]{1,2})",
    rf"{_MONTH}\s+(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?,?\s+(?P<year>[0-9]{{4}})",
    rf"(?:the\s+)?(?P<day>[0-9]{{1,2}})(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH},?\s+(?P<year>[0-9]{{4}})",
)


def dates(text: str) -> str | None:
    """A date as YYYY-MM-DD, a weekday's full name, a number (of days), or YES or NO."""
    answer = (answer_line(text) or "").lower()
    word = re.fullmatch(r"(yes|no)(?:[,.;!](?!.*\b(?:yes|no)\b).*)?", answer)
    if word:
        return word[1].upper()
    for weekday in WEEKDAYS:
        if answer in (weekday.lower(), weekday.lower()[:3]):
            return weekday
    number = re.fullmatch(r"(-?[0-9]{1,7}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\s+days?)?", answer)
    if number:
        return str(int(number[1].replace(",", "")))
    for pattern in _DATES:
        found = re.fullmatch(pattern, answer)
        if not found:
            continue
        part = found.groupdict()
        named = [i for i, month in enumerate(MONTHS, 1) if month.lower().startswith(part.get("name") or "?")]
        try:
            month = int(part["month"]) if "month" in part else named[0]
            return date(int(part["year"]), month, int(part["day"])).isoformat()
        except (ValueError, IndexError):  # no such day, or no such month
            return None
    return None


_CRON_MARK = re.compile(r"answer\s*(?:is)?\s*[:=]", re.IGNORECASE)
_CRON = re.compile(
    r"\s*(?:\*\*)?\s*(?:```[a-z]*\s+|`|[\"'$])?"  # end or start of bold, start of fence or quotation
    r"((?:[\w*/,?#-]+[ \t]+){4}[\w*/,?#-]+?)"
    r"(?:\*\*)?(?:[\"'$.]*(?:\*\*)?\.?[ \t]*(?:[(#\n].*)?$|[\"']?`.*)",  # to the end of line or quotation
    re.ASCII | re.DOTALL,
)


def cron(text: str) -> str | None:
    """Five cron fields after the last "Answer:", single-spaced with names in capitals: "30 14 * * MON-FRI".

    The expression may stand in backticks, in bold, or in a fenced block below. Five words of prose are no
    answer: three fields at least must hold a digit or a star. Whether they make sense is left to the domain.
    """
    marks = list(_CRON_MARK.finditer(text))
    found = _CRON.match(text[marks[-1].end() :].replace("\\*", "*")) if marks else None
    if not found:
        return None
    fields = found[1].upper().split()
    return " ".join(fields) if sum(bool(re.search(r"[\d*]", one)) for one in fields) >= 3 else None


Parser = Callable[[str], str | None]
PARSERS: dict[str, Parser] = {
    "answer_line": answer_line,
    "scheduling": scheduling,
    "dates": dates,
    "cron": cron,
}
