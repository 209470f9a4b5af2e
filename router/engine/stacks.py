"""Adapters that a batch needs side by side in stacks, for torch's operations to gather: on a GPU, or without kernels.

Those of like rank are in one stack: for every product of the base A [places, parts * ranks, in], and B [places, ranks,
out] for each linear layer it stands for (additions.py multiplies with them). A batch of one adapter, such as every
prefill, multiplies its own tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .additions import Alone, Gathered, Parts, alone, seated
from .lora import Adapter, Addition, MixedLinear, Weights

LEAST_RANKS = 8  # of a stack; then 16, 32, ...
JOINED = (
    2048  # columns of a product up to which its layers' B are one, zeros elsewhere: fewer, larger products
)
PLACES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # adapters there is room for in a stack; beyond, steps of 64


@dataclass(frozen=True)
class _Room:
    """Of one product for the adapters of a stack: A [places, parts * ranks, in], and B as it is multiplied.

    pieces: of B, [places, ranks, out] of each part.
    """

    a: Tensor
    b: Parts
    pieces: Sequence[Tensor]


@dataclass
class _Stack:
    """Adapters of up to so many ranks, side by side."""

    ranks: int
    capacity: int = 0
    places: dict[str, int] = field(default_factory=dict)
    rooms: dict[int, _Room] = field(default_factory=dict)  # by product

    def free(self) -> int | None:
        """The first place that is nobody's; None when there is none."""
        taken = set(self.places.values())
        return next((place for place in range(self.capacity) if place not in taken), None)


class Stacks:
    """Makes the additions of batches; see Gather.

    Adapters that leave a batch keep their place until it is needed or most places are unused, so a request that joins
    or ends moves at most one adapter.
    """

    def __init__(
        self, products: Sequence[MixedLinear], kept: torch.dtype, device: torch.device | None = None
    ) -> None:
        """kept: what adapters are cast to. device: where they go, None for the CPU."""
        self.products, self.kept, self.device = products, kept, device
        self._stacks: dict[int, _Stack] = {}  # by ranks
        self._one: str | None = None  # the adapter that `_alone` was made for
        self._alone: list[Alone | None] = []

    def place(self, weights: Weights) -> Adapter:
        """See Gather."""
        return weights.cast(self.kept, self.device)

    def additions(
        self, names: Sequence[str | None], adapters: Mapping[str, Adapter]
    ) -> list[Addition | None]:
        """See Gather."""
        present = {name: adapters[name] for name in sorted({name for name in names if name is not None})}
        if len(set(names)) == 1:
            ((name, adapter),) = present.items()
            return [*self._of_one(name, adapter)]
        return self._of_many(names, present)

    def forget(self, name: str) -> None:
        """See Gather."""
        if self._one == name:
            self._one, self._alone = None, []
        for stack in self._stacks.values():
            stack.places.pop(name, None)

    def _of_one(self, name: str, adapter: Adapter) -> list[Alone | None]:
        if self._one != name:
            self._alone = [alone(product, adapter) for product in self.products]
            self._one = name
        return self._alone

    def _of_many(self, names: Sequence[str | None], present: Mapping[str, Adapter]) -> list[Addition | None]:
        by_ranks: dict[int, dict[str, Adapter]] = {}
        for name, adapter in present.items():
            by_ranks.setdefault(_ranks(adapter.rank), {})[name] = adapter
        device = next(iter(next(iter(present.values())).a.values())).device
        taken = []
        for ranks, some in by_ranks.items():
            stack = self._placed(ranks, some)
            taken.append((seated(names, stack.places, list(some), device), stack))
        made: list[Addition | None] = []
        for index in range(len(self.products)):
            found = [
                (seats, room.a, room.b)
                for seats, stack in taken
                if (room := stack.rooms.get(index)) is not None
            ]
            made.append(Gathered(len(names), found) if found else None)
        return made

    def _placed(self, ranks: int, present: Mapping[str, Adapter]) -> _Stack:
        """The stack of so many ranks with a place for every adapter of a batch, moving as few as can be."""
        stack = self._stacks.get(ranks)
        if stack is None or 2 * _capacity(len(present)) < stack.capacity or len(present) > stack.capacity:
            stack = self._stacks[ranks] = _Stack(ranks, _capacity(len(present)))
        for name, adapter in present.items():
            if name in stack.places:
                continue
            if (place := stack.free()) is None:
                stack.places = {other: at for other, at in stack.places.items() if other in present}
                place = stack.free()
                assert place is not None
            self._write(stack, adapter, place)
            stack.places[name] = place
        return stack

    def _write(self, stack: _Stack, adapter: Adapter, place: int) -> None:
        some = next(iter(adapter.a.values()))
        kind = torch.float32 if some.device.type == "cpu" else some.dtype
        for index, product in enumerate(self.products):
            room = stack.rooms.get(index)
            if room is None and not any(module in adapter.a for module in product.names):
                continue
            if room is None:
                room = stack.rooms[index] = _room(product, stack, some.new_zeros(0, dtype=kind))
            for part, module in enumerate(product.names):
                a = room.a[place, part * stack.ranks : (part + 1) * stack.ranks]
                b = room.pieces[part][place]
                own = adapter.a[module].shape[0] if module in adapter.a else 0
                a[own:] = 0
                b[own:] = 0
                if own:
                    a[:own] = adapter.a[module]
                    b[:own] = adapter.b[module].t()


def _room(product: MixedLinear, stack: _Stack, like: Tensor) -> _Room:
    """Zeros for the adapters of a stack."""
    ranks, outside, parts = stack.ranks, product.columns[-1].stop, range(len(product.names))
    a = like.new_zeros(stack.capacity, len(parts) * ranks, product.shapes[0][1])
    if outside <= JOINED:
        whole = like.new_zeros(stack.capacity, len(parts) * ranks, outside)
        pieces = [whole[:, i * ranks : (i + 1) * ranks, product.columns[i]] for i in parts]
        return _Room(a, [(slice(0, outside), whole)], pieces)
    pieces = [like.new_zeros(stack.capacity, ranks, product.shapes[i][0]) for i in parts]
    return _Room(a, list(zip(product.columns, pieces, strict=True)), pieces)


def _ranks(rank: int) -> int:
    """The ranks of the stack for an adapter of that rank."""
    ranks = LEAST_RANKS
    while ranks < rank:
        ranks *= 2
    return ranks


def _capacity(count: int) -> int:
    """The places made for so many adapters."""
    return next((places for places in PLACES if places >= count), -(-count // 64) * 64)
