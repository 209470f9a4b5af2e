"""Compiled loops for what torch does slowly: products in 8 bits, what adapters add to rows, and what lies between.

The sources in c/ are compiled at their first use, in four seconds, for this processor, and kept in the cache. That
takes Linux, gcc, AVX-512, without which they are slower, and a torch that multiplies with libgomp, whose threads
they share. Elsewhere, and with ROUTER_KERNELS=off, torch's own operations do the same: docs/engine.md has the figures.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from ctypes import c_float, c_int, c_int32, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from specialists import paths

from .compiler import CannotCompile, compiled, compiler
from .memory import large

SOURCES = Path(__file__).parent / "c"
VARIABLE = "ROUTER_KERNELS"
FAILED = "Parts of a step could not be compiled"
LANES = 16  # numbers of a vector, as in vectors.h
WIDEST = 128  # head that is attended with, as in decode.c
OUT = 64  # outputs that are multiplied together, as in lora.h
GROUP = 32  # weights in 4 bits that share a scale, as in four_bits.c
KINDS = (torch.float32, torch.bfloat16)  # of what is computed with
STORED = (*KINDS, torch.int8)  # and of adapters, numbered as in vectors.h

log = logging.getLogger(__name__)


class Batch(ctypes.Structure):
    """batch_t of lora.h: which rows use which adapter's tensors."""

    _fields_ = (
        ("ends", c_void_p),
        ("order", c_void_p),
        ("tables", c_void_p),
        ("rows", c_int32),
        ("groups", c_int32),
        ("kind", c_int32),
        ("ranks", c_int32),
    )


class Kernels:
    """The compiled loops. Tensors are contiguous, on the CPU, and float32 or bf16 where nothing else is said."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file is no library that this process can open, AttributeError when it is another."""
        library = ctypes.CDLL(str(path))
        self.name = path.stem  # of its sources, the processor and the compiler's options
        p, i, n, f = c_void_p, c_int, c_long, c_float

        def function(name: str, *arguments: type, gives: type | None = None) -> Callable[..., Any]:
            found = getattr(library, name)
            found.argtypes, found.restype = arguments, gives
            return cast("Callable[..., Any]", found)

        self._add = function("add_lora", p, i, p, i, n, n, n, p, i, i, p)
        self._place = function("place_part", p, i, p, i, f, n, n, n, n, i, p, p)
        self._norm = function("normalise", p, p, i, n, n, p, i, f)
        self._gated = function("gated", p, p, i, n, n)
        self._turn = function("turn", p, p, p, i, p, i, p, p, n, n, n, n, n, n, n)
        self._attend = function("attend", p, p, p, p, i, p, n, n, n, n, n, n, n, f, p)
        self._attend_many = function("attend_many", p, p, p, p, i, p, n, n, n, n, n, n, n, n, f, p)
        self.multiplies = hasattr(library, "multiply_eight_bits")  # this processor, in 8 bits
        if self.multiplies:
            self._pack = function("pack_eight_bits", p, n, n, p, p)
            self._multiply = function("multiply_eight_bits", p, p, i, n, n, n, p, p, p, p, p, p, i, i, p)
            self._place_eight = function("place_eight_bits", p, i, p, i, f, n, n, n, n, p, p, p, p)
            self._add_eight = function("add_lora_eight_bits", p, p, i, n, n, n, p, i, i, p, p)
            self._pack_four = function("pack_four_bits", p, p, p, n, n, p)
            self.layer = function("layer", p, p, i, p, p, p, p, p)
            self.layer_bytes = function("layer_bytes", p, p, gives=n)
            self._multiply_four = function("multiply_four_bits", p, p, i, n, n, n, p, p, p)

    def add_lora(self, y: Tensor, x: Tensor, batch: Batch, first: int, parts: int, low: Tensor) -> None:
        """y [rows, out] += B A x [rows, in] for every row's own adapter. first, parts: the product's, in every table.

        low: at least rows * parts * low_floats(batch.ranks) floats, which are written to. Raises ValueError for
        adapters in 8 bits and a y that is not float32.
        """
        rows, inside = x.shape
        halves = y.dtype == torch.bfloat16, x.dtype == torch.bfloat16
        sizes = rows, inside, y.shape[1], ctypes.byref(batch), first, parts
        if STORED[batch.kind] != torch.int8:
            self._add(y.data_ptr(), halves[0], x.data_ptr(), halves[1], *sizes, low.data_ptr())
            return
        if halves[0]:
            raise ValueError("adapters in 8 bits are added to float32 only")
        scratch = torch.empty(rows * (inside + 4) + 4, dtype=torch.uint8)
        self._add_eight(y.data_ptr(), x.data_ptr(), halves[1], *sizes, scratch.data_ptr(), low.data_ptr())

    def place(
        self, a: Tensor, b: Tensor, by: float, start: int, kept: torch.dtype, to: Sequence[int]
    ) -> None:
        """a [rank, in] and b [width, rank] times `by`, whose first output is `start` of its product, as one of STORED.

        to: addresses for A and for B, which is zeros, and for int8 for scales and sums; as part_t in lora.h has them.
        """
        a, b = (side.contiguous() if side.dtype in KINDS else side.float().contiguous() for side in (a, b))
        halves = a.dtype == torch.bfloat16, b.dtype == torch.bfloat16
        from_where = a.data_ptr(), halves[0], b.data_ptr(), halves[1], by, *a.shape, len(b), start
        if kept == torch.int8:
            self._place_eight(*from_where, *to)
        else:
            self._place(*from_where, STORED.index(kept), *to[:2])

    def normalise(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """RMSNorm of x [..., width] by weight [width], width a multiple of LANES."""
        x = x.contiguous()
        halves = x.dtype == torch.bfloat16, weight.dtype == torch.bfloat16
        y = torch.empty_like(x, dtype=torch.bfloat16 if all(halves) else torch.float32)
        width = len(weight)
        self._norm(
            y.data_ptr(),
            x.data_ptr(),
            halves[0],
            x.numel() // width,
            width,
            weight.data_ptr(),
            halves[1],
            eps,
        )
        return y

    def gated(self, x: Tensor) -> Tensor:
        """silu(gate) * up [..., width] of gate and up beside each other [..., 2 width], width a multiple of LANES."""
        x = x.contiguous()
        width = x.shape[-1] // 2
        y = x.new_empty(*x.shape[:-1], width)
        self._gated(y.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, x.numel() // (2 * width), width)
        return y

    def turn(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Rotary embedding of x [rows, time, heads * size], queries, keys and values beside each other.

        keys and values go where the new positions are kept, [rows, groups, time, size] whose last two dimensions are
        contiguous; of that type are cos and sin [rows, 1, time, size], both halves alike. Returns the queries
        [rows, heads, time, size] in float32. size: a multiple of 2 LANES.
        """
        rows, groups, time, size = keys.shape
        heads = x.shape[-1] // size - 2 * groups
        q, x = torch.empty(rows, heads, time, size), x.contiguous()
        self._turn(
            q.data_ptr(), keys.data_ptr(), values.data_ptr(), keys.dtype == torch.bfloat16, x.data_ptr(),
            x.dtype == torch.bfloat16, cos.data_ptr(), sin.data_ptr(), rows, time, heads, groups, size,
            keys.stride(0), keys.stride(1),
        )  # fmt: skip
        return q

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """What one position of each row attends to: q [rows, heads, size], like what is returned.

        k, v [rows, groups, positions, size] of the same type, whose last two dimensions are contiguous; seen [rows,
        positions] bool, None for everywhere. size: a multiple of LANES, at most WIDEST.
        """
        rows, groups, positions, size = k.shape
        y, q = torch.empty(q.shape, dtype=k.dtype), q.float().contiguous()
        scores = torch.empty(q.shape[1] * rows * (-(-positions // LANES) * LANES))
        self._attend(
            y.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr(), k.dtype == torch.bfloat16,
            None if seen is None else seen.data_ptr(), rows, groups, q.shape[1] // groups, positions, size,
            k.stride(0), k.stride(1), size**-0.5, scores.data_ptr(),
        )  # fmt: skip
        return y

    def attend_many(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """What the last positions of each row attend to, each to itself and to those before it.

        q [rows, heads, time, size] in float32; k, v and seen as in `attend`. Returns [rows, time, heads * size] of the
        type of k. size: a multiple of OUT.
        """
        rows, groups, positions, size = k.shape
        heads, time = q.shape[1:3]
        y, q = torch.empty(rows, time, heads * size, dtype=k.dtype), q.contiguous()
        room = -(-positions // OUT) * OUT
        scratch = torch.empty(room * (2 * rows * groups * size + 6 * torch.get_num_threads()))
        self._attend_many(
            y.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr(), k.dtype == torch.bfloat16,
            None if seen is None else seen.data_ptr(), rows, time, groups, heads // groups, positions, size,
            k.stride(0), k.stride(1), size**-0.5, scratch.data_ptr(),
        )  # fmt: skip
        return y

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight [out, in] int8 for `multiply`, and what takes the zero point of inputs off again."""
        out, inside = weight.shape
        blocks = -(-out // OUT)
        packed = large(blocks * -(-inside // 4) * OUT * 4).view(torch.int8).view(blocks, -1, OUT, 4)
        sums = torch.empty(blocks * OUT, dtype=torch.int32)
        weight = weight.contiguous()
        self._pack(weight.data_ptr(), out, inside, packed.data_ptr(), sums.data_ptr())
        return packed, sums

    def multiply(
        self,
        x: Tensor,
        packed: Tensor,
        sums: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        added: tuple[Batch, int, int, Tensor] | None = None,
    ) -> Tensor:
        """x [rows, in], rounded to 8 bits, by weights of `pack` and their scale [out], plus bias [out]: float32.

        added: batch, of adapters in 8 bits, first, parts and low of `add_lora`, which is then done too.
        """
        rows, inside = x.shape
        y = torch.empty(rows, len(scale))
        scratch = torch.empty(rows * (4 * packed.shape[1] + 4), dtype=torch.uint8)
        batch, first, parts, low = added or (None, 0, 0, None)
        self._multiply(
            y.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, rows, inside, len(scale), packed.data_ptr(),
            sums.data_ptr(), scale.data_ptr(), None if bias is None else bias.data_ptr(), scratch.data_ptr(),
            None if batch is None else ctypes.byref(batch), first, parts, None if low is None else low.data_ptr(),
        )  # fmt: skip
        return y

    def pack_four(self, weight: Tensor, scale: Tensor, least: Tensor) -> Tensor:
        """What `products.four_bits` gives for `multiply_four` [blocks, groups, bytes]."""
        out, groups = scale.shape
        blocks, record = -(-out // OUT), OUT * (GROUP // 2 + 4)
        packed = large(blocks * groups * record).view(blocks, groups, record)
        weight, scale, least = weight.contiguous(), scale.contiguous(), least.contiguous()
        self._pack_four(weight.data_ptr(), scale.data_ptr(), least.data_ptr(), out, groups, packed.data_ptr())
        return packed

    def multiply_four(self, x: Tensor, packed: Tensor, out: int, bias: Tensor | None) -> Tensor:
        """x [rows, in], rounded to 8 bits, by weights of `pack_four`, plus bias [out]: float32 [rows, out]."""
        rows, inside = x.shape
        y = torch.empty(rows, out)
        scratch = torch.empty(rows * (packed.shape[1] * (GROUP + 4) + 4), dtype=torch.uint8)
        self._multiply_four(
            y.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, rows, inside, out, packed.data_ptr(),
            None if bias is None else bias.data_ptr(), scratch.data_ptr(),
        )  # fmt: skip
        return y


@cache
def load() -> Kernels | None:
    """The kernels, compiled if they never were; None where they cannot be, or are not wanted.

    Warns when they should be there and are not; where there is no compiler at all `router doctor` says so.
    """
    kernels, why = find()
    if why.startswith(FAILED):
        log.warning("%s. Answers are slower; mend it, or set %s=off.", why, VARIABLE)
    return kernels


def low_floats(ranks: int) -> int:
    """Floats that `add_lora` needs for each row and part of adapters of so many ranks; see LOW in eight_bits.h."""
    return max(ranks, 2 + 2 * -(-ranks // 4))


def kernels_for(x: Tensor, width: int) -> Kernels | None:
    """The kernels, if they compute with tensors like x in parts that are `width` wide."""
    if x.device.type != "cpu" or x.dtype not in KINDS or width % LANES:
        return None
    return load()


def find() -> tuple[Kernels | None, str]:
    """The kernels, or why there are none. Compiles them if they never were."""
    if os.environ.get(VARIABLE) == "off":
        return None, f"{VARIABLE} is off"
    if sys.platform != "linux":
        return None, "they are for Linux only"
    if not torch.cpu._is_avx512_supported():
        return None, "this processor has no AVX-512"
    if (library := _libgomp()) is None:
        return None, "this build of torch does not multiply with libgomp"
    try:
        # With the very library that torch multiplies with: another would bring threads of its own.
        path = compiled(sorted(SOURCES.iterdir()), library, paths.cache() / "kernels")
        with suppress(OSError, AttributeError):
            return Kernels(path), ""
        path.unlink()  # damaged
        return Kernels(compiled(sorted(SOURCES.iterdir()), library, path.parent)), ""
    except (OSError, AttributeError, CannotCompile) as error:
        return None, f"{FAILED}: {error}" if compiler() else "there is no C compiler"


def _libgomp() -> Path | None:
    """The OpenMP library of GCC's that torch has loaded, if it is the one it multiplies with."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found = {Path(line.split(maxsplit=5)[5].rstrip()) for line in maps if "/" in line}
    all_of = sorted(path for path in found if path.name.startswith(("libgomp", "libiomp", "libomp")))
    own = [path for path in all_of if path.is_relative_to(Path(torch.__file__).parent)] or all_of
    return own[0] if len(own) == 1 and own[0].name.startswith("libgomp") else None
