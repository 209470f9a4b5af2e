"""Weights in the order oneDNN multiplies from, instead of reordering them in every call."""

from __future__ import annotations

import torch
from torch import Tensor


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this build and processor multiply packed weights of that type there: bf16 on the CPU only."""
    return (
        dtype == torch.bfloat16
        and device.type == "cpu"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def pack(weight: Tensor, rows: int) -> Tensor:
    """A copy of weight [out, in] laid out for inputs of about so many rows, for `multiply` only."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), rows)
    return packed


def multiply(x: Tensor, packed: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b for a packed W: x [..., in] to [..., out]."""
    y: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return y
