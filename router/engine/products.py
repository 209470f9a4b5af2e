"""The ways in which a batch is multiplied with frozen weights: as they lie in the file, packed, in 8 bits or in 4.

Decoding reads every weight once a step, so its speed is bytes read: half as many in 8 bits, and half again in 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor, nn

from .kernels import GROUP, Batch, Kernels, load
from .packed import multiply, pack

PACKED_FOR = 64  # rows that packed weights are laid out for: those of a step of a full batch
LONG = 512  # rows from which packing gains nothing
SHARES = (
    1.0,
    0.9,
    0.8,
)  # of a group's least and of its largest, between which numbers of 4 bits are tried to lie
FEW = 32  # rows up to which torch's 4-bit product is faster than writing the weights out
ZERO = 128  # what stands for 0 in inputs of 8 bits; added to a signed number by turning its highest bit


class Product(Protocol):
    """One or more linear layers of one input, as one."""

    def __call__(self, x: Tensor) -> Tensor:
        """x [rows, in] to [rows, out], biases added, the layers' outputs one after another; a tensor of its own."""
        ...


class Plain:
    """The layers' own weights, which may be mapped from a file."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = list(linears)

    @property
    def bias(self) -> Tensor | None:
        """The biases one after another, zeros where a layer has none; None when none has."""
        if all(one.bias is None for one in self.linears):
            return None
        return torch.cat(
            [one.weight.new_zeros(one.out_features) if one.bias is None else one.bias for one in self.linears]
        )

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        found = [nn.functional.linear(x, one.weight, one.bias) for one in self.linears]
        return found[0] if len(found) == 1 else torch.cat(found, -1)


class Packed:
    """A copy in the order oneDNN wants, instead of reordering in every call. bf16 only."""

    def __init__(self, plain: Plain) -> None:
        self.plain = plain
        self.weight = pack(torch.cat([one.weight for one in plain.linears]), PACKED_FOR)
        self.bias = plain.bias

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        return self.plain(x) if len(x) > LONG else multiply(x, self.weight, self.bias)


class Int8:
    """Weights in 8 bits with a scale for each output, inputs in 8 bits with a scale for each row; float32 out.

    Symmetric rounding to nearest; products in integers, as in LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339)
    without its outlier columns. Inputs go in as unsigned numbers with a zero point, which oneDNN takes off again
    exactly: signed ones it multiplies with AMX only, and elsewhere by a reference loop 600 times as slow.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None) -> None:
        """weight [out, in] int8, scale [out] float32."""
        self.weight: Tensor = torch.ops.onednn.qlinear_prepack(weight, None)
        self.scale, self.bias = scale, bias
        self.zero = torch.zeros(len(weight), dtype=torch.int64)

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        x = x.float()
        scale = x.abs().amax(-1, keepdim=True).clamp_(min=1e-12).div_(127)
        short = (x / scale).round_().to(torch.int8).view(torch.uint8).bitwise_xor_(ZERO)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            short, 1.0, ZERO, self.weight, self.scale, self.zero, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y.mul_(scale)
        return y if self.bias is None else y.add_(self.bias)


class Int8Compiled:
    """The same to the bit, by the compiled loops: 1.2 to 1.5 times as fast."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None, kernels: Kernels) -> None:
        """See Int8."""
        self.kernels, self.scale, self.bias = kernels, scale, bias
        self.weight, self.sums = kernels.pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        return self.kernels.multiply(x.contiguous(), self.weight, self.sums, self.scale, self.bias)

    def with_adapters(self, x: Tensor, batch: Batch, first: int, parts: int, scratch: Tensor) -> Tensor:
        """The same and what adapters add to it; see Kernels.add_lora."""
        added = batch, first, parts, scratch
        return self.kernels.multiply(x.contiguous(), self.weight, self.sums, self.scale, self.bias, added)


@dataclass(frozen=True)
class FourBits:
    """Weights [out, in] as scale * number + least, numbers from 0 to 15, of each GROUP of a row."""

    numbers: Tensor  # two a byte, the first in its low digits: uint8 [out, ceil(in / GROUP) * GROUP / 2]
    scale: Tensor  # bf16 [out, ceil(in / GROUP)]
    least: Tensor  # bf16 [out, ceil(in / GROUP)]

    def written_out(self) -> Tensor:
        """The weights in bf16 [out, ceil(in / GROUP) * GROUP]."""
        numbers = torch.stack([self.numbers & 15, self.numbers >> 4], -1).view(*self.scale.shape, GROUP)
        return (numbers.bfloat16() * self.scale[..., None]).add_(self.least[..., None]).flatten(1)


class Int4:
    """Weights in 4 bits and inputs in bf16, by torch's own packed kernel; bf16 out.

    For many rows, and for layers that the kernel does not take, the weights are written out for the call.
    """

    def __init__(self, weight: FourBits, bias: Tensor | None, inside: int) -> None:
        """inside: inputs of the layers."""
        self.weight, self.inside = weight, inside
        self.bias = None if bias is None else bias.bfloat16()
        self.packed: Tensor | None = None
        if len(weight.scale) % 16 == 0 and inside % GROUP == 0:
            numbers = torch.stack([weight.numbers & 15, weight.numbers >> 4], -1).flatten(1)
            self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers.int(), 1)
            eight = weight.least.float() + 8 * weight.scale.float()  # what the number 8 stands for
            self.scales = torch.stack([weight.scale.t(), eight.bfloat16().t()], -1).contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        x = x.bfloat16()
        if self.packed is None or len(x) > FEW:
            return nn.functional.linear(x, self.weight.written_out()[:, : self.inside], self.bias)
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, GROUP, self.scales)
        return y if self.bias is None else y.add_(self.bias)


class Int4Compiled:
    """The same weights by the compiled loops, with inputs in 8 bits as in Int8; float32 out."""

    def __init__(self, weight: FourBits, bias: Tensor | None, kernels: Kernels) -> None:
        """See Int4."""
        self.kernels, self.out = kernels, len(weight.scale)
        self.bias = None if bias is None else bias.float().contiguous()
        self.weight = kernels.pack_four(weight.numbers, weight.scale, weight.least)

    def __call__(self, x: Tensor) -> Tensor:
        """See Product."""
        return self.kernels.multiply_four(x.contiguous(), self.weight, self.out, self.bias)


def int4(layers: Sequence[FourBits], bias: Tensor | None, inside: int) -> Product:
    """The product of layers in 4 bits with so many inputs."""
    sides = ([getattr(one, side) for one in layers] for side in ("numbers", "scale", "least"))
    weight = FourBits(*(torch.cat(side) for side in sides))
    if (kernels := load()) and kernels.multiplies:
        return Int4Compiled(weight, bias, kernels)
    return Int4(weight, bias, inside)


def four_bits(weight: Tensor) -> FourBits:
    """weight [out, in] in 4 bits: between those SHARES of each group's least and largest by which it is off least.

    Errors are compared in squares. Groups of 32 with a scale and a least are llama.cpp's Q4_1.
    """
    over = weight[:, -1:].expand(-1, -weight.shape[1] % GROUP)  # to whole groups
    groups = torch.cat([weight, over], 1).float().unflatten(1, (-1, GROUP))
    used = (torch.arange(groups[0].numel()) < weight.shape[1]).view(-1, GROUP)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    numbers, scales, leasts = torch.zeros_like(groups), torch.zeros_like(low), torch.zeros_like(low)
    best = torch.full_like(low, torch.inf)
    for of_low, of_high in product(SHARES, SHARES):
        least = (low * of_low).bfloat16().float()
        scale = ((high * of_high - least) / 15).bfloat16().float()
        found = ((groups - least) / scale).nan_to_num_(0).round_().clamp_(0, 15)  # all alike: the scale is 0
        off = (found * scale).add_(least).sub_(groups).square_().mul_(used).sum(-1, keepdim=True)
        better = off < best
        numbers = torch.where(better, found, numbers)
        scales, leasts = torch.where(better, scale, scales), torch.where(better, least, leasts)
        best = torch.minimum(off, best)
    digits = numbers.to(torch.uint8).flatten(1)
    return FourBits(
        digits[:, ::2] | digits[:, 1::2] << 4, scales.bfloat16().squeeze(-1), leasts.bfloat16().squeeze(-1)
    )


def int8(weights: Sequence[Tensor], scales: Sequence[Tensor], bias: Tensor | None) -> Product:
    """The product of layers in 8 bits: weights [out, in] and scales [out] float32 of each, as `eight_bits` gives."""
    weight = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    scale, bias = torch.cat(list(scales)), None if bias is None else bias.float().contiguous()
    kernels = load()
    # Where there is AMX oneDNN multiplies prompts with it, and the kernels do not.
    if kernels and kernels.multiplies and not torch.cpu._is_amx_tile_supported():
        return Int8Compiled(weight, scale, bias, kernels)
    return Int8(weight, scale, bias)


def eight_bits(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] as int8 and the scale [out] in float32 of each row."""
    wide = weight.float()
    scale = wide.abs().amax(1).clamp(min=1e-12) / 127
    return (wide / scale[:, None]).round_().to(torch.int8), scale
