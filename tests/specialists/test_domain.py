"""What every domain promises, and the parsers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specialists.domain import Verdict, grade, items, load, names, split_of
from specialists.errors import BadInput
from specialists.parsers import PARSERS, answer_line, scheduling
from specialists.prompts import PROMPTS

DOMAINS = ("scheduling", "scheduling:half-hour", "scheduling:seeds", "dates", "cron")


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_is_a_dataset_and_its_grader(name: str) -> None:
    domain = load(name)
    assert domain.prompt in PROMPTS and domain.parser in PARSERS
    found = items(domain, "dev", 40)
    assert len({task.key for task in found}) == 40
    for task in found:
        assert domain.verify(task, task.answer) is Verdict.RIGHT
        assert domain.verify(task, None) is Verdict.UNPARSED
        assert grade(domain, task, domain.worked(task), truncated=False) is Verdict.RIGHT
        assert grade(domain, task, "hm", truncated=True) is Verdict.TRUNCATED
        assert grade(domain, task, "hm", truncated=False) is Verdict.UNPARSED
    assert found == items(domain, "dev", 40)


@pytest.mark.parametrize("name", ["scheduling", "scheduling:half-hour", "dates", "cron"])
def test_splits_share_nothing(name: str) -> None:
    domain = load(name)
    for split in ("train", "dev", "test", "test-7"):
        for index in range(25):
            assert split_of(name, domain.task(split, index).key) == split.split("-")[0]


@pytest.mark.parametrize("name", DOMAINS)
def test_exemplars_are_twenty_or_more_and_differ(name: str) -> None:
    found = load(name).exemplars()
    assert len(found) == len(set(found)) >= 20


def test_unknown_names_say_what_there_is() -> None:
    assert set(names()) >= {"scheduling", "dates", "cron"}
    with pytest.raises(BadInput, match="known domains: .*cron"):
        load("cooking")
    with pytest.raises(BadInput, match="half-hour"):
        load("scheduling:weekly")
    with pytest.raises(BadInput, match="no split 'exam'"):
        load("dates").task("exam", 0)


@given(st.text(max_size=300))
def test_parsers_never_fail(text: str) -> None:
    for parse in PARSERS.values():
        for said in (text, f"Answer: {text}"):
            assert parse(said) is None or parse(said) == parse(said)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: YES", "YES"),
        ("so the **answer is:** no.", "NO"),
        ("Answer: NO\nAnswer: YES", "YES"),
        ("Answer: 3 rooms", "3"),
        ("Answer: 03", "3"),
        ("Answer: 9:00-10:15, 13:30 – 16:00", "09:00-10:15, 13:30-16:00"),
        ("Answer: 12:30", "12:30-12:30"),
        ("Answer: None", "none"),
        ("YES", None),
        ("Answer:", None),
        ("Answer: perhaps", None),
        ("Answer: 25:00-26:00", None),
        ("Answer: 09:00-10:00-11:00", None),
        ("Answer: " + "9" * 5000, None),
        ("Answer: yesterday", None),
    ],
)
def test_scheduling_parser(text: str, answer: str | None) -> None:
    assert scheduling(text) == answer


def test_answer_line_takes_the_last() -> None:
    assert answer_line("Answer: a\nthen **Answer: `b`.**") == "b"
    assert answer_line("no such line") is None
