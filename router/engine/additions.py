"""What adapters add to the products of a batch: one adapter's own tensors, or those of many, gathered.

Rows are brought to their adapters' places, and one batched product with each of A and B serves all of them; what it
costs grows with the adapters there are and not with the mix, where PEFT loops over adapters in Python. Punica and
S-LoRA (arXiv:2310.18547, arXiv:2311.03285) do so on a GPU with kernels of their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from .lora import Adapter, Addition, MixedLinear

# On a CPU thin products are fastest in float32, of few rows with the layers of one input as one (docs/engine.md). Many
# rows of one adapter go faster in bf16 with AMX.
FEW_ROWS = 16
FEW_RANKS = 16

Parts = Sequence[tuple[slice, Tensor]]  # columns of the output, and the B that writes there


@dataclass
class Alone(Addition):
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


def alone(product: MixedLinear, adapter: Adapter) -> Alone | None:
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


def seated(
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


@dataclass(frozen=True)
class Gathered(Addition):
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
