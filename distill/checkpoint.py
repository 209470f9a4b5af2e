"""Checkpoints of a training run: written whole or not at all, and only ever continued by the run that wrote them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

Progress = tuple[int, list[float], float, int]  # steps done, losses, seconds, tokens


def save_checkpoint(
    out: Path,
    identity: dict[str, Any],
    weights: Sequence[torch.Tensor],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write out/checkpoint.pt atomically."""
    buffer = io.BytesIO()
    state = {
        "identity": identity,
        "weights": list(weights),
        "optimizer": optimizer.state_dict(),
        "progress": progress,
    }
    torch.save(state, buffer)
    write_atomic(out / "checkpoint.pt", buffer.getvalue())


def load_checkpoint(
    out: Path, identity: dict[str, Any], weights: Sequence[torch.Tensor], optimizer: torch.optim.Optimizer
) -> Progress:
    """Bring weights and optimizer to where the run stopped; (0, [], 0.0, 0) when it never began.

    Raises BadInput when the checkpoint is of another run, Damaged when it cannot be read.
    """
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0, [], 0.0, 0
    try:
        state = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise Damaged(f"{path} cannot be read; delete it to train from the start.") from error
    if state["identity"] != identity:
        raise BadInput(
            f"{out} holds an unfinished run of other data or settings; finish it, or choose another --out."
        )
    with torch.no_grad():
        for weight, saved in zip(weights, state["weights"], strict=True):
            weight.copy_(saved)
    optimizer.load_state_dict(state["optimizer"])
    done, log, seconds, tokens = state["progress"]
    return done, list(log), seconds, tokens
