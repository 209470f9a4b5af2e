"""Adapters multiplied where they lie: every row is told whose A and B to read, and nothing is gathered or copied.

The compiled loops read each adapter of a batch once for all of its rows, where torch would need them side by side
(stacks.py). Punica and S-LoRA (arXiv:2310.18547, arXiv:2311.03285) do so on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .kernels import OUT, STORED, Batch, Kernels, low_floats
from .lora import Addition, MixedLinear, Weights
from .memory import Scratch, large
from .products import Int8Compiled, Product

ALIGNED = 64  # bytes between one tensor's beginning and the next's, or a multiple
_PART = np.dtype(  # part_t of lora.h
    [(name, "u8") for name in ("a", "b", "scale", "sums")]
    + [(name, "i4") for name in ("rank", "start", "width", "unused")]
)


@dataclass(frozen=True)
class Placed:
    """An adapter as the loops read it: where its tensors are, a part for each layer of every product in turn."""

    parts: np.ndarray
    held: Tensor  # what the parts point to
    rank: int  # the highest
    bytes: int  # of its numbers, without what lies between them


@dataclass(frozen=True)
class _Mix:
    """The rows of a batch by adapter, for all products alike."""

    kernels: Kernels
    scratch: Scratch
    batch: Batch
    held: Sequence[object]  # what the batch points to


@dataclass(frozen=True)
class InPlace(Addition):
    """What a batch's adapters add to one product, whose parts in every table are `parts` from `first`."""

    mix: _Mix
    first: int
    parts: int

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See Addition."""
        mix = self.mix
        mix.kernels.add_lora(y, x.contiguous(), mix.batch, self.first, self.parts, self.low(len(x)))

    def added(self, product: Product, x: Tensor) -> Tensor:
        """See Addition; in one call where that is possible."""
        if not isinstance(product, Int8Compiled) or STORED[self.mix.batch.kind] != torch.int8:
            return super().added(product, x)
        return product.with_adapters(x, self.mix.batch, self.first, self.parts, self.low(len(x)))

    def low(self, rows: int) -> Tensor:
        """What the loops write to for so many rows."""
        return self.mix.scratch.of(4 * rows * self.parts * low_floats(self.mix.batch.ranks))


class InPlaceAdapters:
    """Makes the additions of batches; see Gather."""

    def __init__(self, products: Sequence[MixedLinear], kernels: Kernels, kept: torch.dtype) -> None:
        """kept: what adapters are cast to, or rounded with a scale for each rank: one of STORED."""
        self.products, self.kernels, self.kept = products, kernels, kept
        self._first = [0, *accumulate(len(product.names) for product in products)]
        self._scratch = Scratch()

    def place(self, weights: Weights) -> Placed:
        """See Gather."""
        parts, size = np.zeros(self._first[-1], _PART), self.kept.itemsize
        counts = []  # bytes of A, B, scales and sums of each layer
        for part, (name, columns) in zip(parts, self._layers(), strict=True):
            width = columns.stop - columns.start
            part["start"], part["width"] = columns.start, width
            if name in weights.a:
                part["rank"], inside = rank, _ = weights.a[name].shape
                blocks = -(-(columns.start % OUT + width) // OUT)
                kept = -(-rank // 4) * 4 if self.kept == torch.int8 else rank
                counts += [rank * inside * size, blocks * kept * OUT * size, rank * 4, rank * 4]
        ends = [0, *accumulate(-(-count // ALIGNED) * ALIGNED for count in counts)]
        held = large(ends[-1])
        at = iter(ends)
        for part, (name, _) in zip(parts, self._layers(), strict=True):
            if not part["rank"]:
                continue
            to = [held.data_ptr() + next(at) for _ in range(4)]
            part["a"], part["b"], part["scale"], part["sums"] = to
            self.kernels.place(
                weights.a[name], weights.b[name], weights.scales[name], int(part["start"]), self.kept, to
            )
        bytes = size * sum(one.numel() for side in (weights.a, weights.b) for one in side.values())
        return Placed(parts, held, int(parts["rank"].max()), bytes)

    def _layers(self) -> Iterator[tuple[str, slice]]:
        """Every layer's name and columns, in the order of the parts."""
        for product in self.products:
            yield from zip(product.names, product.columns, strict=True)

    def additions(self, names: Sequence[str | None], adapters: Mapping[str, Placed]) -> list[Addition | None]:
        """See Gather."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                rows.setdefault(name, []).append(row)
        placed = [adapters[name] for name in rows]
        order = np.array([row for some in rows.values() for row in some], np.int32)
        ends = np.array(list(accumulate(len(some) for some in rows.values())), np.int32)
        pointers = np.array([one.parts.ctypes.data for one in placed], np.uint64)
        batch = Batch(
            ends.ctypes.data,
            order.ctypes.data,
            pointers.ctypes.data,
            len(names),
            len(rows),
            STORED.index(self.kept),
            max(one.rank for one in placed),
        )
        mix = _Mix(self.kernels, self._scratch, batch, (placed, order, ends, pointers))
        used = np.logical_or.reduce([one.parts["rank"] > 0 for one in placed])
        return [
            InPlace(mix, first, len(product.names))
            if used[first : first + len(product.names)].any()
            else None
            for product, first in zip(self.products, self._first, strict=False)
        ]

    def forget(self, name: str) -> None:
        """See Gather."""
