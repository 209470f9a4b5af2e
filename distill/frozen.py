"""Frozen weights in training: the product with them, and the one that its backward needs, in bf16 or in 8 bits.

In 8 bits inputs and gradients are rounded a row at a time and weights an output at a time, as in SwitchBack (Wortsman
et al. 2023, arXiv:2304.13013). What is trained, and all else, is float32 then. A processor with VNNI multiplies 8-bit
integers 2 to 8 times as fast as bf16 (docs/training.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from router.engine.packed import can_pack, multiply, pack
from router.engine.precision import resolve
from router.engine.products import Product, eight_bits, int8

PACKED_FOR = 512  # rows that packed weights are laid out for
ROWS = 256  # rows of logits made at once: 75 MB in bf16 for Qwen's vocabulary
ROWS_INT8 = 48  # the same in float32: 29 MB, less than what glibc maps afresh every time (memory.py)
LOST = 1e-4  # gradients of logits below this share of the largest of their row are taken as 0 with int8


def chosen(precision: str) -> str:
    """What a precision comes to in training: "bf16" or "int8"; "auto" is int8 where there is VNNI and no AMX.

    With AMX bf16 is fast, and the float32 that 8 bits bring along for all else is not. Raises BadInput as
    router.engine.precision.resolve does.
    """
    if precision == "auto" and torch.cpu._is_amx_tile_supported():
        return "bf16"
    return resolve(precision, torch.bfloat16, torch.device("cpu"))


class FrozenWeights(Protocol):
    """y = x W' + b for a frozen weight [out, in], and what its backward needs."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, in] to [n, out]."""
        ...

    def back(self, g: Tensor) -> Tensor:
        """g W, the gradient of x: g [n, out] to [n, in]."""
        ...


class Head(Protocol):
    """The frozen head [vocabulary, d]. rows: how many should be given at once."""

    rows: int

    def logits(self, h: Tensor) -> Tensor:
        """h [n, d] to logits [n, vocabulary] in float32; the caller may write there until the next call."""
        ...

    def back(self, g: Tensor) -> Tensor:
        """The gradient of h [n, d] from that of the logits, in float32; g may be lost."""
        ...


class Frozen:
    """y = x W' + b for a frozen weight [out, in], and the product with W that its backward needs.

    oneDNN otherwise reorders the weight in every call. For 465 x 896 x 4864 in bf16 on one core the packed product runs
    1.2 to 1.35 times as fast; into fewer columns than rows it gains nothing, so there the weight stays as it is.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight.detach(), bias
        out, inside = weight.shape
        packs = can_pack(weight.dtype, weight.device)
        self.forward_packed = pack(self.weight, PACKED_FOR) if packs and out >= inside else None
        self.backward_packed = (
            pack(self.weight.t().contiguous(), PACKED_FOR) if packs and inside >= out else None
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self.forward_packed is None:
            return linear(x, self.weight, self.bias)
        return _multiply(x, self.forward_packed, self.bias)

    def back(self, g: Tensor) -> Tensor:
        """g W, the gradient of x."""
        return g @ self.weight if self.backward_packed is None else _multiply(g, self.backward_packed, None)


def _multiply(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Longer inputs go in parts, since the order of the weight is made for PACKED_FOR rows."""
    parts = [multiply(part, packed, bias) for part in x.chunk(-(-len(x) // PACKED_FOR))]
    return torch.cat(parts) if len(parts) > 1 else parts[0]


class Frozen8:
    """The same in 8 bits; x and g float32. Two copies of the weight, since rounding goes by output and by input."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self._there = _int8(weight, bias)
        self._back = _int8(weight.detach().t())

    def __call__(self, x: Tensor) -> Tensor:
        return self._there(x)

    def back(self, g: Tensor) -> Tensor:
        """g W, the gradient of x."""
        return self._back(g)


def _int8(weight: Tensor, bias: Tensor | None = None) -> Product:
    short, scale = eight_bits(weight.detach().contiguous())
    return int8([short], [scale], None if bias is None else bias.detach())


@lru_cache(maxsize=4)
def _scratch(width: int, kind: torch.dtype, device: torch.device) -> Tensor:
    """A block of logits, kept from step to step: the pages of a new one cost as much as the product that fills it."""
    return torch.empty(ROWS, width, dtype=kind, device=device)


class PlainHead:
    """A head multiplied as it is, in its own type."""

    rows = ROWS

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()

    def logits(self, h: Tensor) -> Tensor:
        """See Head."""
        logits, wide = self._blocks(len(h))
        torch.mm(h, self.weight.t(), out=logits)
        return wide.copy_(logits)

    def back(self, g: Tensor) -> Tensor:
        """See Head."""
        return self._blocks(len(g))[0].copy_(g) @ self.weight

    def _blocks(self, count: int) -> tuple[Tensor, Tensor]:
        """Blocks of logits in the head's type and in float32."""
        width, device = len(self.weight), self.weight.device
        return _scratch(width, self.weight.dtype, device)[:count], _scratch(width, torch.float32, device)[
            :count
        ]


class Head8:
    """A head whose logits are made in 8 bits; its backward reads only the tokens that matter, in float32."""

    rows = ROWS_INT8

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach()
        self._there = _int8(weight)

    def logits(self, h: Tensor) -> Tensor:
        """See Head."""
        return self._there(h)

    def back(self, g: Tensor) -> Tensor:
        """See Head."""
        size = g.abs()
        kept = (size > size.amax(1, keepdim=True) * LOST).any(0).nonzero()[:, 0]
        return g[:, kept] @ self.weight[kept].float()


def freeze(model: nn.Module, precision: str) -> Head:
    """The head of a model, multiplied in `precision`; with int8 all that the model keeps becomes float32."""
    weight: Tensor = model.lm_head.weight  # type: ignore[assignment,union-attr]
    if precision != "int8":
        return PlainHead(weight)
    head = Head8(weight)
    model.float()
    return head
