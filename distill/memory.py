"""Keeping the memory that training frees and wants again a moment later."""

from __future__ import annotations

import ctypes

# From malloc.h of glibc: the option, and what it is set to.
OPTIONS = (
    (
        -3,
        32 << 20,
    ),  # M_MMAP_THRESHOLD, bytes: the most that it takes; larger blocks are mapped afresh every time
    (-1, -1),  # M_TRIM_THRESHOLD: never give back free memory at the end of the heap
    (-2, 256 << 20),  # M_TOP_PAD, bytes: how much more to ask for at once
    (
        -8,
        1,
    ),  # M_ARENA_MAX: backward passes run in a thread of their own, and should find what forward passes freed
)


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory instead of giving it back to the system after every step; False elsewhere.

    A step's activations, some GB of blocks of a few MB, are else mapped and cleared page by page again in every step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library or system
        return False
    return all(mallopt(option, value) == 1 for option, value in OPTIONS)
