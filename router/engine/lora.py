"""LoRA adapters as tensors, and the linear layers of a base that let the batch under way add to them (mixer.py)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from registry.adapter import WEIGHTS, AdapterInfo

from .products import Packed, Plain, Product


@dataclass(frozen=True)
class Adapter:
    """The tensors of one adapter by module name: A [rank, in] and B [out, rank] with the scale already in B.

    B lies in memory by ranks, the way it is read when it is multiplied.
    """

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]

    @property
    def rank(self) -> int:
        """The highest rank of its modules."""
        return max((a.shape[0] for a in self.a.values()), default=0)

    @property
    def bytes(self) -> int:
        """Memory that the tensors take."""
        return sum(one.nbytes for side in (self.a, self.b) for one in side.values())


@dataclass(frozen=True)
class Weights:
    """An adapter as in its file: A [rank, in] and B [out, rank] by module name, and what B A is multiplied by.

    Tensors may be mapped from the file, which others may write to.
    """

    a: Mapping[str, Tensor]
    b: Mapping[str, Tensor]
    scales: Mapping[str, float]

    def cast(self, dtype: torch.dtype, device: torch.device | None = None) -> Adapter:
        """In memory of its own on a device (None: the CPU). The scale goes into B in float32, before the cast."""
        return Adapter(
            {name: a.to(device, dtype, copy=True) for name, a in self.a.items()},
            {
                name: (b.float() * self.scales[name]).to(device, dtype).t().contiguous().t()
                for name, b in self.b.items()
            },
        )


def read_adapter(folder: Path, info: AdapterInfo) -> Weights:
    """The tensors of a checked PEFT folder."""
    tensors = load_file(folder / WEIGHTS)
    return Weights(
        {name: tensors[f"base_model.model.{name}.lora_A.weight"] for name in info.modules},
        {name: tensors[f"base_model.model.{name}.lora_B.weight"] for name in info.modules},
        {name: scale for name, (_, scale) in info.modules.items()},
    )


class Addition(ABC):
    """What the adapters of a batch add to one product."""

    @abstractmethod
    def add_to(self, y: Tensor, x: Tensor) -> None:
        """y += B A x for every row's own adapter, in place; x [rows * time, in], y [rows * time, out]."""

    def added(self, product: Product, x: Tensor) -> Tensor:
        """The product of x and what is added to it."""
        y = product(x)
        self.add_to(y, x)
        return y


class MixedLinear(nn.Module):
    """Frozen linear layers of one input, multiplied as one, plus what `addition` adds. `names`: the layers' own."""

    def __init__(self, names: Sequence[str], linears: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.names = tuple(names)
        self.shapes = [(one.out_features, one.in_features) for one in linears]
        ends = [0, *accumulate(out for out, _ in self.shapes)]
        self.columns = [slice(start, end) for start, end in pairwise(ends)]
        self.product: Product = Plain(linears)
        self.addition: Addition | None = None

    def pack(self) -> None:
        """Keep a copy of the weights that is multiplied faster; without effect the second time."""
        if isinstance(self.product, Plain):
            self.product = Packed(self.product)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in] to [..., out], the outputs of the layers one after another."""
        flat = x.reshape(-1, x.shape[-1])
        y = self.product(flat) if self.addition is None else self.addition.added(self.product, flat)
        return y.view(*x.shape[:-1], -1)


def shapes(layers: Mapping[str, MixedLinear]) -> dict[str, tuple[int, int]]:
    """(out, in) of every linear layer by name."""
    return {name: layer.shapes[layer.names.index(name)] for name, layer in layers.items()}


def products(layers: Mapping[str, MixedLinear]) -> list[MixedLinear]:
    """The products that linear layers by name are parts of, each once."""
    return list(dict.fromkeys(layers.values()))


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
