"""A scheduler that answers for long keeps nothing of what it has answered."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.request import Generation, Request
from router.engine.scheduler import Scheduler

QUESTIONS = ["hi", "a somewhat longer question, is it not?", "x", "What is it that they all begin with? " * 3]
NAMES = ["one", "two", None]
AT_ONCE = 250
WAIT = 120.0  # seconds after which it fails instead of hanging


@pytest.mark.parametrize("requests", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_is_flat(tiny_base: Path, tiny_adapter: Callable[..., Path], requests: int) -> None:
    """After so many requests it is what it was after a quarter of them, to 8 MB."""
    engine = Engine(find_base(str(tiny_base)), dtype="float32", prefix_bytes=1 << 20)
    engine.add("one", tiny_adapter("one"))
    engine.add("two", tiny_adapter("two"))
    process, sizes = psutil.Process(), []
    with Scheduler(engine) as scheduler:
        for start in range(0, requests, AT_ONCE):
            tickets = [scheduler.submit(asked(i)) for i in range(start, start + AT_ONCE)]
            assert all(isinstance(ticket.result(WAIT), Generation) for ticket in tickets)
            gc.collect()
            sizes.append(process.memory_info().rss)
    assert max(sizes) - sizes[len(sizes) // 4] < 8 << 20, [size >> 20 for size in sizes]


def asked(index: int) -> Request:
    """Requests of several lengths, adapters and limits, no two alike."""
    text = f"{index} {QUESTIONS[index % len(QUESTIONS)]}"
    return Request([{"role": "user", "content": text}], NAMES[index % len(NAMES)], 1 + index % 3)
