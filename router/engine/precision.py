"""The precision that the base is multiplied in, and its rounded weights, made once and kept in the cache."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import astuple
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from specialists.errors import BadInput, Unavailable
from specialists.paths import cache

from .base import Base
from .lora import MixedLinear, products
from .products import FourBits, Plain, eight_bits, four_bits, int4, int8
from .progress import bar

PRECISIONS = ("auto", "bf16", "int8", "int4")
_SIDES, _FOUR = (
    ("weight", "scale"),
    ("numbers", "scale", "least"),
)  # of a layer in the file, in 8 bits and in 4
HEAD = "lm_head"  # which is in 8 bits beside layers in 4, for it is worth more than they are


def resolve(precision: str | None, dtype: torch.dtype, device: torch.device) -> str:
    """What a precision comes to for a model opened in `dtype`: "int8", "int4", or "bf16" for its weights as they are.

    "auto" is int8 on a CPU that multiplies 8-bit integers well. Raises BadInput for an unknown one, or for
    one that cannot be had.
    """
    asked = precision or "auto"
    if asked not in PRECISIONS:
        raise BadInput(f"There is no precision {asked!r}; use {', '.join(PRECISIONS)}.")
    if asked == "auto":
        return "int8" if dtype == torch.bfloat16 and device.type == "cpu" and can_multiply() else "bf16"
    if asked in ("int8", "int4") and device.type != "cpu":
        raise BadInput(
            "Rounded weights are multiplied on the CPU only; use --precision bf16, or the device cpu."
        )
    if asked == "int8" and not can_multiply():
        raise BadInput(
            "This build of torch cannot multiply in 8 bits on this processor; use --precision bf16."
        )
    return asked


def can_multiply() -> bool:
    """Whether this build and processor multiply 8-bit integers faster than bf16: those with VNNI, through oneDNN."""
    ops = torch.ops.onednn
    return (
        hasattr(ops, "qlinear_prepack")
        and hasattr(ops, "qlinear_pointwise")
        and torch.cpu._is_vnni_supported()
    )


def round_weights(layers: Mapping[str, MixedLinear], base: Base, precision: str) -> None:
    """Multiply every layer in 8 or in 4 bits from now on, int8 or int4; its own weights are let go.

    The rounded weights are read from the cache, or made and kept there. Raises Unavailable when they cannot be kept.
    """
    from safetensors import SafetensorError

    path = cache() / precision / f"{base.weights[:32]}.safetensors"
    every = products(layers)
    if not can_multiply():
        every = [product for product in every if not _eight(product, precision)]
    try:
        _read(path, every, precision)
    except (OSError, SafetensorError):  # not there yet, or cut short: made from the weights that are there
        path.unlink(missing_ok=True)
        _make(path, every, precision)
        _read(path, every, precision)


def _eight(product: MixedLinear, precision: str) -> bool:
    return precision == "int8" or HEAD in product.names


def _read(path: Path, every: list[MixedLinear], precision: str) -> None:
    from safetensors import safe_open

    made = []
    for product in every:
        assert isinstance(product.product, Plain)
        with safe_open(
            path, framework="pt"
        ) as file:  # opened each time, so that what was read does not stay mapped
            sides = _SIDES if _eight(product, precision) else _FOUR
            read = [[file.get_tensor(f"{name}.{side}") for side in sides] for name in product.names]
        bias = product.product.bias
        if sides is _SIDES:
            weights, scales = zip(*read, strict=True)
            made.append(int8(weights, scales, bias))
        else:
            made.append(int4([FourBits(*one) for one in read], bias, product.shapes[0][1]))
    for product, rounded in zip(every, made, strict=True):
        product.product = rounded


def _make(path: Path, every: list[MixedLinear], precision: str) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    bits = precision.removeprefix("int")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if path.exists():
                return
            found: dict[str, Tensor] = {}
            total = sum(out * inside for product in every for out, inside in product.shapes)
            with bar(total, f"Rounding weights to {bits} bits", unit="") as progress:
                for product in every:
                    assert isinstance(product.product, Plain)
                    eight = _eight(product, precision)
                    for name, linear in zip(product.names, product.product.linears, strict=True):
                        sides = eight_bits(linear.weight) if eight else astuple(four_bits(linear.weight))
                        for side, tensor in zip(_SIDES if eight else _FOUR, sides, strict=True):
                            found[f"{name}.{side}"] = tensor
                        progress.update(linear.weight.numel())
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.")
            os.close(handle)
            try:
                save_file(found, temporary)
                os.replace(temporary, path)
            finally:
                Path(temporary).unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise Unavailable(
            f"Could not write the {bits}-bit weights to {path.parent} ({why}): make room there, "
            "set ROUTER_CACHE to a folder elsewhere, or use --precision bf16."
        ) from error
