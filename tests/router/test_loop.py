"""The turns of the decode loop by themselves."""

from __future__ import annotations

from pathlib import Path

from router.engine.base import find_base
from router.engine.batch import Row
from router.engine.engine import Engine
from router.engine.request import Request


def test_first_tokens_are_told_before_the_others_step_and_hold_it_up_once(tiny_base: Path) -> None:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    loop = engine.loop(rows=8, chunk=512)
    rows = [
        engine.row(Request([{"role": "user", "content": text}], None, 50)) for text in ("hi", "x", "y", "z")
    ]
    written = []
    for row in rows:  # one more comes before every turn
        loop.waiting.add(row)
        loop.turn()
        written.append([len(one.written) for one in rows])
    assert written == [[1, 0, 0, 0], [2, 2, 0, 0], [2, 2, 1, 0], [3, 3, 2, 2]]
    loop.turn()
    assert [len(one.written) for one in rows] == [4, 4, 3, 3]


def test_first_tokens_before_a_step_are_told_when_they_are_there(tiny_base: Path) -> None:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    loop = engine.loop(rows=8, chunk=512)
    rows = [
        engine.row(Request([{"role": "user", "content": text}], None, most))
        for text, most in (("hi", 50), ("x", 50), ("only one", 1))
    ]
    told: list[tuple[int, bool]] = []

    def tell(some: list[Row]) -> None:
        told.extend((len(row.written), row.done) for row in some)

    loop.waiting.add(rows[0])
    assert loop.turn(tell) == [rows[0]] and not told  # nobody else's step would follow
    loop.waiting.add(rows[1])
    loop.waiting.add(rows[2])
    assert set(loop.turn(tell)) == {rows[0], rows[1]}
    assert sorted(told) == [(1, False), (1, True)] and len(rows[1].written) == 2
