"""Many LoRA adapters over one base in one forward: every product is told which rows use which adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from .in_place import InPlaceAdapters
from .kernels import Kernels
from .lora import Addition, MixedLinear, Weights
from .stacks import Stacks


class Gather(Protocol):
    """A way of bringing rows and their adapters together."""

    def place(self, weights: Weights) -> Any:
        """An adapter as it is to stay in memory and be given back; called by whoever reads it, beside forwards."""
        ...

    def additions(self, names: Sequence[str | None], adapters: Mapping[str, Any]) -> list[Addition | None]:
        """What every product adds when row i uses adapter names[i], None for the bare base; one at least is named."""
        ...

    def forget(self, name: str) -> None:
        """Drop what was laid out for an adapter, because it was replaced or removed."""
        ...


def gather(
    products: Sequence[MixedLinear],
    kernels: Kernels | None,
    kept: torch.dtype,
    device: torch.device | None = None,
) -> Gather:
    """The way for these products. kernels: None where torch's operations are to do it, on a device (None: the CPU).

    kept: of what type adapters stay in memory.
    """
    return InPlaceAdapters(products, kernels, kept) if kernels else Stacks(products, kept, device)


class Mixer:
    """Sets every product for the adapters of a batch, which are looked up by name when they are needed."""

    def __init__(self, products: Sequence[MixedLinear], gather: Gather, adapters: Mapping[str, Any]) -> None:
        """adapters: those in memory, as `gather` has placed them."""
        self.products, self.adapters = products, adapters
        self._gather = gather

    def set(self, names: Sequence[str | None]) -> None:
        """Make the next forwards treat row i with adapter names[i], None for the bare base."""
        bare = all(name is None for name in names)
        self.additions = [None] * len(self.products) if bare else self._gather.additions(names, self.adapters)

    @property
    def additions(self) -> list[Addition | None]:
        """What is set, to be set again after another forward. Of use while the adapters stay where they are."""
        return [product.addition for product in self.products]

    @additions.setter
    def additions(self, held: Sequence[Addition | None]) -> None:
        for product, addition in zip(self.products, held, strict=True):
            product.addition = addition

    def forget(self, name: str) -> None:
        """Drop what was laid out for an adapter, because it was replaced or removed."""
        self._gather.forget(name)
