"""A layer of Qwen2 in one call of the compiled loops, where all its products are in 8 bits or in 4.

Where rows are few, what lies between the products took longer to be called from here than to be computed.
"""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from .cache import Layer
from .in_place import InPlace
from .kernels import LANES, OUT, STORED, WIDEST, Batch, Kernels
from .lora import MixedLinear
from .memory import Scratch
from .products import Int4Compiled, Int8Compiled
from .qwen2 import Block, Qwen2

MOST = 512  # positions of rows that are computed so: what lies between products is kept, some 80 KB for each


class _Product(ctypes.Structure):
    """product_t of layer.c."""

    _fields_ = (
        *((name, c_void_p) for name in ("weight", "sums", "scale", "bias")),
        *((name, c_int32) for name in ("inside", "out", "first", "parts")),
    )


class _Layer(ctypes.Structure):
    """layer_t of layer.c."""

    _fields_ = (
        *((name, c_void_p) for name in ("before", "between")),
        *((name, _Product) for name in ("qkv", "out", "gate_up", "down")),
        *((name, c_int32) for name in ("half", "heads", "groups", "size")),
        *((name, c_float) for name in ("eps", "scale")),
    )


class _Turn(ctypes.Structure):
    """turn_t of layer.c."""

    _fields_ = (
        *((name, c_void_p) for name in ("keys", "values", "cos", "sin", "seen")),
        *((name, c_int64) for name in ("rows", "time", "positions", "row", "group")),
        ("kept", c_int32),
    )


class OneCall:
    """Computes one block in place of its forward, to the same bits. room: shared by the blocks of a model."""

    def __init__(self, block: Block, kernels: Kernels, room: Scratch) -> None:
        """Raises ValueError for a block that cannot be computed so."""
        attention, mlp = block.self_attn, block.mlp
        self._room = room
        every = attention.qkv, attention.o_proj, mlp.gate_up, mlp.down_proj
        self._mixed = [mixed for mixed in every if isinstance(mixed, MixedLinear)]
        if len(self._mixed) < len(every):
            raise ValueError("its products are none of an engine")
        norms = block.input_layernorm, block.post_attention_layernorm
        size, groups = attention.size, attention.groups
        heads = attention.sizes[0] // size
        widths = [len(norm.weight) for norm in norms] + [mlp.gate_proj.out_features]
        if size % (2 * LANES) or size > WIDEST or any(width % LANES for width in widths):
            raise ValueError("its sizes are none that the loops take")
        products = [_product(mixed) for mixed in self._mixed]
        # Whether more positions than one of a row are attended with, as in qwen2.py.
        self._many = size % OUT == 0 and not torch.cpu._is_amx_tile_supported()
        halves = norms[0].weight.dtype == torch.bfloat16
        self._layer = _Layer(
            *(norm.weight.data_ptr() for norm in norms), *products, halves, heads, groups, size,
            norms[0].eps, size**-0.5,
        )  # fmt: skip
        self._products = [getattr(self._layer, name) for name in ("qkv", "out", "gate_up", "down")]
        self._held = [norm.weight for norm in norms], [mixed.product for mixed in self._mixed]
        self._bytes, self._call = kernels.layer_bytes, kernels.layer

    def __call__(
        self, x: Tensor, turn: tuple[Tensor, Tensor], mask: Tensor | None, layer: Layer
    ) -> Tensor | None:
        """What the block's forward makes of x [rows, time, width], which may be written over; None where it has to."""
        rows, time, _ = x.shape
        if rows * time > MOST or (time > 1 and not self._many):
            return None
        if (added := self._additions(rows * time)) is None:
            return None
        batch, low = added
        cos, sin = turn
        groups, size = self._layer.groups, self._layer.size
        layer.extended((rows, groups, time, size), cos)
        keys, values = layer.keys, layer.values
        assert keys is not None and values is not None
        seen = None if mask is None else mask[:, 0, -1].contiguous()
        now = _Turn(
            keys.data_ptr(), values.data_ptr(), cos.data_ptr(), sin.data_ptr(),
            None if seen is None else seen.data_ptr(), rows, time, keys.shape[2], keys.stride(0), keys.stride(1),
            keys.dtype == torch.bfloat16,
        )  # fmt: skip
        at = ctypes.byref(self._layer), ctypes.byref(now)
        room = self._room.of(self._bytes(*at)).data_ptr()
        by = None if batch is None else ctypes.byref(batch)
        x, half = x.contiguous(), x.dtype == torch.bfloat16
        y = torch.empty(x.shape) if half else x
        self._call(y.data_ptr(), x.data_ptr(), half, *at, by, low, room)
        return y

    def _additions(self, rows: int) -> tuple[Batch | None, int | None] | None:
        """The batch whose adapters add to the products, which are told, and where they write, if there is one.

        None where they are added in another way.
        """
        batch, low = None, None
        for product, mixed in zip(self._products, self._mixed, strict=True):
            addition = mixed.addition
            product.parts = 0
            if addition is None:
                continue
            if not isinstance(addition, InPlace) or STORED[addition.mix.batch.kind] != torch.int8:
                return None
            product.first, product.parts = addition.first, addition.parts
            # One place for all, which only grows: where the last of them writes there is room for any.
            batch, low = addition.mix.batch, addition.low(rows).data_ptr()
        return batch, low


def _product(mixed: MixedLinear) -> _Product:
    """Raises ValueError for one that is not in 8 bits or in 4, or not by the compiled loops."""
    one = mixed.product
    if not isinstance(one, Int8Compiled | Int4Compiled):
        raise ValueError("its products are not all of the compiled loops")
    eight = (one.sums.data_ptr(), one.scale.data_ptr()) if isinstance(one, Int8Compiled) else (None, None)
    bias = None if one.bias is None else one.bias.data_ptr()
    return _Product(
        one.weight.data_ptr(), *eight, bias, mixed.shapes[0][1], sum(out for out, _ in mixed.shapes)
    )


def in_one_call(model: Qwen2, kernels: Kernels) -> None:
    """Let the blocks of a model be computed so that can be."""
    room = Scratch()
    for block in model.model.layers:
        assert isinstance(block, Block)
        try:
            block.whole = OneCall(block, kernels, room)
        except ValueError:
            block.whole = None
