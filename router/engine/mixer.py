"""Many LoRA adapters over one base in one forward: every product is told which rows use which adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from .in_place import InPlaceAdapters
from .kernels import Kernels
from .lora import Adapter, Addition, MixedLinear
from .stacks import Stacks


class Gather(Protocol):
    """A way of bringing rows and their adapters together."""

    def additions(self, names: Sequence[str | None]) -> list[Addition | None]:
        """What every product adds when row i uses adapter names[i], None for the bare base; one at least is named."""
        ...

    def forget(self, name: str) -> None:
        """Drop what was laid out for an adapter, because it was replaced or removed."""
        ...


class Mixer:
    """Sets every product for the adapters of a batch. kernels: None where torch's operations are to do it."""

    def __init__(
        self, layers: Mapping[str, MixedLinear], adapters: Mapping[str, Adapter], kernels: Kernels | None
    ) -> None:
        self.products = list(dict.fromkeys(layers.values()))
        self._gather: Gather = (
            InPlaceAdapters(self.products, adapters, kernels) if kernels else Stacks(self.products, adapters)
        )

    def set(self, names: Sequence[str | None]) -> None:
        """Make the next forwards treat row i with adapter names[i], None for the bare base."""
        bare = all(name is None for name in names)
        self.additions = [None] * len(self.products) if bare else self._gather.additions(names)

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
