"""Adapters multiplied where they lie: every row is told whose A and B to read, and nothing is gathered or copied.

The compiled loops read each adapter of a batch once for all of its rows, where torch would need them side by side
(stacks.py). Punica and S-LoRA (arXiv:2310.18547, arXiv:2311.03285) do so on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from .kernels import Batch, Kernels
from .lora import Adapter, Addition, MixedLinear
from .products import Int8Compiled, Product

_PART = np.dtype(  # part_t of lora.h
    [("a", "u8"), ("b", "u8"), ("rank", "i4"), ("start", "i4"), ("width", "i4"), ("unused", "i4")]
)


@dataclass(frozen=True)
class _Table:
    """Where an adapter's tensors are: a part for each layer of every product, one product after another."""

    adapter: Adapter
    parts: np.ndarray
    held: Sequence[Tensor]  # what the parts point to


@dataclass
class _Scratch:
    """Floats that every product of one engine may write to while it is multiplied."""

    floats: Tensor = field(default_factory=lambda: torch.empty(0))

    def of(self, count: int) -> Tensor:
        """At least so many."""
        if len(self.floats) < count:
            self.floats = torch.empty(2 * count)
        return self.floats


@dataclass(frozen=True)
class _Mix:
    """The rows of a batch by adapter, for all products alike."""

    kernels: Kernels
    scratch: _Scratch
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
        mix.kernels.add_lora(y, x.contiguous(), mix.batch, self.first, self.parts, self._scratch(x))

    def added(self, product: Product, x: Tensor) -> Tensor:
        """See Addition; in one call where that is possible."""
        if not isinstance(product, Int8Compiled):
            return super().added(product, x)
        return product.with_adapters(x, self.mix.batch, self.first, self.parts, self._scratch(x))

    def _scratch(self, x: Tensor) -> Tensor:
        return self.mix.scratch.of(len(x) * self.parts * self.mix.batch.ranks)


class InPlaceAdapters:
    """Makes the additions of batches; see Gather."""

    def __init__(
        self, products: Sequence[MixedLinear], adapters: Mapping[str, Adapter], kernels: Kernels
    ) -> None:
        self.products, self.adapters, self.kernels = products, adapters, kernels
        counts = [len(product.names) for product in products]
        self._first = [0, *accumulate(counts)]
        self._tables: dict[str, _Table] = {}
        self._scratch = _Scratch()

    def additions(self, names: Sequence[str | None]) -> list[Addition | None]:
        """See Gather."""
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(names):
            if name is not None:
                rows.setdefault(name, []).append(row)
        tables = [self._table(name) for name in rows]
        order = np.array([row for some in rows.values() for row in some], np.int32)
        ends = np.array(list(accumulate(len(some) for some in rows.values())), np.int32)
        pointers = np.array([table.parts.ctypes.data for table in tables], np.uint64)
        batch = Batch(
            ends.ctypes.data,
            order.ctypes.data,
            pointers.ctypes.data,
            len(names),
            len(rows),
            _kind(tables[0].adapter) == torch.bfloat16,
            max(table.adapter.rank for table in tables),
        )
        mix = _Mix(self.kernels, self._scratch, batch, (tables, order, ends, pointers))
        used = np.logical_or.reduce([table.parts["rank"] > 0 for table in tables])
        return [
            InPlace(mix, first, len(product.names))
            if used[first : first + len(product.names)].any()
            else None
            for product, first in zip(self.products, self._first, strict=False)
        ]

    def forget(self, name: str) -> None:
        """See Gather."""
        self._tables.pop(name, None)

    def _table(self, name: str) -> _Table:
        table = self._tables.get(name)
        if table is None or table.adapter is not self.adapters[name]:
            table = self._tables[name] = _table(self.products, self.adapters[name])
        return table


def _table(products: Sequence[MixedLinear], adapter: Adapter) -> _Table:
    parts, held = np.zeros(sum(len(product.names) for product in products), _PART), []
    at = 0
    for product in products:
        for name, columns in zip(product.names, product.columns, strict=True):
            if name in adapter.a:
                a, b = adapter.a[name].contiguous(), adapter.b[name].t().contiguous()
                held += [a, b]
                parts[at] = (a.data_ptr(), b.data_ptr(), len(a), columns.start, b.shape[1], 0)
            at += 1
    return _Table(adapter, parts, held)


def _kind(adapter: Adapter) -> torch.dtype:
    return next(iter(adapter.a.values())).dtype
