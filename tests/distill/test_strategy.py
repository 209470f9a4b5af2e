"""The journal and the strategies that come of it: what is kept, what is rolled back, and going on after a stop."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.journal import MOST_NOTES, Journal, Note, read_json
from distill.solve import solve, system_prompt
from distill.strategy import Learnt, Version, consider, judge, learn
from distill.teacher import Reply
from distill.teachers import Solver
from specialists.domain import Domain, Verdict, items, load, method
from specialists.errors import BadInput, Damaged

from .teachers import BAD, GOOD, Apt


@pytest.fixture
def domain() -> Domain:
    return load("scheduling:half-hour")


def test_the_teacher_sees_the_strategy_and_the_verdicts_are_the_checkers(domain: Domain) -> None:
    tasks = items(domain, "dev", 20)
    apt = Apt(domain)
    plain, better = solve(apt, domain, tasks, "", "x"), solve(apt, domain, tasks, GOOD, "x")
    assert sum(one.right for one in better) > sum(one.right for one in plain) > 0
    assert apt.asked[0][1].system == system_prompt(domain) and GOOD in apt.asked[-1][1].system
    assert all(one.verdict in (Verdict.RIGHT, Verdict.WRONG) for one in plain)


def test_what_ended_badly_is_told_apart(domain: Domain) -> None:
    from distill.solve import attempt

    (task,) = items(domain, "dev", 1)
    cases = {"refusal": Verdict.ERRORED, "max_tokens": Verdict.TRUNCATED, "end_turn": Verdict.UNPARSED}
    for ended, verdict in cases.items():
        assert attempt(domain, task, Reply("Hm.", ended)).verdict is verdict


def test_a_good_strategy_is_learnt_and_every_version_is_on_disk(domain: Domain, tmp_path: Path) -> None:
    apt = Apt(domain, [BAD[0], GOOD, BAD[1]])
    said: list[str] = []
    learnt = learn(apt, domain, items(domain, "train", 30), items(domain, "dev", 30), tmp_path, said.append)
    assert [version.accepted for version in learnt.versions] == [True, False, True, False]
    assert learnt.best.text == GOOD and (tmp_path / "strategy.md").read_text() == GOOD + "\n"
    assert sorted(path.name for path in tmp_path.glob("v*.md")) == ["v00.md", "v01.md", "v02.md", "v03.md"]
    assert "rolled back, does not help" in said[0] and "accepted, helps" in said[1]
    assert "+" + GOOD in learnt.diff(learnt.versions[2])
    # After the bad one was rolled back, the good one came from the first, not from the bad one.
    assert learnt.versions[2].parent == 0 and learnt.versions[3].parent == 2
    assert Learnt.from_json(learnt.to_json()) == learnt


def test_the_journal_shows_reasoning_verdicts_and_counts(domain: Domain, tmp_path: Path) -> None:
    apt = Apt(domain, [GOOD, BAD[0]])
    learnt = learn(apt, domain, items(domain, "train", 20), items(domain, "dev", 10), tmp_path)
    first, second = [prompt.text for purpose, prompt in apt.asked if purpose == "strategy journal"]
    assert "I guess." in first and "Verdict: wrong; answered" in first and "Verdict: right" in first
    assert "(none yet)" in first and "n1 (helpful 0, harmful 0)" in second
    assert learnt.journal.notes[0].helpful == 1 and learnt.journal.notes[0].id == "n1"


@pytest.mark.parametrize("bad", BAD)
def test_the_gate_turns_a_planted_bad_strategy_away(bad: str, domain: Domain) -> None:
    """Ten of ten, under a parent without and under one with a strategy."""
    apt, dev = Apt(domain), items(domain, "dev", 30)
    for text in ("", GOOD):
        right = tuple(one.right for one in solve(apt, domain, dev, text, "x"))
        learnt = Learnt([Version(0, text, None, right, True, "")])
        found = consider(apt, domain, dev, bad, learnt, learnt.versions[0])
        assert not found.accepted and learnt.best.version == 0 and "does not help" in found.why


def test_a_gain_that_luck_could_give_is_not_believed(domain: Domain) -> None:
    dev = items(domain, "dev", 30)
    good = solve(Apt(domain), domain, dev, GOOD, "x")
    hits = [index for index, one in enumerate(good) if one.right]
    for gained, believed in ((3, False), (4, True)):
        right = tuple(one.right and index not in hits[:gained] for index, one in enumerate(good))
        accepted, why = judge(Version(0, "", None, right, True, ""), good)
        assert accepted is believed and ("helps" if believed else "by luck") in why


def test_one_answer_to_everything_is_no_strategy_even_if_it_scores(domain: Domain) -> None:
    dev = items(domain, "dev", 30)
    parent = Version(0, "", None, tuple(False for _ in dev), True, "")

    class Constant(Apt):
        def _one(self, prompt, purpose):  # type: ignore[no-untyped-def]
            return Reply("Answer: YES")

    accepted, why = judge(parent, solve(Constant(domain), domain, dev, "", "x"))
    assert not accepted and "answers 'YES' to 30 of 30" in why
    # Where nearly nine of ten are YES as well: nothing was solved.
    mostly = items(load("scheduling:seeds"), "dev", 30)
    assert sum(task.answer == "YES" for task in mostly) >= 23
    accepted, why = judge(parent, solve(Constant(domain), domain, mostly, "", "x"))
    assert not accepted and "answers 'YES' to 30 of 30" in why


def test_the_pareto_set_keeps_who_alone_solves_something() -> None:
    def version(number: int, right: str, accepted: bool = True) -> Version:
        return Version(number, f"text {number}", None, tuple(mark == "x" for mark in right), accepted, "")

    learnt = Learnt(
        [version(0, "xx..."), version(1, "..xxx"), version(2, "..xx."), version(3, "xxxxx", False)]
    )
    assert [one.version for one in learnt.front()] == [1, 0]
    learnt.versions.append(version(4, "xx..."))  # the same as the first: the first stays
    assert [one.version for one in learnt.front()] == [1, 0]
    learnt.versions.append(version(5, "xxxx."))
    assert [one.version for one in learnt.front()] == [5, 1]


def test_stopped_at_any_call_it_goes_on_to_the_same_end(domain: Domain, tmp_path: Path) -> None:
    train, dev = items(domain, "train", 30), items(domain, "dev", 10)

    class Stops(Apt):
        """Keeps its answers by prompt, as every teacher that writes does, and stops at one call."""

        kept: dict[str, list[Reply]]
        left: int

        def ask(self, prompts, purpose, done=None):  # type: ignore[no-untyped-def]
            key = repr((purpose, prompts))
            if key not in self.kept:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                self.kept[key] = super().ask(prompts, purpose, done)
            return self.kept[key]

    def start(kept: dict[str, list[Reply]], strategies: list[str], left: int) -> Stops:
        teacher = Stops(domain)
        teacher.strategies, teacher.kept, teacher.left = strategies, kept, left
        return teacher

    whole = learn(start({}, [BAD[0], GOOD, BAD[1]], 99), domain, train, dev, tmp_path / "whole")
    for stop in range(1, 13):
        folder, kept, strategies = tmp_path / f"stop{stop}", {}, [BAD[0], GOOD, BAD[1]]
        with pytest.raises(KeyboardInterrupt):
            learn(start(kept, strategies, stop), domain, train, dev, folder)
        calls = len(kept)
        again = learn(start(kept, strategies, 99), domain, train, dev, folder)
        assert calls == stop and len(kept) == 13
        assert again.to_json() == whole.to_json()
        assert (folder / "strategy.json").read_bytes() == (tmp_path / "whole" / "strategy.json").read_bytes()


def test_what_cannot_be_done_is_said(domain: Domain, tmp_path: Path) -> None:
    dev = items(domain, "dev", 1)
    with pytest.raises(BadInput, match="solver cannot write a journal"):
        learn(Solver(domain), domain, dev, dev, tmp_path)
    with pytest.raises(BadInput, match="at least one"):
        learn(Apt(domain), domain, dev, [], tmp_path)
    (tmp_path / "strategy.json").write_text('{"versions": [')
    with pytest.raises(Damaged, match="delete it to learn again"):
        learn(Apt(domain), domain, dev, dev, tmp_path)


def test_notes_are_counted_never_renumbered_and_the_worst_go() -> None:
    notes = tuple(Note(f"n{i}", f"note {i}", helpful=i, harmful=3) for i in range(1, MOST_NOTES + 1))
    said = json.dumps(
        {
            "marks": [{"id": "n2", "effect": "helpful"}, {"id": "n9", "effect": "harmful"}, {"id": "zz"}],
            "notes": ["NOTE  2", "fresh", "fresh", 7],
        }
    )
    after = Journal(notes, MOST_NOTES).after(said)
    by_id = {note.id: note for note in after.notes}
    assert by_id["n2"].helpful == 3 and by_id["n9"].harmful == 4
    assert by_id[f"n{MOST_NOTES + 1}"].text == "fresh" and "n1" not in by_id
    assert len(after.notes) == MOST_NOTES and after.made == MOST_NOTES + 1


@given(st.text(max_size=80))
def test_any_text_for_a_reflection_leaves_a_journal(text: str) -> None:
    before = Journal((Note("n1", "a"),), 1)
    after = before.after(text)
    assert after.notes[0].id == "n1" and after.made >= 1


@given(st.dictionaries(st.text(max_size=5), st.lists(st.integers() | st.text(max_size=5), max_size=3)))
def test_json_is_found_among_words(value: dict[str, object]) -> None:
    assert read_json(f"Sure! ```json\n{json.dumps(value)}\n``` Done.") == value


def test_every_domain_has_a_method_in_words() -> None:
    for name in ("scheduling", "scheduling:half-hour", "dates", "cron"):
        assert method(load(name)).startswith("#")
