"""Many LoRA adapters over one base, mixed in one forward.

The adapters a batch needs are laid side by side: A [sum of ranks, in], B [out, sum of ranks], so that one product with
each serves every row, and a mask keeps a row to its own adapter's ranks. A row without adapter keeps none. Two dense
products a module whatever the mix, where PEFT loops over adapters in Python.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.adapter import WEIGHTS, AdapterInfo

from .packed import multiply, pack

PACKED_FOR = 64  # rows that packed weights are laid out for: those of a step of a full batch


@dataclass(frozen=True)
class Adapter:
    """The tensors of one adapter by module name: A [rank, in] and B [out, rank] with the scale already in B."""

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]


def read_adapter(folder: Path, info: AdapterInfo, dtype: torch.dtype) -> Adapter:
    """The tensors of a checked PEFT folder. The scale goes into B in float32, before the cast."""
    tensors = load_file(folder / WEIGHTS)
    a, b = {}, {}
    for module, (_, scale) in info.modules.items():
        a[module] = tensors[f"base_model.model.{module}.lora_A.weight"].to(dtype)
        b[module] = (tensors[f"base_model.model.{module}.lora_B.weight"].float() * scale).to(dtype)
    return Adapter(a, b)


@dataclass
class Mixed:
    """What one module adds for the batch under way. `mask` [rows, ranks] is None when one adapter serves all rows."""

    a: Tensor
    b_t: Tensor
    mask: Tensor | None

    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += B A x for every row's own adapter, in place; x [rows, time, in], y [rows, time, out]."""
        low = x @ self.a.t()
        if self.mask is not None:
            low = low * self.mask[:, None, :]
        y.view(-1, y.shape[-1]).addmm_(low.view(-1, low.shape[-1]), self.b_t)


class MixedLinear(nn.Module):
    """A frozen linear layer plus what `mixed` adds."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.packed: Tensor | None = None
        self.mixed: Mixed | None = None

    def pack(self) -> None:
        """Keep a copy of the weights in the order oneDNN wants, instead of reordering them in every call."""
        if self.packed is None:
            self.packed = pack(self.base.weight, PACKED_FOR)

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is None or x.numel() // x.shape[-1] > 512:  # long prefills gain nothing from it
            y = nn.functional.linear(x, self.base.weight, self.base.bias)
        else:
            y = multiply(x, self.packed, self.base.bias)
        if self.mixed is not None:
            self.mixed.add_to(y, x)
        return y


def wrap(model: nn.Module) -> dict[str, MixedLinear]:
    """Put a MixedLinear over every linear layer, the output head included; by module name."""
    found = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear):
            parent, _, child = name.rpartition(".")
            found[name] = MixedLinear(module)
            setattr(model.get_submodule(parent), child, found[name])
    return found


class Mixer:
    """Sets every layer for the adapters of a batch; `names` gives each row's adapter, None for the bare base."""

    def __init__(self, layers: Mapping[str, MixedLinear], adapters: Mapping[str, Adapter]) -> None:
        self.layers = layers
        self.adapters = adapters
        self._laid: tuple[str, ...] = ()
        self._side_by_side: dict[str, tuple[Tensor, Tensor, list[tuple[str, int]]]] = {}

    def set(self, names: Sequence[str | None]) -> None:
        """Make the next forward treat row i with adapter names[i]."""
        present = tuple(sorted({name for name in names if name is not None}))
        if present != self._laid:
            self._side_by_side = {module: self._lay(module, present) for module in self.layers}
            self._laid = present
        uniform = len(set(names)) == 1
        masks: dict[tuple[tuple[str, int], ...], Tensor] = {}
        for module, layer in self.layers.items():
            a, b_t, ranks = self._side_by_side.get(module) or self._lay(module, ())
            if not ranks:
                layer.mixed = None
                continue
            mask = None
            if not uniform:
                key = tuple(ranks)
                if key not in masks:
                    owners = [name for name, rank in ranks for _ in range(rank)]
                    rows = [[float(name == owner) for owner in owners] for name in names]
                    masks[key] = torch.tensor(rows, dtype=a.dtype, device=a.device)
                mask = masks[key]
            layer.mixed = Mixed(a, b_t, mask)

    def forget(self) -> None:
        """Drop what was laid out, because an adapter was added, replaced or removed."""
        self._laid, self._side_by_side = (), {}

    def _lay(self, module: str, present: Sequence[str]) -> tuple[Tensor, Tensor, list[tuple[str, int]]]:
        having = [(name, self.adapters[name]) for name in present if module in self.adapters[name].a]
        if not having:
            return torch.empty(0), torch.empty(0), []
        a = torch.cat([adapter.a[module] for _, adapter in having])
        b_t = torch.cat([adapter.b[module].t() for _, adapter in having])
        return a, b_t.contiguous(), [(name, adapter.a[module].shape[0]) for name, adapter in having]
