"""Compiled loops for what torch does slowly: products in 8 bits, and what adapters add to rows.

The sources in c/ are compiled at their first use, in three seconds, for this processor, and kept in the cache. That
takes gcc and a torch that multiplies with libgomp, whose threads the loops share: Linux. Elsewhere, and with
ROUTER_KERNELS=off, torch's own operations do the same, slower: docs/engine.md has the figures.
"""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import suppress
from ctypes import c_int, c_int32, c_long, c_void_p
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from specialists import paths

from .compiler import CannotCompile, compiled

SOURCES = Path(__file__).parent / "c"
VARIABLE = "ROUTER_KERNELS"
OUT = 64  # outputs that are multiplied together, as in eight_bits.c
KINDS = (torch.float32, torch.bfloat16)  # of tensors


class Batch(ctypes.Structure):
    """batch_t of lora.c: which rows use which adapter's tensors."""

    _fields_ = (
        ("ends", c_void_p),
        ("order", c_void_p),
        ("tables", c_void_p),
        ("rows", c_int32),
        ("groups", c_int32),
        ("half", c_int32),
        ("ranks", c_int32),
    )


class Kernels:
    """The compiled loops. Tensors are contiguous, on the CPU, and float32 or bf16 where nothing else is said."""

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file is no library that this process can open, AttributeError when it is another."""
        library = ctypes.CDLL(str(path))
        self._add = library.add_lora
        self._add.argtypes = [c_void_p, c_int, c_void_p, c_int, c_long, c_long, c_long]
        self._add.argtypes += [c_void_p, c_int, c_int, c_void_p]
        self._add.restype = None
        self.multiplies = hasattr(library, "multiply_eight_bits")  # this processor, in 8 bits
        if self.multiplies:
            self._pack, self._multiply = library.pack_eight_bits, library.multiply_eight_bits
            self._pack.argtypes = [c_void_p, c_long, c_long, c_void_p, c_void_p]
            self._multiply.argtypes = [c_void_p, c_void_p, c_int, c_long, c_long, c_long]
            self._multiply.argtypes += [c_void_p, c_void_p, c_void_p, c_void_p, c_void_p]
            self._pack.restype = self._multiply.restype = None

    def add_lora(self, y: Tensor, x: Tensor, batch: Batch, first: int, parts: int, scratch: Tensor) -> None:
        """y [rows, out] += B A x [rows, in] for every row's own adapter. first, parts: the product's, in every table.

        scratch: at least rows * parts * batch.ranks floats, which are written to.
        """
        rows, inside = x.shape
        halves = y.dtype == torch.bfloat16, x.dtype == torch.bfloat16
        self._add(
            y.data_ptr(), halves[0], x.data_ptr(), halves[1], rows, inside, y.shape[1],
            ctypes.byref(batch), first, parts, scratch.data_ptr(),
        )  # fmt: skip

    def pack(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """weight [out, in] int8 for `multiply`, and what takes the zero point of inputs off again."""
        out, inside = weight.shape
        blocks = -(-out // OUT)
        packed = torch.empty(blocks, -(-inside // 4), OUT, 4, dtype=torch.int8)
        sums = torch.empty(blocks * OUT, dtype=torch.int32)
        weight = weight.contiguous()
        self._pack(weight.data_ptr(), out, inside, packed.data_ptr(), sums.data_ptr())
        return packed, sums

    def multiply(self, x: Tensor, packed: Tensor, sums: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        """x [rows, in], rounded to 8 bits, by weights of `pack` and their scale [out], plus bias [out]: float32."""
        rows, inside = x.shape
        y = torch.empty(rows, len(scale))
        scratch = torch.empty(rows * (4 * packed.shape[1] + 4), dtype=torch.uint8)
        self._multiply(
            y.data_ptr(), x.data_ptr(), x.dtype == torch.bfloat16, rows, inside, len(scale), packed.data_ptr(),
            sums.data_ptr(), scale.data_ptr(), None if bias is None else bias.data_ptr(), scratch.data_ptr(),
        )  # fmt: skip
        return y


@cache
def load() -> Kernels | None:
    """The kernels, compiled if they never were; None where they cannot be, or are not wanted (`find` says why)."""
    return find()[0]


def find() -> tuple[Kernels | None, str]:
    """The kernels, or why there are none. Compiles them if they never were."""
    if os.environ.get(VARIABLE) == "off":
        return None, f"{VARIABLE} is off"
    if sys.platform != "linux":
        return None, "they are for Linux only"
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
        return None, str(error)


def _libgomp() -> Path | None:
    """The OpenMP library of GCC's that torch has loaded, if it is the one it multiplies with."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        found = {Path(line.split(maxsplit=5)[5].rstrip()) for line in maps if "/" in line}
    all_of = sorted(path for path in found if path.name.startswith(("libgomp", "libiomp", "libomp")))
    own = [path for path in all_of if path.is_relative_to(Path(torch.__file__).parent)] or all_of
    return own[0] if len(own) == 1 and own[0].name.startswith("libgomp") else None
