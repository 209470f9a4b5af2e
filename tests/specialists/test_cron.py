"""The cron domain: its questions, its grader and its parser."""

from __future__ import annotations

import re
from collections import Counter
from datetime import datetime, timedelta

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from specialists import domain
from specialists.cron import Cron, days, firing, times
from specialists.domain import Task, Verdict, grade, items
from specialists.parsers import cron

CRON = Cron()
ROOTS = st.sampled_from(("train", "dev", "test", "test-7"))


def tokens(text: str) -> int:
    """At least the tokens Qwen2.5 needs (5,000 solutions: 1 % to 26 % more): digits, signs, words, gaps."""
    return len(re.findall(r"\d|[A-Za-z]+|[^\w\s]|\n| (?=\d)", text))


@pytest.fixture(scope="module")
def tested() -> list[Task]:
    """The first test items."""
    return items(CRON, "test", 320)


@settings(max_examples=150, deadline=None)
@given(split=ROOTS, index=st.integers(0, 10**6))
def test_every_worked_solution_is_right(split: str, index: int) -> None:
    task = CRON.task(split, index)
    text = CRON.worked(task)
    assert grade(CRON, task, text, truncated=False) is Verdict.RIGHT
    assert task == CRON.task(split, index)
    assert domain.split_of("cron", task.key) == split.split("-")[0]
    assert tokens(text) <= CRON.max_new_tokens
    assert "{" not in task.question and "  " not in task.question
    assert re.search(r"\b1 minutes|only only", task.question) is None


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6))
def test_every_step_repeats_words_of_the_question(index: int) -> None:
    task = CRON.task("train", index)
    for step in task.facts["steps"].values():
        for time in re.findall(r"\b\d{1,2}:\d\d(?: ?[ap]m)?", step, re.IGNORECASE):
            assert time in task.question


@settings(max_examples=60, deadline=None)
@given(index=st.integers(0, 10**6))
def test_difficulty_counts_the_restricted_fields(index: int) -> None:
    task = CRON.task("test", index)
    restricted = sum(field != "*" for field in task.key.split())
    assert {"easy": restricted <= 2, "medium": restricted == 3, "hard": restricted == 4}[task.difficulty]
    _, _, day, _, weekday = task.key.split()
    assert "*" in (day, weekday)  # both restricted would mean either, which few who ask know


def test_splits_share_nothing(tested: list[Task]) -> None:
    keys = {split: {task.key for task in items(CRON, split, 100)} for split in ("train", "dev")}
    keys["test"] = {task.key for task in tested}
    assert sorted(map(len, keys.values())) == [100, 100, 320]
    assert (
        not keys["train"] & keys["test"]
        and not keys["train"] & keys["dev"]
        and not keys["dev"] & keys["test"]
    )


def test_labels_are_balanced_within_every_difficulty(tested: list[Task]) -> None:
    for n in (96, 320):
        found = tested[:n]
        for difficulty in ("easy", "medium", "hard"):
            counts = Counter(task.label for task in found if task.difficulty == difficulty)
            assert set(counts) == ({"minutes", "hourly"} if difficulty != "hard" else set()) | {
                *("hours", "window", "daily", "times")
            }
            assert min(counts.values()) >= 0.75 * max(counts.values())


def test_there_are_many_phrases_and_schedules() -> None:
    phrases = [one for table in (times.PHRASES, days.PHRASES) for group in table.values() for one in group]
    assert len(set(phrases)) >= 80
    found = [CRON.task("train", index) for index in range(300)]
    assert len({task.key for task in found}) > 280
    assert len({task.question for task in found}) > 295


def firings(expression: str, start: datetime, end: datetime) -> list[datetime]:
    """Every firing from start to end, both included, by croniter's own iteration."""
    walk = croniter(expression, start - timedelta(minutes=1), ret_type=datetime)
    found = []
    while (at := walk.get_next(datetime)) <= end:
        found.append(at)
    return found


ODD = (
    "0 12 13 * 5",
    "30 6 1-31 * 1",
    "0 0 29 2 *",
    "15 3 * 2 6-7",
    "0 9 31 * *",
    "0 1 1,15 6 0",
    "5 4 */10 * mon",
)


@pytest.mark.parametrize("expression", [*ODD, *(CRON.task("test", index).answer for index in range(0, 16))])
def test_firing_is_what_croniter_iterates(expression: str) -> None:
    fires = firing.firing(expression)
    assert fires is not None
    start = datetime(2028, 1, 1)
    often = len(fires.minutes) * len(fires.hours) * len(fires.dates) / 7
    end = datetime(2028, 12, 31, 23, 59) if often <= 800 else start + timedelta(days=4)
    predicted = [
        at
        for day in range((end - start).days + 1)
        for date in [start + timedelta(days=day)]
        if (date.month, date.day, date.isoweekday() % 7) in fires.dates
        for hour in sorted(fires.hours)
        for minute in sorted(fires.minutes)
        if (at := date.replace(hour=hour, minute=minute)) <= end
    ]
    assert predicted == firings(expression, start, end)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("*/15 * * * *", "0,15,30,45 * * * *"),
        ("30 14 * * 1-5", "30 14 * * MON-FRI"),
        ("30 14 * * 1-5", "30 14 * * mon,tue,wed,thu,fri"),
        ("0 9 * * 0", "0 9 * * 7"),
        ("0 9 * * 5,6,0", "0 9 * * 5-7"),
        ("0 9 1 1,4,7,10 *", "0 9 1 */3 *"),
        ("0 9 1 1,4,7,10 *", "00 09 01 JAN,APR,JUL,OCT *"),
        ("0 0 * * *", "0 0 * * 0-6"),
        ("0 0 * * *", "0 0 1-31 1-12 *"),
        ("0 0 29-30 2 *", "0 0 29 2 *"),
        ("0 0 1-31 * 1", "0 0 * * *"),
        ("5-59/15 * * * *", "5,20,35,50 * * * *"),
        ("* 0-23 * * *", "* * * * *"),
    ],
)
def test_equal_schedules_are_right_however_spelled(one: str, other: str) -> None:
    assert firing.same(one, other) and firing.same(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("30 14 * * 1-5", "30 2 * * 1-5"),
        ("30 14 * * 1-5", "30 14 * * 1-6"),
        ("0 */4 * * *", "* */4 * * *"),
        ("*/10 9-17 * * *", "*/10 9-16 * * *"),
        ("0 0 1 * *", "0 0 1 1 *"),
        ("0 0 1 * 1", "0 0 * * 1"),
        ("0 0 13 * 5", "0 0 13 * *"),
        ("0 0 * * 6,0", "0 0 * * 1,0"),
        ("14 30 * * *", "30 14 * * *"),
    ],
)
def test_near_misses_differ(one: str, other: str) -> None:
    assert not firing.same(one, other)


MALFORMED = (
    "60 * * * *",
    "0 24 * * *",
    "0 0 0 * *",
    "0 0 0-5 * *",
    "0 0 * 13 *",
    "0 0 * * 8",
    "0 0 * * 5-1",
    "0 0 L * *",
    "0 0 * * 5#2",
    "0 0 15W * *",
    "H H * * *",
    "R 0 * * *",
    "*/0 * * * *",
    "0 0 * * MONDAY",
    "0 0 ? * *",
    "0 0 , * *",
    "1-2-3 * * * *",
    "99999999999 * * * *",
    "-5 * * * *",
)


@pytest.mark.parametrize("expression", MALFORMED)
def test_five_malformed_fields_are_wrong(expression: str) -> None:
    task = CRON.task("test", 0)
    assert firing.firing(expression) is None
    assert not firing.same(expression, expression)
    assert CRON.verify(task, expression) is Verdict.WRONG


def test_no_answer_is_unparsed_and_half_of_one_is_truncated() -> None:
    task = CRON.task("test", 0)
    assert CRON.verify(task, None) is Verdict.UNPARSED
    assert grade(CRON, task, "minute: 5 -> 5\nhour: *", truncated=False) is Verdict.UNPARSED
    assert grade(CRON, task, "minute: 5 -> 5\nhour: *", truncated=True) is Verdict.TRUNCATED
    assert grade(CRON, task, "Answer: 0 0 *", truncated=True) is Verdict.TRUNCATED
    assert grade(CRON, task, "Answer: 61 0 * * *", truncated=False) is Verdict.WRONG


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 30 14 * * 1-5", "30 14 * * 1-5"),
        ("hour: 14\nanswer is:  30   14 *\t* 1-5 ", "30 14 * * 1-5"),
        ("Answer: `30 14 * * 1-5`", "30 14 * * 1-5"),
        ("Answer: `30 14 * * 1-5` which fires on weekdays.", "30 14 * * 1-5"),
        ("Answer: 30 14 * * 1-5.", "30 14 * * 1-5"),
        ("Answer: 30 14 * * mon-Fri", "30 14 * * MON-FRI"),
        ("Answer: 0 0 1 jan,JUL *", "0 0 1 JAN,JUL *"),
        ("Answer: * * * * *", "* * * * *"),
        ("Answer: `* * * * *`", "* * * * *"),
        ("**Answer: */5 * * * ***", "*/5 * * * *"),
        ("**Answer:** */5 * * * *", "*/5 * * * *"),
        ("**Answer:** `*/5 * * * *`", "*/5 * * * *"),
        ("**Answer: `*/5 * * * *`**", "*/5 * * * *"),
        ("Answer: **30 14 * * 1-5**", "30 14 * * 1-5"),
        ("Answer: ***/5 * * * ***", "*/5 * * * *"),
        ("Answer: *** * * * ***", "* * * * *"),
        ("Answer:\n```cron\n*/5 * * * *\n```", "*/5 * * * *"),
        ("Answer:\n```\n0 0 1 1 *\n```\nThis runs yearly.", "0 0 1 1 *"),
        (r"Answer: 0 0 \* \* \*", "0 0 * * *"),
        ("Answer: 0 0 * * * # midnight", "0 0 * * *"),
        ("Answer: 0 0 * * *\nminute: 0", "0 0 * * *"),
        ("Answer: 1 1 * * *\nNo.\nAnswer: 2 2 * * *", "2 2 * * *"),
        ("Answer: 99 99 * * 9", "99 99 * * 9"),  # five fields that make no sense: parsed, and wrong
        ("30 14 * * 1-5", None),
        ("Answer:", None),
        ("Answer: 30 14 * *", None),
        ("Answer: 0 30 14 * * 1-5", None),
        ("Answer: 30 14 * * 1-5 /usr/bin/true", None),
        ("Answer: every weekday at half past", None),
        ("Answer: it runs at 2:30 pm", None),
        ("Answer: @daily", None),
        ("Answer: 30 14 * *\n1-5", None),
        ("Answer: ٣٠ ١٤ * * *", None),
        ("Answer: " + "* " * 20000, None),
        ("", None),
    ],
)
def test_parser(text: str, answer: str | None) -> None:
    assert cron(text) == answer


@given(st.text(alphabet="answer: *`/,-0123456789\n.#MON$\"'", max_size=80))
def test_parser_gives_five_fields_or_nothing(text: str) -> None:
    found = cron("Answer: " + text)
    if found is not None:
        assert len(found.split(" ")) == 5
        assert CRON.verify(CRON.task("test", 1), found) in (Verdict.RIGHT, Verdict.WRONG)


def test_shortcuts_answer_in_the_right_form_and_skip_the_work(tested: list[Task]) -> None:
    tasks = tested[:120]
    for shortcut in CRON.heuristics().values():
        answers = [shortcut(task) for task in tasks]
        assert all(cron(f"Answer: {answer}") == answer for answer in answers)
        right = sum(
            CRON.verify(task, answer) is Verdict.RIGHT for task, answer in zip(tasks, answers, strict=True)
        )
        assert right < 0.4 * len(tasks)


def test_exemplars_are_varied_and_not_test_items(tested: list[Task]) -> None:
    exemplars = CRON.exemplars()
    assert len(exemplars) >= 24 and len(set(exemplars)) == len(exemplars) and all(exemplars)
    named = sum("cron" in one.lower() for one in exemplars)
    assert 8 <= named <= len(exemplars) - 8
    assert not {task.question for task in tested} & set(exemplars)
