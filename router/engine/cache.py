"""A key-value cache whose rows can leave and join while the others go on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

STEP = 128  # positions by which the buffers grow


class Layer:
    """Keys and values [rows, heads, positions, size] of one layer, appended to in buffers with room to spare."""

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None) -> None:
        self.keys, self.values = keys, values
        self._buffers: tuple[Tensor, Tensor] | None = None

    @property
    def length(self) -> int:
        """Positions held."""
        return 0 if self.keys is None else self.keys.shape[2]

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add positions at the end; everything held, with them."""
        for new, side in zip(self.extended(keys.shape, keys), (keys, values), strict=True):
            new.copy_(side)
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def extended(self, shape: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
        """Room at the end for keys and values of that shape [rows, heads, positions, size], and of the type of `like`.

        They count as held from now on.
        """
        rows, heads, count, size = shape
        start = self.length
        end = start + count
        if self._buffers is None or self._buffers[0].shape[2] < end:
            grown = [like.new_empty(rows, heads, end + STEP, size) for _ in range(2)]
            if self.keys is not None and self.values is not None:
                grown[0][:, :, :start], grown[1][:, :, :start] = self.keys, self.values
            self._buffers = grown[0], grown[1]
        keys, values = self._buffers
        self.keys, self.values = keys[:, :, :end], values[:, :, :end]
        return keys[:, :, start:end], values[:, :, start:end]

    def cut(self, positions: int) -> None:
        """Forget the last so many positions."""
        assert self.keys is not None and self.values is not None
        end = self.length - positions
        self.keys, self.values = self.keys[:, :, :end], self.values[:, :, :end]


Cache = list[Layer]


def repeated(cache: Cache, rows: int) -> Cache:
    """A cache of one row, seen as that many rows."""
    found = []
    for layer in cache:
        assert layer.keys is not None and layer.values is not None
        found.append(Layer(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1)))
    return found


def joined(old: Cache | None, keep: list[int], new: Cache | None, start: int, width: int) -> Cache:
    """A cache of the rows `keep` of old, from position `start` on, followed by the rows of new.

    Rows end at the same, last position (padding is before a row's own tokens), `width` positions long.
    """
    rows = torch.tensor(keep, dtype=torch.long)

    def both(index: int, side: str) -> Tensor:
        pieces = []
        if old is not None and keep:
            pieces.append(getattr(old[index], side)[rows, :, start:])
        if new is not None:
            pieces.append(getattr(new[index], side))
        pieces = [piece[:, :, -width:] for piece in pieces]
        pieces = [torch.nn.functional.pad(piece, (0, 0, width - piece.shape[2], 0)) for piece in pieces]
        return torch.cat(pieces) if len(pieces) > 1 else pieces[0]

    some = new if new is not None else old
    assert some is not None
    return [Layer(both(index, "keys"), both(index, "values")) for index in range(len(some))]
