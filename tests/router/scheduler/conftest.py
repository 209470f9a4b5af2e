"""A tiny engine under a scheduler, and a gate that its forwards wait at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.request import Request
from router.engine.scheduler import Scheduler

QUESTIONS = ["hi", "a somewhat longer question, is it not?", "x", "What is it that they all begin with? " * 3]
NAMES = ["one", "two", None]
WAIT = 120.0  # seconds after which a test fails instead of hanging
Make = Callable[..., Path]


def ask(text: str = "hi", adapter: str | None = None, most: int = 8, **more: Any) -> Request:
    return Request([{"role": "user", "content": text}], adapter, most, **more)


@pytest.fixture
def engine(tiny_base: Path, tiny_adapter: Make) -> Engine:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.add("one", tiny_adapter("one", scale=0.6))
    engine.add("two", tiny_adapter("two", rank=2, scale=0.9))
    return engine


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    with Scheduler(engine, rows=4) as scheduler:
        yield scheduler


class Gate:
    """A model's logits that wait for `open`, or fail as often as told."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.faults: list[Callable[[Any], bool]] = []  # each fails the first call that it is true of
        self._logits = engine.model.logits
        monkeypatch.setattr(engine.model, "logits", self)

    def __call__(self, ids: Any, *rest: Any, **more: Any) -> Any:
        self.entered.set()
        assert self.open.wait(WAIT)
        for fault in self.faults:
            if fault(ids):
                self.faults.remove(fault)
                raise RuntimeError("no memory")
        return self._logits(ids, *rest, **more)


@pytest.fixture
def gate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(engine, monkeypatch)
