"""A whole learning run of a real model, replayed from what it said then; and the real model itself, slowly."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.solve import solve
from distill.teacher import Prompt
from distill.teachers import Local
from router.ledger import Ledger
from specialists.domain import items, load

from .cassette import DEV, FOLDER, PLANTED, TRAIN, Replay, load_into_home, play

CASSETTES = sorted(FOLDER.glob("*.jsonl"))


@pytest.mark.parametrize("path", CASSETTES, ids=lambda path: path.stem)
def test_the_gate_turns_every_planted_strategy_away(path: Path, tmp_path: Path) -> None:
    teacher = Replay(load_into_home(path))
    learnt, planted = play(teacher, tmp_path / "run")
    assert learnt.batches == TRAIN // 10 and len(learnt.versions[0].right) == DEV
    assert len(planted) == len(PLANTED) == 10
    assert [version.why for version in planted if version.accepted] == []
    assert (tmp_path / "run" / "strategy.md").exists()


def test_there_is_a_cassette() -> None:
    assert CASSETTES


@pytest.mark.slow
def test_the_real_base_as_a_teacher() -> None:
    from router.ask import open_engine

    teacher, domain = Local(open_engine(None, "bf16"), "real"), load("scheduling:seeds")
    tried = solve(teacher, domain, items(domain, "dev", 3), "", "examples")
    assert all(one.reply.text.strip() and one.reply.ended == "end_turn" for one in tried)
    (note,) = teacher.ask([Prompt("You keep notes.", "Write one note on booking rooms.", 60)], "journal")
    assert "room" in note.text.lower()
    before = Ledger().totals("real")
    assert before.calls == 4 and before.usage.output > 10 and before.dollars == 0
    again = solve(teacher, domain, items(domain, "dev", 3), "", "examples")
    assert [one.reply.text for one in again] == [one.reply.text for one in tried]
    assert Ledger().totals("real") == before
