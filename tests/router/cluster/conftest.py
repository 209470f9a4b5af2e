"""Three scripted servers, and three versions for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from registry.store import Version

from .asking import publish
from .stand_in import StandIn


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with ExitStack() as stack:
        yield [stack.enter_context(StandIn()) for _ in range(3)]


@pytest.fixture
def versions(tiny_adapter: Callable[..., Path]) -> list[Version]:
    return [publish(tiny_adapter(name), name) for name in ("red", "green", "blue")]
