"""Many LoRA adapters over one base, gathered in one forward.

The adapters a batch needs lie side by side: for every product of the base A [parts * ranks, in] and one B [ranks, out]
for each linear layer it stands for, so that one product with each serves every row, and a mask keeps a row to its own
adapter's ranks. A row without adapter keeps none. The work does not depend on the mix, where PEFT loops over adapters
in Python. Punica and S-LoRA (arXiv:2310.18547, arXiv:2311.03285) gather on a GPU with kernels of their own; on a CPU
two dense products read the same bytes. A batch of one adapter, such as every prefill, multiplies its own tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.adapter import WEIGHTS, AdapterInfo

from .products import Packed, Plain, Product

# Thin bf16 products cost oneDNN about 30 us each whatever their size, MKL's float32 ones 4 to 20 us; beyond so many
# ranks or rows the bytes and operations outweigh that (docs/engine.md).
NARROW_RANKS = 16
NARROW_ROWS = 16
WIDTHS = (
    8,
    16,
    24,
    32,
    48,
    64,
    96,
    128,
    192,
    256,
    384,
    512,
    768,
)  # ranks there is room for; beyond, steps of 256


@dataclass(frozen=True)
class Adapter:
    """The tensors of one adapter by module name: A [rank, in] and B [out, rank] with the scale already in B."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """The highest rank of its modules."""
        return max((a.shape[0] for a in self.a.values()), default=0)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(one.numel() * one.element_size() for side in (self.a, self.b) for one in side.values())


def read_adapter(
    folder: Path, info: AdapterInfo, dtype: torch.dtype, device: torch.device | None = None
) -> Adapter:
    """The tensors of a checked PEFT folder, on a device (None: the CPU).

    The scale goes into B in float32, before the cast.
    """
    tensors = load_file(folder / WEIGHTS)
    a, b = {}, {}
    for module, (_, scale) in info.modules.items():
        a[module] = tensors[f"base_model.model.{module}.lora_A.weight"].to(device, dtype)
        b[module] = (tensors[f"base_model.model.{module}.lora_B.weight"].float() * scale).to(device, dtype)
    return Adapter(a, b)


@dataclass
class Mixed:
    """What one product adds for the batch under way.

    a [in, parts * ranks]; b: for each part its columns of the output and B [ranks, out]; mask [rows, ranks], None when
    one adapter serves all rows.
    """

    a: Tensor
    b: Sequence[tuple[slice, Tensor]]
    mask: Tensor | None

    @property
    def ranks(self) -> int:
        """Ranks of one part."""
        return self.a.shape[1] // len(self.b)

    @cached_property
    def narrow(self) -> Mixed:
        """The same in float32 with the parts' B as one, zeros elsewhere, for one adapter and few rows."""
        first, last = self.b[0][0].start, self.b[-1][0].stop
        whole = torch.zeros(self.a.shape[1], last - first)
        for part, (columns, b) in enumerate(self.b):
            mine = slice(part * self.ranks, (part + 1) * self.ranks)
            whole[mine, columns.start - first : columns.stop - first] = b
        return Mixed(self.a.float(), [(slice(first, last), whole)], None)

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += B A x for every row's own adapter, in place; x [rows * time, in], y [rows * time, out]."""
        few = self.mask is None and len(x) <= NARROW_ROWS and self.ranks <= NARROW_RANKS
        if few and self.a.dtype != torch.float32 and self.a.device.type == "cpu":
            return self.narrow.add_to(y, x)
        low = (x if x.dtype == self.a.dtype else x.to(self.a.dtype)) @ self.a
        ranks = self.ranks
        if self.mask is not None:
            mask = (
                self.mask.repeat_interleave(len(x) // len(self.mask), 0)
                if len(x) != len(self.mask)
                else self.mask
            )
            low = (low.view(len(x), -1, ranks) * mask[:, None]).view(len(x), -1)
        for part, (columns, b) in enumerate(self.b):
            mine = low[:, part * ranks : (part + 1) * ranks]
            if y.dtype == b.dtype:
                y[:, columns].addmm_(mine, b)
            else:
                y[:, columns] += (mine @ b).to(y.dtype)


class MixedLinear(nn.Module):
    """Frozen linear layers of one input, multiplied as one, plus what `mixed` adds. `names`: the layers' own names."""

    def __init__(self, names: Sequence[str], linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.shapes = [(one.out_features, one.in_features) for one in linears]
        ends = [0, *accumulate(out for out, _ in self.shapes)]
        self.columns = [slice(start, end) for start, end in pairwise(ends)]
        self.product: Product = Plain(linears)
        self.mixed: Mixed | None = None

    def pack(self) -> None:
        """Keep a copy of the weights that is multiplied faster; without effect the second time."""
        if isinstance(self.product, Plain):
            self.product = Packed(self.product)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], the outputs of the layers one after another."""
        flat = x.reshape(-1, x.shape[-1])
        y = self.product(flat)
        if self.mixed is not None:
            self.mixed.add_to(y, flat)
        return y.view(*x.shape[:-1], -1)


def shapes(layers: Mapping[str, MixedLinear]) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer by name."""
    return {name: layer.shapes[layer.names.index(name)] for name, layer in layers.items()}


def wrap(model: nn.Module) -> dict[str, MixedLinear]:
    """Put a MixedLinear over every linear layer, the output head included; by the layers' names.

    A module with `JOINT`, attribute -> names of its linear layers, gets one for those together in that attribute.
    """
    found: dict[str, MixedLinear] = {}
    for path, parent in list(model.named_modules()):
        joint: Mapping[str, Sequence[str]] = getattr(parent, "JOINT", {})
        for attribute, children in joint.items():
            names = [f"{path}.{child}" for child in children]
            mixed = MixedLinear(names, [parent.get_submodule(child) for child in children])
            setattr(parent, attribute, mixed)
            found |= dict.fromkeys(names, mixed)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name not in found:
            above, _, child = name.rpartition(".")
            found[name] = MixedLinear([name], [module])
            setattr(model.get_submodule(above), child, found[name])
    return found


@dataclass
class _Room:
    """Adapters side by side for one product: a [in, parts * width], b for each part [width, out]."""

    a: Tensor
    b: list[Tensor]


@dataclass
class _Laid:
    """Which ranks are whose, and the tensors in which they lie."""

    width: int = 0
    places: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> first rank, ranks
    rooms: dict[int, _Room] = field(default_factory=dict)  # index of a product -> its tensors

    def free(self, ranks: int) -> int | None:
        """The first of so many ranks in a row that are nobody's; None when there are none."""
        at = 0
        for start, taken in sorted(self.places.values()):
            if start - at >= ranks:
                return at
            at = start + taken
        return at if self.width - at >= ranks else None


class Mixer:
    """Sets every product for the adapters of a batch, given by each row's adapter, None for the bare base.

    Adapters that leave a batch keep their place until it is needed or most places are unused, so a request that joins
    or ends moves at most one adapter.
    """

    def __init__(self, layers: Mapping[str, MixedLinear], adapters: Mapping[str, Adapter]) -> None:
        self.products = list(dict.fromkeys(layers.values()))
        self.adapters = adapters
        self._laid = _Laid()
        self._one: str | None = None  # the adapter that `_mixed_one` was made for
        self._mixed_one: list[Mixed | None] = []

    def set(self, names: Sequence[str | None]) -> None:
        """Make the next forwards treat row i with adapter names[i]."""
        present = sorted({name for name in names if name is not None})
        if not present:
            for product in self.products:
                product.mixed = None
        elif len(set(names)) == 1:
            self._set_one(present[0])
        else:
            self._set_many(names, present)

    def forget(self, name: str) -> None:
        """Drop what was laid out for an adapter, because it was replaced or removed."""
        if self._one == name:
            self._one, self._mixed_one = None, []
        self._laid.places.pop(name, None)

    def _set_one(self, name: str) -> None:
        if self._one != name:
            self._mixed_one = [_alone(product, self.adapters[name]) for product in self.products]
            self._one = name
        for product, mixed in zip(self.products, self._mixed_one, strict=True):
            product.mixed = mixed

    def _set_many(self, names: Sequence[str | None], present: Sequence[str]) -> None:
        self._place(present)
        laid = self._laid
        mask = torch.zeros(len(names), laid.width)
        for row, name in enumerate(names):
            if name is not None:
                start, ranks = laid.places[name]
                mask[row, start : start + ranks] = 1
        mask = mask.to(next(iter(laid.rooms.values())).a)
        for index, product in enumerate(self.products):
            room = laid.rooms.get(index)
            if room is None:
                product.mixed = None
                continue
            product.mixed = Mixed(room.a, list(zip(product.columns, room.b, strict=True)), mask)

    def _place(self, present: Sequence[str]) -> None:
        """Give every adapter of a batch a place, moving as few as can be."""
        laid = self._laid
        needed = sum(self.adapters[name].rank for name in present)
        if _width(needed) * 2 < laid.width:
            laid = self._laid = _Laid()
        for name in present:
            if name in laid.places:
                continue
            ranks = self.adapters[name].rank
            start = laid.free(ranks)
            if start is None:
                for other in [other for other in laid.places if other not in present]:
                    del laid.places[other]
                start = laid.free(ranks)
            if start is None:
                laid = self._laid = _Laid(_width(needed))
                return self._place(present)
            laid.places[name] = start, ranks
            self._write(laid, name, start, ranks)

    def _write(self, laid: _Laid, name: str, start: int, ranks: int) -> None:
        adapter = self.adapters[name]
        like = next(iter(adapter.a.values()))
        for index, product in enumerate(self.products):
            room = laid.rooms.get(index)
            if room is None and not any(module in adapter.a for module in product.names):
                continue
            if room is None:
                inside = product.shapes[0][1]
                room = laid.rooms[index] = _Room(
                    like.new_zeros(inside, len(product.names) * laid.width),
                    [like.new_zeros(laid.width, out) for out, _ in product.shapes],
                )
            for part, module in enumerate(product.names):
                first = part * laid.width + start
                a, b = room.a[:, first : first + ranks], room.b[part][start : start + ranks]
                a.zero_(), b.zero_()
                if module in adapter.a:
                    own = adapter.a[module].shape[0]
                    a[:, :own] = adapter.a[module].t()
                    b[:own] = adapter.b[module].t()


def _alone(product: MixedLinear, adapter: Adapter) -> Mixed | None:
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
    return Mixed(torch.cat(a).t().contiguous(), b, None)


def _width(ranks: int) -> int:
    """The room made for so many ranks."""
    return next((width for width in WIDTHS if width >= ranks), -(-ranks // 256) * 256)
