"""What tests of residency share: readings that can be held up, and what is in memory."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from router.engine import residency as module
from router.engine.request import Request
from router.engine.residency import Residency

SIZE = (
    4 * 4 * 2 * 512
)  # bytes in memory of a tiny adapter of rank 4: float32, two layers, 512 inputs and outputs each
WAIT = 120.0  # seconds after which a test fails instead of hanging

Make = Callable[..., Path]


class Reads:
    """Readings of adapters by folder name; those of a gated one wait until its gate is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self._read = module.read_adapter
        monkeypatch.setattr(module, "read_adapter", self)

    def __call__(self, folder: Path, *rest: Any) -> Any:
        self.names.append(folder.name)
        if gate := self.gates.get(folder.name):
            assert gate.wait(WAIT)
        return self._read(folder, *rest)

    def gate(self, name: str) -> threading.Event:
        """Have readings of a folder of that name wait for this."""
        return self.gates.setdefault(name, threading.Event())


def ask(adapter: str | None, most: int = 4, text: str = "hi") -> Request:
    return Request([{"role": "user", "content": text}], adapter, most)


def resident(residency: Residency) -> list[str]:
    """Names of what is in memory, the least recently used first."""
    named = {key: name for name, key in residency.names.items()}
    return [named[key] for key in residency.resident]


def use(residency: Residency, name: str) -> None:
    """As a row does that begins and ends at once."""
    key = residency.hold(name)
    residency.want([key])
    residency.wait(key)
    assert residency.use(key)
    residency.release(key)
    residency.let_go(key)


def settled(residency: Residency) -> None:
    """Nobody uses anything, and the bytes are those of what is there; what is still being read is waited for."""
    end = time.monotonic() + 10
    while any(record.loading for record in residency._records.values()) and time.monotonic() < end:
        time.sleep(0.01)
    assert residency.bytes == sum(adapter.bytes for adapter in residency.resident.values())
    assert not any(record.used or record.held or record.loading for record in residency._records.values())
    assert set(residency.resident) <= set(residency._records) == set(residency.names.values())


def spoil(folder: Path, how: str) -> None:
    """Change or remove the weights of an adapter that was added."""
    if how == "removed":
        shutil.rmtree(folder)
    elif how == "cut":
        path = folder / module.WEIGHTS
        path.write_bytes(path.read_bytes()[:-100])
    else:
        weights = bytearray((folder / module.WEIGHTS).read_bytes())
        weights[-1] ^= 1
        (folder / module.WEIGHTS).write_bytes(weights)
