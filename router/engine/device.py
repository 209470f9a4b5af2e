"""Where the base is multiplied: on a CUDA GPU when torch sees one, else on the CPU."""

from __future__ import annotations

import torch

from specialists.errors import BadInput

DEVICES = ("auto", "cpu", "cuda")


def choose(asked: str | None) -> torch.device:
    """The device that "auto" (or None), "cpu" or "cuda" comes to. Raises BadInput for another, or a GPU not there."""
    if asked not in (None, *DEVICES):
        raise BadInput(f"There is no device {asked!r}; use {', '.join(DEVICES)}.")
    if asked == "cuda" and not torch.cuda.is_available():
        raise BadInput("This torch sees no CUDA GPU; use the device cpu, or install a CUDA build of torch.")
    if asked == "cuda" or (asked != "cpu" and torch.cuda.is_available()):
        return torch.device("cuda")
    return torch.device("cpu")
