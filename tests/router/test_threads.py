"""A thread that is done multiplying leaves no helpers behind."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
import torch

from router.engine.threads import at_most, release


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc, libgomp is Linux's")
def test_helpers_go_and_come_again() -> None:
    counts: list[int] = []

    def work() -> None:
        before = threads()
        for _ in range(2):
            ones = torch.ones(512, 512)
            product = ones @ ones
            assert float(product.sum()) == 512.0**3
            counts.append(threads() - before)
            release()
            counts.append(threads() - before)

    wanted = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
    finally:
        torch.set_num_threads(wanted)
    assert counts == [2, 0, 2, 0]


def test_a_bound_on_threads_is_the_callers_own_and_passes() -> None:
    before = torch.get_num_threads()
    seen: list[int] = []
    with at_most(1):
        assert torch.get_num_threads() == 1
        with at_most(5):
            assert torch.get_num_threads() == 1
    with pytest.raises(KeyError), at_most(1):
        raise KeyError
    assert torch.get_num_threads() == before

    def work() -> None:
        seen.append(torch.get_num_threads())  # this thread's number is set now
        here.set()
        there.wait()
        seen.append(torch.get_num_threads())

    here, there = threading.Event(), threading.Event()
    worker = threading.Thread(target=work)
    worker.start()
    here.wait()
    with at_most(1):
        there.set()
        worker.join()
    assert seen == [before, before]


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))
