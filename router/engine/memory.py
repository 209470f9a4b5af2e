"""Memory in large pages, for weights that are read from end to end in every step; and memory that is used again.

With pages of 4 KiB half a gigabyte has more addresses to look up than a processor remembers.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

PAGE = (
    1 << 21
)  # bytes of a large page, where the system has such pages (transhuge.rst of Linux's documentation)


def large(count: int) -> Tensor:
    """So many bytes, zeros, in large pages as far as they are filled. OSError when there is no memory."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(count, dtype=torch.uint8)
    # Private: memory that processes could share, mmap's default, gets no large pages.
    memory = mmap.mmap(-1, count + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    found = torch.frombuffer(memory, dtype=torch.uint8)
    begin = -found.data_ptr() % PAGE  # what lies before takes no memory while nobody writes there
    if whole := count // PAGE * PAGE:
        memory.madvise(mmap.MADV_HUGEPAGE, begin, whole)
    return found[begin : begin + count]


class Scratch:
    """Bytes that every product or layer of one model may write to while it is computed."""

    def __init__(self) -> None:
        self._held = torch.empty(0, dtype=torch.uint8)

    def of(self, count: int) -> Tensor:
        """At least so many."""
        if len(self._held) < count:
            self._held = torch.empty(count + count // 4, dtype=torch.uint8)
        return self._held
