"""The dates domain: right answers, true steps, disjoint splits, balanced labels, a parser hard to fool."""

from __future__ import annotations

import calendar
import re
from collections import Counter
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialists.dates import Dates
from specialists.dates.phrasings import FORMS
from specialists.dates.problems import PLACES, SCHEDULE, add_months, nth_weekday
from specialists.dates.worked import solution
from specialists.domain import Domain, Task, Verdict, grade, items
from specialists.errors import BadInput
from specialists.parsers import WEEKDAYS, dates

DOMAIN = Dates()
INDEX = st.integers(0, 10**6)
SPLIT = st.sampled_from(["train", "dev", "test", "test-7"])
DAY = st.dates(date(1901, 6, 1), date(2099, 6, 1))
# Qwen's pre-tokeniser, for ASCII: each digit, and pieces that are all one token here ("fourth" is two).
PIECES = re.compile(r"[^\r\n0-9A-Za-z]?[A-Za-z]+|[0-9]| ?[^\s0-9A-Za-z]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def value(expression: str) -> int:
    """Sums of products of whole numbers, as "4*6+0" or "2+7-5"."""
    total = 0
    for sign, term in re.findall(r"([+-]?)(\d+(?:\*\d+)*)", expression):
        product = 1
        for factor in term.split("*"):
            product *= int(factor)
        total += -product if sign == "-" else product
    return total


def untrue(text: str) -> list[str]:
    """The equations of a worked solution that do not hold."""
    chains = re.findall(r"(?<![\d*+-])\d[\d+*-]*(?:=[\d+*-]+)+", text)
    return [chain for chain in chains if len({value(side) for side in chain.split("=")}) > 1]


def piece_count(text: str) -> int:
    return len(PIECES.findall(text))


def build(kind: str, answer: str, **facts: Any) -> Task:
    return Task("dates", kind, "?", answer, "key", "easy", kind, facts)


def test_is_a_domain() -> None:
    assert isinstance(DOMAIN, Domain)


@given(SPLIT, INDEX)
def test_worked_solution_is_right_true_and_short_enough(split: str, index: int) -> None:
    task = DOMAIN.task(split, index)
    text = DOMAIN.worked(task)
    assert grade(DOMAIN, task, text, truncated=False) is Verdict.RIGHT
    assert untrue(text) == []
    assert 1.2 * piece_count(text) <= DOMAIN.max_new_tokens
    assert text.splitlines()[-1] == f"Answer: {task.answer}"


@given(SPLIT, INDEX)
def test_worked_month_lengths_are_those_of_the_calendar(split: str, index: int) -> None:
    text = DOMAIN.worked(DOMAIN.task(split, index))
    month_line = re.compile(r"^(\d{4})-(\d\d)(?: .*(?:leap|common))?:(\d\d)", re.MULTILINE)
    for year, month, length in month_line.findall(text):
        assert calendar.monthrange(int(year), int(month))[1] == int(length)


def test_the_checker_of_steps_finds_errors() -> None:
    assert untrue("24-0=24=4*6+0 leap\n30+2=33\n2025-04:30 3 fits") == ["30+2=33"]
    assert untrue("95-84=11=4*2+2 common") == ["95-84=11=4*2+2"]


@given(DAY)
def test_weekday_of_any_date(day: date) -> None:
    name = WEEKDAYS[day.weekday()]
    assert solution(build("weekday", name, day=f"{day}")).endswith(f" {name}\nAnswer: {name}")


@given(DAY, st.integers(1, 1095))
def test_days_between_any_two_dates(start: date, days: int) -> None:
    text = solution(build("between", f"{days}", start=f"{start}", end=f"{start + timedelta(days)}"))
    assert dates(text) == f"{days}" and untrue(text) == []


@given(DAY, st.sampled_from([1, -1]), st.integers(1, 120), st.sampled_from(["days", "weeks", "months"]))
def test_moving_any_date(day: date, sign: int, count: int, unit: str) -> None:
    end = add_months(day, sign * count) if unit == "months" else day + sign * timedelta(**{unit: count})
    text = solution(build("shift", f"{end}", day=f"{day}", sign=sign, count=count, unit=unit))
    assert dates(text) == f"{end}" and untrue(text) == []


@given(st.integers(1600, 2999))
def test_leap_years(year: int) -> None:
    assert dates(solution(build("leap", "", year=year))) == ("YES" if calendar.isleap(year) else "NO")


@given(st.integers(1900, 2100), st.integers(1, 12), st.sampled_from(PLACES), st.sampled_from(WEEKDAYS))
def test_nth_weekday(year: int, month: int, place: str, weekday: str) -> None:
    column = [week[WEEKDAYS.index(weekday)] for week in calendar.Calendar().monthdayscalendar(year, month)]
    days = [day for day in column if day]
    expected = date(year, month, days[-1] if place == "last" else days[PLACES.index(place)])
    assert nth_weekday(year, month, place, weekday) == expected
    text = solution(build("nth", "", year=year, month=month, place=place, weekday=weekday))
    assert dates(text) == f"{expected}" and untrue(text) == []


def test_month_end_is_clamped_and_the_question_says_so() -> None:
    assert add_months(date(2024, 1, 31), 1) == date(2024, 2, 29)
    assert add_months(date(2023, 12, 31), -10) == date(2023, 2, 28)
    clamped = 0
    for index in range(0, 4000):
        if SCHEDULE[index % len(SCHEDULE)] != ("shift", "months"):
            continue
        task = DOMAIN.task("train", index)
        if date.fromisoformat(task.answer).day != date.fromisoformat(task.facts["day"]).day:
            clamped += 1
            assert re.search("short|last day|end of the month", task.question, re.IGNORECASE)
    assert clamped > 20


def test_splits_are_disjoint_and_items_repeat() -> None:
    keys = {split: {task.key for task in items(DOMAIN, split, 400)} for split in ("train", "dev", "test")}
    assert not keys["train"] & keys["test"] and not keys["dev"] & (keys["train"] | keys["test"])
    assert not {task.key for task in items(DOMAIN, "test-7", 400)} & keys["train"]
    assert DOMAIN.task("test", 17) == Dates().task("test", 17)
    assert DOMAIN.task("test", 17) != DOMAIN.task("test-7", 17)
    with pytest.raises(BadInput):
        DOMAIN.task("exam", 0)


def test_key_forgets_the_phrasing_and_the_unit() -> None:
    tasks = [DOMAIN.task("train", index) for index in range(6000)]
    questions: dict[str, set[str]] = {}
    for task in tasks:
        questions.setdefault(task.key, set()).add(task.question)
    assert max(map(len, questions.values())) > 1
    weeks = next(task for task in tasks if task.facts.get("unit") == "weeks")
    assert f"{7 * weeks.facts['sign'] * weeks.facts['count']:+d} days" in weeks.key


def test_kinds_and_labels_are_balanced() -> None:
    tasks = items(DOMAIN, "test", 300)
    assert all(count >= 25 for count in Counter(task.kind for task in tasks).values())
    assert {task.kind for task in tasks} == {"weekday", "between", "shift", "leap", "nth"}
    labels = Counter(task.label for task in (DOMAIN.task("train", index) for index in range(4000)))
    assert labels["YES"] == labels["NO"] == 200
    assert all(0.7 * 800 / 7 < labels[name] < 1.3 * 800 / 7 for name in WEEKDAYS)
    leaps = [task for task in items(DOMAIN, "train", 600) if task.kind == "leap"]
    assert {task.answer for task in leaps if task.facts["year"] % 100 == 0} == {"YES", "NO"}
    assert {task.difficulty for task in tasks} == {"easy", "medium", "hard"}


@given(DAY)
def test_written_forms_read_back_to_the_same_date(day: date) -> None:
    for form in FORMS:
        assert dates(f"Answer: {form(day)}") == f"{day}"


def test_verdicts() -> None:
    task = DOMAIN.task("test", 0)
    assert DOMAIN.verify(task, task.answer) is Verdict.RIGHT
    assert DOMAIN.verify(task, "1") is Verdict.WRONG
    assert DOMAIN.verify(task, None) is Verdict.UNPARSED
    cut = DOMAIN.worked(task).rpartition("Answer")[0]
    assert grade(DOMAIN, task, cut, truncated=True) is Verdict.TRUNCATED
    assert grade(DOMAIN, task, cut, truncated=False) is Verdict.UNPARSED


def test_heuristics_fall_short_of_the_work() -> None:
    tasks = items(DOMAIN, "test", 400)
    for heuristic in DOMAIN.heuristics().values():
        assert 0.03 < sum(heuristic(task) == task.answer for task in tasks) / len(tasks) < 0.6


def test_exemplars_are_many_and_varied() -> None:
    lines = DOMAIN.exemplars()
    assert len(lines) >= 24 and len({line.lower() for line in lines}) == len(lines)
    assert all(line == line.strip() != "" for line in lines)
    assert any(line[0].islower() for line in lines) and any(len(line) < 30 for line in lines)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Tuesday", "Tuesday"),
        ("tuesday.", "Tuesday"),
        ("**TUE**", "Tuesday"),
        ("2024-3-5", "2024-03-05"),
        ("2024/03/05", "2024-03-05"),
        ("March 5, 2024", "2024-03-05"),
        ("March 5th 2024.", "2024-03-05"),
        ("Sept. 5, 2024", "2024-09-05"),
        ("5 mar 2024", "2024-03-05"),
        ("the 5th of May, 2024", "2024-05-05"),
        ("42 days", "42"),
        ("1 day", "1"),
        ("1,095", "1095"),
        ("007", "7"),
        ("-42", "-42"),
        ("Yes", "YES"),
        ("no.", "NO"),
        ("Yes, 2024 is a leap year.", "YES"),
    ],
)
def test_parser_reads_what_people_write(said: str, meant: str) -> None:
    assert dates(f"24+6=30\nAnswer: {said}") == meant


@pytest.mark.parametrize(
    "said",
    [
        *("", ".", "-", "?", "42.5", "4,2", "42 weeks", "two days", "9" * 5000, "٤٢", "1e3", "0x10", "+-3"),
        *("2024-02-30", "2023-02-29", "2024-13-01", "0000-01-01", "03/05/2024", "5/3/24", "2024-03-05T10:00"),
        *("2024-03", "2024-03-05 or 2024-03-06", "Mayo 5, 2024", "Ma 5, 2024", "Xyz 5, 2024", "May 32, 2024"),
        *("Tuesday or Wednesday", "Tues", "not Tuesday", "Monday 2024", "Mondayy", "day"),
        *("YES or NO", "yes, no", "No idea", "nope", "yesterday", "November", "not sure", "maybe yes"),
        *("Ma" * 20_000, "yes," * 20_000, "1," * 20_000),
    ],
)
def test_parser_refuses_what_is_no_answer(said: str) -> None:
    assert dates(f"Answer: {said}") is None


def test_parser_needs_an_answer_line_and_takes_the_last() -> None:
    assert dates("It was a Tuesday.") is None
    assert dates("") is None
    assert dates("Answer: Monday\nno, wait\nAnswer: Tuesday") == "Tuesday"


@given(st.text())
def test_parser_never_raises(text: str) -> None:
    for whole in (text, f"Answer: {text}"):
        answer = dates(whole)
        assert answer is None or answer == dates(f"Answer: {answer}")
