"""Examples that a teacher writes: checked, balanced, apart from every test, and the same bytes again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.example import Example, balance
from distill.examples import (
    answers_only,
    candidates,
    collect,
    examples,
    held_out,
    read_jsonl,
    retold,
    tasks,
    write_jsonl,
)
from distill.teacher import Reply
from distill.teachers import Solver
from specialists.domain import Domain, Task, items, load, split_of
from specialists.errors import BadInput, Damaged
from specialists.steps import wrong_step

from .teachers import GOOD, Apt


@pytest.fixture
def domain() -> Domain:
    return load("scheduling:half-hour")


def test_only_right_solutions_are_kept_and_the_labels_stay_even(domain: Domain) -> None:
    found = candidates(domain, 40)
    made = collect(Apt(domain), domain, 40, "", found)
    assert len(made.kept) == 40 and balance(made.kept) == {"fits NO": 20, "fits YES": 20}
    assert made.rejected["wrong"] > 5 and "I guess." in made.quoted["wrong"]
    better = collect(Apt(domain), domain, 40, GOOD, found)
    assert better.rejected["wrong"] < made.rejected["wrong"]
    keys = {task.key for task in found}
    assert all(example.key in keys for example in made.kept)
    assert made.kept[0].source["strategy"] == "none" != better.kept[0].source["strategy"]


def test_nothing_is_in_a_test_and_what_is_passed_over_is_counted(domain: Domain) -> None:
    dropped: Counter[str] = Counter()
    found = candidates(domain, 300, dropped=dropped)
    tests = held_out(domain)
    assert tests and len(found) == len({task.key for task in found}) == 900
    for task in found:
        assert task.key not in tests and split_of(domain.name, task.key) == "train"
    assert dropped["in a test"] + dropped["drawn before"] > 0
    seeds = load("scheduling:seeds")
    apart = {task.key for task in items(seeds, "test", 300)}
    assert not apart & {task.key for task in candidates(seeds, 50)}


class Says(Apt):
    """Says the same to everything."""

    def __init__(self, domain: Domain, reply: Reply) -> None:
        super().__init__(domain)
        self.reply = reply

    def _one(self, prompt, purpose):  # type: ignore[no-untyped-def]
        return self.reply


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("Hm."), "unparsed"),
        (Reply("Answer: YES", "max_tokens"), "truncated"),
        (Reply("", "refusal"), "refusal"),
        (Reply("2 + 2 = 5\nAnswer: YES"), "wrong step"),
        (Reply("Answer: NO"), "wrong"),
    ],
)
def test_each_reason_for_a_rejection_is_named(reply: Reply, reason: str, domain: Domain) -> None:
    yes = [task for task in candidates(domain, 10) if task.answer == "YES"]
    with pytest.raises(BadInput, match=f"gave 0 right solutions.*{len(yes)} {reason}.*stronger teacher"):
        collect(Says(domain, reply), domain, 5, "", yes)


def test_what_a_teacher_says_after_the_answer_is_not_learnt(domain: Domain) -> None:
    (task,) = [task for task in candidates(domain, 1) if task.answer][:1]
    teacher = Says(domain, Reply(f"Steps.\nAnswer: {task.answer}\n\nLet me know if you need more!"))
    (example,) = collect(teacher, domain, 1, "", [task]).kept
    assert example.completion == f"Steps.\nAnswer: {task.answer}"


def test_the_solver_needs_no_second_try(domain: Domain) -> None:
    made = collect(Solver(domain), domain, 30, "x", candidates(domain, 30, among=200))
    assert made.rejected == {} and balance(made.kept) == {"fits NO": 15, "fits YES": 15}
    assert [e.completion for e in examples(domain, 5)] == [
        domain.worked(t) for t, _ in zip(tasks(domain), range(5), strict=False)
    ]


def test_answers_only_keeps_question_and_answer(domain: Domain) -> None:
    some = examples(domain, 6)
    bare = answers_only(some)
    assert [e.messages for e in bare] == [e.messages for e in some]
    for example, whole in zip(bare, some, strict=True):
        assert example.completion == whole.completion.splitlines()[-1]
        assert example.completion.startswith("Answer: ")


TEXT = st.text(max_size=30)
EXAMPLES = st.builds(
    lambda question, completion, key, label: Example(
        [{"role": "user", "content": question}], completion, key, label, {"teacher": "t"}
    ),
    TEXT, TEXT, TEXT, TEXT,
)  # fmt: skip


@given(some=st.lists(EXAMPLES, min_size=1, max_size=4))
def test_examples_are_the_same_after_the_file(
    some: list[Example], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("jsonl") / "e.jsonl"
    path.write_bytes(write_jsonl(some))
    again = read_jsonl(path)
    assert again == some and [e.source for e in again] == [dict(e.source) for e in some]
    assert write_jsonl(again) == path.read_bytes()


def test_a_file_that_holds_no_examples_says_so(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    with pytest.raises(BadInput, match="make them with router distill examples"):
        read_jsonl(path)
    path.write_text("")
    with pytest.raises(BadInput, match="holds no example"):
        read_jsonl(path)
    path.write_bytes(write_jsonl(examples(load("cron"), 2)) + b'{"messages": [{"role": "user"')
    with pytest.raises(Damaged, match="Line 3 of .* is no example"):
        read_jsonl(path)


@pytest.mark.parametrize("name", ["scheduling", "dates", "cron"])
def test_a_wrong_step_is_found_though_the_answer_is_right(name: str) -> None:
    domain = load(name)
    spoilt = 0
    for task in items(domain, "dev", 60):
        own = domain.worked(task)
        assert wrong_step(domain, task, own) is None and wrong_step(domain, task, own + "\n") is None
        lines = own.splitlines()
        for at in range(1, len(lines) - 1):
            changed = [*lines[:at], lines[at] + "1", *lines[at + 1 :]]
            assert wrong_step(domain, task, "\n".join(changed)) == lines[at] + "1"
            spoilt += 1
        if len(lines) > 2:
            assert wrong_step(domain, task, "\n".join(lines[:-1]))
    assert spoilt > 20 or name == "cron"


def test_sums_are_checked_whatever_the_method_is() -> None:
    domain: Domain = load("dates")
    task: Task = items(domain, "dev", 1)[0]
    for good in ("So 45+30=75.", "365 - 291 = 74", "3+4+5=12, fine", "10:30-11=?", "1/2+1=2", "2024-01-05=x"):
        assert wrong_step(domain, task, good) is None, good
    for bad in ("So 45+30=76", "365 - 291 = 64", "3+4+5=13"):
        assert wrong_step(domain, task, f"First.\n{bad}\nAnswer: 1") == bad


def test_retold_examples_are_the_same_problems_in_other_words(domain: Domain) -> None:
    """All come once before any comes again, and the same seed tells them the same way."""
    found = examples(domain, 6)
    told = retold(domain, found, 3, seed=1)
    assert told[:6] == found and [one.key for one in told] == [one.key for one in found] * 3
    assert len({one.messages[-1]["content"] for one in told}) == 18
    assert retold(domain, found, 3, seed=1) == told != retold(domain, found, 3, seed=2)
    assert retold(domain, found, 1) == found
    with pytest.raises(BadInput, match="leave out --retell"):
        retold(load("cron"), examples(load("cron"), 2), 2)
