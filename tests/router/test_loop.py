"""The turns of the decode loop by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.engine.base import find_base
from router.engine.batch import Row
from router.engine.engine import Engine
from router.engine.loop import Failed
from router.engine.request import Request

Make = Callable[..., Path]
ASKED = [("hi", "one", 9), ("x", None, 9), ("what is that?", "two", 9), ("y", "one", 1), ("hi", "two", 3)]


@pytest.fixture
def engine(tiny_base: Path, tiny_adapter: Make) -> Engine:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.add("one", tiny_adapter("one", scale=0.6))
    engine.add("two", tiny_adapter("two", rank=2, scale=0.9))
    return engine


def request(text: str, adapter: str | None = None, most: int = 50) -> Request:
    return Request([{"role": "user", "content": text}], adapter, most)


def test_first_tokens_are_told_one_by_one_and_before_the_others_step(engine: Engine) -> None:
    loop = engine.loop(rows=8, chunk=512)
    rows = [engine.row(request(text, most=most)) for text, most in (("hi", 50), ("x" * 300, 50), ("y", 1))]
    told: list[tuple[int, int, bool]] = []

    def tell(some: list[Row]) -> None:
        told.extend((rows.index(row), len(row.written), row.done) for row in some)

    for row in rows:
        loop.waiting.add(row)
    assert set(loop.turn(tell)) == {rows[0], rows[1]}
    assert sorted(told[:2]) == [(0, 1, False), (2, 1, True)]  # these are short, and were computed together
    assert told[2:] == [(1, 1, False)] and [len(row.written) for row in rows] == [2, 2, 1]
    assert set(loop.turn()) == {rows[0], rows[1]}


@pytest.mark.parametrize("layer", range(4))  # of the first two steps
@pytest.mark.parametrize("already", [1, 3])
def test_whoever_comes_within_a_step_is_told_within_it_and_nobody_is_answered_otherwise(
    engine: Engine, layer: int, already: int
) -> None:
    alone = [engine.generate([request(*one)])[0].text for one in ASKED]
    loop = engine.loop(rows=8, chunk=512)
    rows = [engine.row(request(*one)) for one in ASKED]
    for row in rows:  # their adapters are in memory
        if row.adapter is not None:
            assert loop.parts.adapters.use(row.adapter)
            loop.parts.adapters.release(row.adapter)
    told: list[Row] = []
    looks = 0

    def look() -> bool:
        nonlocal looks
        looks += 1
        if looks - 1 != layer:
            return False
        for row in rows[already:]:
            loop.waiting.add(row)
        return True

    for row in rows[:already]:
        loop.waiting.add(row)
    for _ in range(1 + layer // 2):
        before = [len(row.written) for row in rows[:already]]
        assert not any(told[already:])
        changed = loop.turn(told.extend, look)
    assert set(told) == set(rows) and set(changed) == set(rows[:already])  # told within the turn, before its end
    assert [len(row.written) for row in rows[already:]] == [1] * (len(rows) - already)
    assert all(len(row.written) > was for row, was in zip(rows[:already], before, strict=True))
    while loop.under_way:
        loop.turn(told.extend, look)
    assert [engine.chat.decode(row.written) for row in rows] == alone
    assert not any(row.error for row in rows)


def test_who_comes_within_a_step_and_fails_takes_nobody_along(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    (alone,) = engine.generate([request("hi", "one", 6)])
    logits = engine.model.logits

    def some_fail(*asked: Any, **more: Any) -> Any:
        if len(asked) == 3 and not more and other.started:  # its prompt
            raise RuntimeError("no memory")
        return logits(*asked, **more)

    monkeypatch.setattr(engine.model, "logits", some_fail)
    loop = engine.loop(rows=8, chunk=512)
    row, other = engine.row(request("hi", "one", 6)), engine.row(request("x", None, 6))
    told: list[Row] = []

    def look() -> bool:
        if loop.steps or other in told or len(loop.waiting):
            return False
        loop.waiting.add(other)
        return True

    loop.waiting.add(row)
    while not row.done:
        loop.turn(told.extend, look)
    assert engine.chat.decode(row.written) == alone.text and row.error is None
    assert isinstance(other.error, Failed) and other.done and not loop.under_way
