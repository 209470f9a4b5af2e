"""Opening a base for answering: our own forward for Qwen2, transformers for every other architecture."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from specialists.errors import Damaged

from .base import Base, load_model, unreadable
from .cache import Cache, Layer
from .qwen2 import is_plain, open_qwen2

CPU = torch.device("cpu")


class Model(Protocol):
    """What the engine needs of a causal language model."""

    stop: set[int]  # tokens that end an answer
    longest: int  # positions it can attend to
    dtype: torch.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        ...

    def empty_cache(self) -> Cache:
        """A cache that holds nothing yet."""
        ...

    def logits(
        self,
        ids: Tensor,
        seen: Tensor,
        cache: Cache,
        last: int = 1,
        between: Callable[[], None] | None = None,
    ) -> Tensor:
        """Scores [rows, vocabulary] of the token after ids [rows, time], which are appended to the cache.

        last: score what follows each of the last so many of ids, [rows, last, vocabulary] when it is more than one.
        seen [rows, positions held and new] is False where there is padding, which no token attends to. ids and seen are
        on the CPU, the cache and the scores where the model is. between: may be called between two layers, and may ask
        for other logits meanwhile.
        """
        ...


class AnyModel(nn.Module):
    """A model of transformers, all of whose layers attend to everything."""

    def __init__(self, base: Base, dtype: str, device: torch.device) -> None:
        super().__init__()
        inner: Any = load_model(base, str(device), dtype)
        self.device = device
        self.model, self.lm_head = inner.model, inner.lm_head  # so that modules keep their names
        self.config, self.dtype = inner.config, inner.dtype
        stop = inner.generation_config.eos_token_id
        self.stop = set(stop if isinstance(stop, list) else [] if stop is None else [stop])
        self.longest: int = inner.config.max_position_embeddings

    def empty_cache(self) -> Cache:
        """See Model."""
        return [Layer() for _ in range(self.config.num_hidden_layers)]

    def logits(
        self,
        ids: Tensor,
        seen: Tensor,
        cache: Cache,
        last: int = 1,
        between: Callable[[], None] | None = None,
    ) -> Tensor:
        """See Model. `between` is never called."""
        from .hub_cache import as_transformers

        positions = (seen.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        hidden = self.model(
            input_ids=ids.to(self.device),
            attention_mask=seen.long().to(self.device),
            position_ids=positions.to(self.device),
            past_key_values=as_transformers(cache),
            use_cache=True,
        ).last_hidden_state
        out: Tensor = self.lm_head(hidden[:, -last:] if last > 1 else hidden[:, -1])
        return out


def open_model(base: Base, dtype: str = "bfloat16", device: torch.device = CPU) -> Any:
    """The model of a base on a device, in eval mode. Raises Damaged when the weights do not open or lack tensors."""
    try:
        config = json.loads((base.path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(unreadable("configuration", base, error)) from error
    if not is_plain(config):
        return AnyModel(base, dtype, device)
    from safetensors import SafetensorError

    try:
        return open_qwen2(base.path, getattr(torch, dtype)).to(device)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise Damaged(unreadable("weights", base, error)) from error
