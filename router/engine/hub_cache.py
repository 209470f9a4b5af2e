"""Our cache as transformers wants one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache as HubCache
from transformers.cache_utils import DynamicLayer

from . import cache as ours


class _View(DynamicLayer):
    """One of our layers, which keeps the tensors."""

    def __init__(self, layer: ours.Layer) -> None:
        super().__init__()
        self.layer = layer
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self.layer.append(key_states, value_states)

    def get_seq_length(self) -> int:
        return self.layer.length


def as_transformers(cache: ours.Cache) -> HubCache:
    """A cache of transformers whose tensors are those of ours."""
    return HubCache(layers=[_View(layer) for layer in cache])
