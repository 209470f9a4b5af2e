"""Many LoRA adapters over one base, gathered in one forward.

The adapters that a batch needs lie side by side, those of like rank in one stack: for every product of the base A
[places, parts * ranks, in], and B [places, ranks, out] for each linear layer it stands for. Rows are brought to their
adapters' places, and one batched product with each serves all of them; what it costs grows with the adapters there are
and not with the mix, where PEFT loops over adapters in Python. Punica and S-LoRA (arXiv:2310.18547, arXiv:2311.03285)
do so on a GPU with kernels of their own. A batch of one adapter, such as every prefill, multiplies its own tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from .lora import Adapter, Addition, MixedLinear

# On a CPU thin products are fastest in float32, of few rows with the layers of one input as one (docs/engine.md). Many
# rows of one adapter go faster in bf16 with AMX.
FEW_ROWS = 16
FEW_RANKS = 16
LEAST_RANKS = 8  # of a stack; then 16, 32, ...
JOINED = (
    2048  # columns of a product up to which its layers' B are one, zeros elsewhere: fewer and larger products
)
PLACES = (2, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # adapters there is room for in a stack; beyond, steps of 64

Parts = Sequence[tuple[slice, Tensor]]  # columns of the output, and the B that writes there


@dataclass
class Alone:
    """One adapter for all rows: a [in, parts * ranks], and for each part B [ranks, out]."""

    a: Tensor
    b: Parts

    @property
    def ranks(self) -> int:
        """Ranks of one part."""
        return self.a.shape[1] // len(self.b)

    @cached_property
    def wide(self) -> Alone:
        """The same in float32."""
        return Alone(self.a.float(), [(columns, b.float()) for columns, b in self.b])

    @cached_property
    def joined(self) -> Alone:
        """The same in float32 with the parts' B as one, zeros elsewhere."""
        first, last = self.b[0][0].start, self.b[-1][0].stop
        whole = torch.zeros(self.a.shape[1], last - first)
        for part, (columns, b) in enumerate(self.b):
            mine = slice(part * self.ranks, (part + 1) * self.ranks)
            whole[mine, columns.start - first : columns.stop - first] = b
        return Alone(self.a.float(), [(slice(first, last), whole)])

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See Addition."""
        if self.a.device.type != "cpu":
            self._add_to(y, x)
        elif len(x) <= FEW_ROWS and self.ranks <= FEW_RANKS:
            self.joined._add_to(y, x)
        elif self.a.dtype == torch.float32 or torch.cpu._is_amx_tile_supported():
            self._add_to(y, x)
        else:
            self.wide._add_to(y, x)

    def _add_to(self, y: Tensor, x: Tensor) -> None:
        low = x.to(self.a.dtype) @ self.a
        for part, (columns, b) in enumerate(self.b):
            mine = low if len(self.b) == 1 else low[:, part * self.ranks : (part + 1) * self.ranks]
            mixed = y if columns == slice(0, y.shape[1]) else y[:, columns]
            if y.dtype == b.dtype:
                mixed.addmm_(mine, b)
            else:
                mixed += mine @ b


@dataclass(frozen=True)
class Seats:
    """Where the rows of a batch sit that use a stack: `each` seats at every place, the first `places` of them in use.

    source [places * each]: the row on a seat, any row where nobody sits. seats: the seat of every row in `rows`, which
    is None when these are all rows, in order.
    """

    places: int
    each: int
    source: Tensor
    seats: Tensor
    rows: Tensor | None

    def spread(self, time: int) -> Seats:
        """The same for rows of so many tokens."""
        if time == 1:
            return self
        tokens = torch.arange(time, device=self.source.device)

        def all_of(index: Tensor) -> Tensor:
            return (index[:, None] * time + tokens).flatten()

        rows = None if self.rows is None else all_of(self.rows)
        return Seats(self.places, self.each * time, all_of(self.source), all_of(self.seats), rows)


@dataclass(frozen=True)
class Gathered:
    """Adapters for `rows` rows, of as many stacks as there are ranks: seats, A and parts of each."""

    rows: int
    stacks: Sequence[tuple[Seats, Tensor, Parts]]

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """See Addition."""
        for seats, a, b in self.stacks:
            at = seats.spread(len(x) // self.rows)
            held = x.index_select(0, at.source).to(a.dtype).view(at.places, at.each, -1)
            low = torch.bmm(held, a[: at.places].transpose(1, 2))
            ranks = low.shape[2] // len(b)
            for part, (columns, whole) in enumerate(b):
                mine = low[:, :, part * ranks : (part + 1) * ranks]
                more = torch.bmm(mine, whole[: at.places]).flatten(0, 1).index_select(0, at.seats)
                if at.rows is None:
                    y[:, columns] += more
                else:
                    y[:, columns].index_add_(0, at.rows, more.to(y.dtype))


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


class Mixer:
    """Sets every product for the adapters of a batch, given by each row's adapter, None for the bare base.

    Adapters that leave a batch keep their place until it is needed or most places are unused, so a request that joins
    or ends moves at most one adapter.
    """

    def __init__(self, layers: Mapping[str, MixedLinear], adapters: Mapping[str, Adapter]) -> None:
        self.products = list(dict.fromkeys(layers.values()))
        self.adapters = adapters
        self._stacks: dict[int, _Stack] = {}  # by ranks
        self._one: str | None = None  # the adapter that `_alone` was made for
        self._alone: list[Alone | None] = []

    def set(self, names: Sequence[str | None]) -> None:
        """Make the next forwards treat row i with adapter names[i]."""
        present = sorted({name for name in names if name is not None})
        if not present:
            for product in self.products:
                product.addition = None
        elif len(set(names)) == 1:
            self._set_one(present[0])
        else:
            self._set_many(names, present)

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
        if self._one == name:
            self._one, self._alone = None, []
        for stack in self._stacks.values():
            stack.places.pop(name, None)

    def _set_one(self, name: str) -> None:
        if self._one != name:
            self._alone = [_alone(product, self.adapters[name]) for product in self.products]
            self._one = name
        for product, alone in zip(self.products, self._alone, strict=True):
            product.addition = alone

    def _set_many(self, names: Sequence[str | None], present: Sequence[str]) -> None:
        by_ranks: dict[int, list[str]] = {}
        for name in present:
            by_ranks.setdefault(_ranks(self.adapters[name].rank), []).append(name)
        device = next(iter(self.adapters[present[0]].a.values())).device
        taken = []
        for ranks, some in by_ranks.items():
            stack = self._placed(ranks, some)
            taken.append((_seated(names, stack.places, some, device), stack))
        for index, product in enumerate(self.products):
            found = [
                (seats, room.a, room.b)
                for seats, stack in taken
                if (room := stack.rooms.get(index)) is not None
            ]
            product.addition = Gathered(len(names), found) if found else None

    def _placed(self, ranks: int, present: Sequence[str]) -> _Stack:
        """The stack of so many ranks with a place for every adapter of a batch, moving as few as can be."""
        stack = self._stacks.get(ranks)
        if stack is None or 2 * _capacity(len(present)) < stack.capacity or len(present) > stack.capacity:
            stack = self._stacks[ranks] = _Stack(ranks, _capacity(len(present)))
        for name in present:
            if name in stack.places:
                continue
            if (place := stack.free()) is None:
                stack.places = {other: at for other, at in stack.places.items() if other in present}
                place = stack.free()
                assert place is not None
            self._write(stack, name, place)
            stack.places[name] = place
        return stack

    def _write(self, stack: _Stack, name: str, place: int) -> None:
        adapter = self.adapters[name]
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


def _seated(
    names: Sequence[str | None], places: Mapping[str, int], present: Sequence[str], device: torch.device
) -> Seats:
    """Seats for the rows of those present."""
    rows = [row for row, name in enumerate(names) if name in present]
    count = Counter(names[row] for row in rows)
    each = max(count.values())
    high = 1 + max(places[name] for name in present)
    source, seats, next_of = [0] * (high * each), [], dict.fromkeys(present, 0)
    for row in rows:
        name = names[row]
        assert name is not None
        seat = places[name] * each + next_of[name]
        next_of[name] += 1
        source[seat] = row
        seats.append(seat)

    def index(of: list[int]) -> Tensor:
        return torch.tensor(of, dtype=torch.long).to(device)

    return Seats(high, each, index(source), index(seats), None if len(rows) == len(names) else index(rows))


def _alone(product: MixedLinear, adapter: Adapter) -> Alone | None:
    """One adapter's own tensors for a product; None when it leaves that alone."""
    having = [part for part, module in enumerate(product.names) if module in adapter.a]
    if not having:
        return None
    ranks = max(adapter.a[product.names[part]].shape[0] for part in having)
    a, b = [], []
    for part in having:
        name = product.names[part]
        missing = ranks - adapter.a[name].shape[0]
        a.append(nn.functional.pad(adapter.a[name], (0, 0, 0, missing)))
        b.append((product.columns[part], nn.functional.pad(adapter.b[name], (0, missing)).t().contiguous()))
    return Alone(torch.cat(a).t().contiguous(), b)


def _ranks(rank: int) -> int:
    """The ranks of the stack for an adapter of that rank."""
    ranks = LEAST_RANKS
    while ranks < rank:
        ranks *= 2
    return ranks


def _capacity(count: int) -> int:
    """The places made for so many adapters."""
    return next((places for places in PLACES if places >= count), -(-count // 64) * 64)
