"""Checkpoints of a training run: written whole or not at all, and only ever continued by the run that wrote them."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

NAME = "checkpoint.pt"


def save_checkpoint(out: Path, identity: dict[str, Any], state: dict[str, Any]) -> None:
    """Write out/checkpoint.pt atomically; `state` is made of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save({"identity": identity, "state": state}, buffer)
    write_atomic(out / NAME, buffer.getvalue())


def load_checkpoint(out: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state in which the run stopped; None when it never began.

    Raises BadInput when the checkpoint is of another run, Damaged when it cannot be read.
    """
    path = out / NAME
    if not path.exists():
        return None
    try:
        saved = torch.load(path, weights_only=True)
        mine, state = saved["identity"] == identity, dict(saved["state"])
    except (
        OSError,
        RuntimeError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        pickle.UnpicklingError,
    ) as error:
        raise Damaged(f"{path} cannot be read; delete it to train from the start.") from error
    if not mine:
        raise BadInput(
            f"{out} holds an unfinished run of other data or settings; finish it, or choose another --out."
        )
    return state
