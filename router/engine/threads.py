"""Threads that multiply. Libgomp's wait for each other without sleeping only while they are no more than processors.

Every Python thread that multiplies gets helpers of its own, which stay when it is done. With one such thread too many
all of them sleep and are woken at every product: a product of one row took 160 us instead of 4, a step of decoding half
as long again (two cores). So whoever is done lets its helpers go.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

SOFT = 1  # omp_pause_soft of OpenMP 5.0: what is needed again is made again


def release() -> None:
    """Let the calling thread's helpers go; its next product gets new ones.

    Without effect where torch comes without libgomp, as on macOS.
    """
    if pause := _pause():
        pause(SOFT)


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """Let the calling thread multiply with so many threads at most."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def _pause() -> ctypes._NamedFuncPointer | None:
    for path in (Path(torch.__file__).parent / "lib").glob("libgomp*"):
        try:
            found = ctypes.CDLL(str(path)).omp_pause_resource_all
        except (OSError, AttributeError):
            continue
        found.argtypes, found.restype = [ctypes.c_int], ctypes.c_int
        return found
    return None
