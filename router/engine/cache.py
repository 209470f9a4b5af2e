"""A key-value cache whose rows can leave and join while the others go on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

STEP = 128  # positions by which the buffers grow


class GrowingLayer(DynamicLayer):
    """Appends in place into a buffer with room to spare, where DynamicLayer copies everything at every token."""

    keys: Tensor
    values: Tensor
    buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self.buffers is None or self.buffers[0].shape[-2] < end:
            rows, heads, _, size = key_states.shape
            room = end + STEP
            grown = (
                key_states.new_empty(rows, heads, room, size),
                value_states.new_empty(rows, heads, room, size),
            )
            if start:
                grown[0][:, :, :start], grown[1][:, :, :start] = self.keys, self.values
            self.buffers = grown
        self.buffers[0][:, :, start:end], self.buffers[1][:, :, start:end] = key_states, value_states
        self.keys, self.values = self.buffers[0][:, :, :end], self.buffers[1][:, :, :end]
        return self.keys, self.values

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Replace the contents."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        self.keys, self.values, self.buffers = keys, values, None


def new_cache(model: Any) -> Cache:
    """An empty cache for a model whose layers all attend to everything."""
    return Cache(layers=[GrowingLayer() for _ in range(model.config.num_hidden_layers)])


def joined(old: Cache | None, keep: list[int], new: Cache | None, start: int, width: int) -> Cache:
    """A cache of the rows `keep` of old, from position `start` on, followed by the rows of new.

    Rows end at the same, last position (padding is on the left), `width` positions long.
    """
    parts = [(cache, rows) for cache, rows in ((old, keep), (new, None)) if cache is not None and rows != []]
    result = Cache(layers=[GrowingLayer() for _ in (parts[0][0].layers)])
    for index, layer in enumerate(result.layers):
        sides = []
        for side in ("keys", "values"):
            pieces = []
            for cache, rows in parts:
                tensor = getattr(cache.layers[index], side)
                tensor = tensor if rows is None else tensor[torch.tensor(rows), :, start:]
                tensor = tensor[:, :, -width:]
                pieces.append(torch.nn.functional.pad(tensor, (0, 0, width - tensor.shape[2], 0)))
            sides.append(torch.cat(pieces) if len(pieces) > 1 else pieces[0])
        layer.put(*sides)
    return result
