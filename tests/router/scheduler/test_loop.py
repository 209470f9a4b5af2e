"""The turns of the decode loop by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from router.engine.batch import Row
from router.engine.engine import Engine
from router.engine.loop import Failed

from .conftest import ask

ASKED = [("hi", "one", 9), ("x", None, 9), ("what is that?", "two", 9), ("y", "one", 1), ("hi", "two", 3)]


class Crowd:
    """Comes at given looks. coming: look, counted from 0 -> rows."""

    def __init__(self, coming: dict[int, list[Row]] | None = None) -> None:
        self.coming = coming or {}
        self.told: list[tuple[Row, int, bool]] = []
        self.looks = 0
        self.loop: Any = None

    def tell(self, rows: list[Row]) -> None:
        self.told.extend((row, len(row.written), row.done) for row in rows)

    def look(self) -> bool:
        come = self.coming.get(self.looks, [])
        self.looks += 1
        for row in come:
            self.loop.waiting.add(row)
        return bool(come)


def test_first_tokens_are_told_one_by_one_and_before_the_others_step(engine: Engine) -> None:
    crowd = Crowd()
    loop = engine.loop(rows=8, chunk=512, outside=crowd)
    short, long, last = (
        engine.row(ask(text, most=most)) for text, most in (("hi", 50), ("x" * 300, 50), ("y", 1))
    )
    for row in (short, long, last):
        loop.waiting.add(row)
    assert set(loop.turn()) == {short, long}
    first, second, third = crowd.told  # the short ones were computed together
    assert {first, second} == {(short, 1, False), (last, 1, True)} and third == (long, 1, False)
    assert [len(row.written) for row in (short, long, last)] == [2, 2, 1]
    assert set(loop.turn()) == {short, long} and len(crowd.told) == 3


@pytest.mark.parametrize("look", range(6))  # of the prompts' two layers and of the first steps'
@pytest.mark.parametrize("already", [1, 3])
def test_whoever_comes_within_a_turn_is_told_within_it_and_nobody_is_answered_otherwise(
    engine: Engine, look: int, already: int
) -> None:
    alone = [engine.generate([ask(*one)])[0].text for one in ASKED]
    rows = [engine.row(ask(*one)) for one in ASKED]
    crowd = Crowd({look: rows[already:]})
    loop = crowd.loop = engine.loop(rows=8, chunk=512, outside=crowd)
    for row in rows:  # their adapters are in memory
        if row.adapter is not None:
            assert loop.parts.adapters.use(row.adapter)
            loop.parts.adapters.release(row.adapter)
    for row in rows[:already]:
        loop.waiting.add(row)
    while not any(row.first for row in rows[already:]):
        assert crowd.looks <= look and (loop.under_way or not crowd.looks)
        changed = loop.turn()
    assert set(changed) <= set(rows[:already])  # the others were told before the turn ended
    assert sorted(crowd.told[already:], key=lambda one: rows.index(one[0])) == [
        (row, 1, row.limit == 1) for row in rows[already:]
    ]
    while loop.under_way:
        loop.turn()
    assert [engine.chat.decode(row.written) for row in rows] == alone
    assert len(crowd.told) == len(rows) and not any(row.error for row in rows)


def test_short_prompts_overtake_long_ones(engine: Engine) -> None:
    asked = [("x" * 300, "one", 5), ("hi", None, 5), ("y" * 290, None, 5), ("hi", "one", 5)]
    alone = [engine.generate([ask(*one)])[0].text for one in asked]
    long, short, other, last = rows = [engine.row(ask(*one)) for one in asked]
    crowd = Crowd({0: [short, other], 1: [last]})
    loop = crowd.loop = engine.loop(rows=8, chunk=512, outside=crowd)
    loop.waiting.add(long)
    loop.turn()
    assert [row for row, *_ in crowd.told[:3]] == [
        short,
        last,
        long,
    ] and short.first < last.first < long.first
    while loop.under_way or len(loop.waiting):
        loop.turn()
    assert [engine.chat.decode(row.written) for row in rows] == alone and len(crowd.told) == 4


def test_no_more_is_computed_within_a_step_than_before_one(engine: Engine) -> None:
    talker, *others = (engine.row(ask(text, most=50)) for text in ("hi", "x" * 200, "y" * 200, "z" * 200))
    crowd = Crowd({2: others})
    loop = crowd.loop = engine.loop(rows=8, chunk=256, outside=crowd)
    loop.waiting.add(talker)
    while not any(row.first for row in others):
        loop.turn()
    assert len(talker.written) > 1 and len(crowd.told) == 2  # of the 256 positions within a step
    while loop.under_way and not all(row.first for row in others):
        before = len(talker.written)
        loop.turn()
        assert len(talker.written) > before or talker.done


def test_who_comes_within_a_step_and_fails_takes_nobody_along(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = engine.generate([ask("hi", "one", 6)])
    row, other = engine.row(ask("hi", "one", 6)), engine.row(ask("x", None, 6))
    crowd = Crowd({3: [other]})  # a prompt's two layers, and one of a step's
    loop = crowd.loop = engine.loop(rows=8, chunk=512, outside=crowd)
    logits = engine.model.logits

    def some_fail(*asked: Any, **more: Any) -> Any:
        if other.started:
            raise RuntimeError("no memory")
        return logits(*asked, **more)

    monkeypatch.setattr(engine.model, "logits", some_fail)
    loop.waiting.add(row)
    loop.turn()
    assert isinstance(other.error, Failed) and other.done and (other, 0, True) in crowd.told
    monkeypatch.undo()
    while not row.done:
        loop.turn()
    assert engine.chat.decode(row.written) == alone.text and row.error is None and not loop.under_way
