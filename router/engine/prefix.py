"""What prompts begin with, computed once and kept: every prompt of a specialist begins with the same text.

The keys and values of a position depend on the weights and on the tokens up to it, so they are found by the hash of the
adapter's bytes and the tokens themselves, never by a name: another adapter under an old name finds nothing. One such
cache belongs to one base in memory. Nobody says what is shared: it is what a prompt has in common with those before it
and beside it, as in RadixAttention (Zheng et al. 2024, arXiv:2312.07104), without its tree.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .cache import Cache, Layer, joined, repeated

SHARE_FROM = 16  # tokens that must be in common to be worth a forward of their own
RECENT = 4  # prompts of an adapter that a new one is compared with
KNOWN = 256  # adapters whose recent prompts are remembered
PREFIX_BYTES = 256 << 20  # about 20,000 tokens of Qwen2.5-0.5B in bf16


def common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    """How many tokens two prompts begin with alike, at most `most`; both of one type, so that slices compare."""
    low, high = 0, min(len(one), len(other), most)
    if one[:high] == other[:high]:
        return high
    while high - low > 1:  # one[:low] is alike, one[:high] is not
        middle = (low + high) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle)
    return low


def first(cache: Cache, tokens: int) -> Cache:
    """The first positions of a cache, as views of it."""
    return [Layer(*(side[:, :, :tokens] for side in _sides(layer))) for layer in cache]


def stacked(parts: Sequence[tuple[int, Cache | None, int]], empty: Cache) -> tuple[Cache, int]:
    """One cache for rows that begin differently: (tokens, a cache of one row, rows) of each; and its positions.

    Shorter beginnings are padded in front, so that all end at the same position. A beginning of no tokens needs no
    cache; `empty` is what all of them make.
    """
    width = max((tokens for tokens, _, _ in parts), default=0)
    some = next((cache for tokens, cache, _ in parts if tokens and cache), None)
    if some is None:
        return empty, 0
    whole: Cache | None = None
    rows = 0
    for tokens, cache, count in parts:
        mine = repeated(first(cache or some, tokens), count)
        whole = joined(whole, list(range(rows)), mine, 0, width) if len(parts) > 1 else mine
        rows += count
    assert whole is not None
    return whole, width


def _sides(layer: Layer) -> tuple[Tensor, Tensor]:
    assert layer.keys is not None and layer.values is not None
    return layer.keys, layer.values


@dataclass(eq=False)
class _Entry:
    """Tokens and their keys and values [1, heads, tokens, size] of every layer.

    whole: a first prompt in full, of which nobody knows yet how much is shared.
    """

    tokens: array[int]
    cache: Cache
    whole: bool
    bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.cut(len(self.tokens))

    def cut(self, tokens: int) -> None:
        """Keep the first tokens only, in tensors of their own."""
        self.tokens = self.tokens[:tokens]
        self.cache = [
            Layer(*(side.clone(memory_format=torch.contiguous_format) for side in _sides(layer)))
            for layer in first(self.cache, tokens)
        ]
        self.bytes = sum(side.numel() * side.element_size() for layer in self.cache for side in _sides(layer))


class PrefixCache:
    """Beginnings of prompts by adapter (the hash of its bytes, None for the bare base), least recently used dropped.

    budget: bytes of keys and values, 0 to keep nothing. Not safe for use from several threads at once.
    """

    def __init__(self, budget: int = PREFIX_BYTES) -> None:
        self.budget = budget
        self.bytes = 0
        self.hits = self.tokens_saved = 0
        self._entries: OrderedDict[_Entry, str | None] = OrderedDict()  # the least recently used first
        self._of: dict[str | None, list[_Entry]] = {}
        self._recent: OrderedDict[str | None, deque[array[int]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, adapter: str | None, prompt: Sequence[int]) -> tuple[int, Cache | None]:
        """The longest beginning held: how many tokens, and the cache of one row whose first positions they are.

        At least one token is left over, for there must be one to go on from; fewer than SHARE_FROM count as none.
        """
        tokens, entry = self._longest(adapter, array("q", prompt))
        if entry is None:
            return 0, None
        if entry.whole:  # now it shows how much of it others have too
            self.bytes -= entry.bytes
            entry.cut(tokens)
            entry.whole = False
            self.bytes += entry.bytes
        self._entries.move_to_end(entry)
        self.hits += 1
        self.tokens_saved += tokens
        return tokens, entry.cache

    def worth(
        self, adapter: str | None, prompts: Sequence[Sequence[int]], held: Sequence[int]
    ) -> tuple[int, int] | None:
        """The shortest beginning that several prompts have, these or recent ones, and worth a forward of its own.

        held: tokens of each prompt that need no computing. Returns the index of a prompt and how many of its tokens;
        None when no prompt shares SHARE_FROM more than it holds.
        """
        mine = sorted((array("q", prompt), index) for index, prompt in enumerate(prompts))
        recent = list(self._recent.get(adapter, ()))
        best: tuple[int, int] | None = None
        for place, (prompt, index) in enumerate(mine):
            beside = [other for other, _ in mine[max(0, place - 1) : place] + mine[place + 1 : place + 2]]
            shared = max(  # neighbours in order have most in common
                (common(prompt, other, min(len(prompt), len(other)) - 1) for other in beside + recent),
                default=0,
            )
            if shared - held[index] >= SHARE_FROM and (best is None or shared < best[1]):
                best = index, shared
        return best

    def note(self, adapter: str | None, prompts: Sequence[Sequence[int]]) -> None:
        """Remember prompts, for later ones to be compared with."""
        if not self.budget:
            return
        recent = self._recent.setdefault(adapter, deque(maxlen=RECENT))
        recent.extend(array("q", prompt) for prompt in prompts[-RECENT:])
        self._recent.move_to_end(adapter)
        while len(self._recent) > KNOWN:
            self._recent.popitem(last=False)

    def keep(self, adapter: str | None, tokens: Sequence[int], cache: Cache, *, whole: bool = False) -> None:
        """Keep a copy of the first positions of a cache of one row, unless they are held. whole: all of a prompt."""
        if not tokens or not self.budget:
            return
        mine = array("q", tokens)
        if any(common(one.tokens, mine, len(mine)) == len(mine) for one in self._of.get(adapter, ())):
            return  # computed twice at the same time
        entry = _Entry(mine, cache, whole)
        if entry.bytes > self.budget:
            return
        self._entries[entry] = adapter
        self._of.setdefault(adapter, []).append(entry)
        self.bytes += entry.bytes
        while self.bytes > self.budget:
            self._drop(next(iter(self._entries)))

    def forget(self, adapter: str | None) -> None:
        """Drop everything of an adapter."""
        for entry in list(self._of.get(adapter, ())):
            self._drop(entry)
        self._recent.pop(adapter, None)

    def _drop(self, entry: _Entry) -> None:
        adapter = self._entries.pop(entry)
        self.bytes -= entry.bytes
        self._of[adapter].remove(entry)
        if not self._of[adapter]:
            del self._of[adapter]

    def _longest(self, adapter: str | None, prompt: array[int]) -> tuple[int, _Entry | None]:
        best: tuple[int, _Entry | None] = SHARE_FROM - 1, None
        for entry in self._of.get(adapter, ()):
            tokens = common(entry.tokens, prompt, len(prompt) - 1)
            if tokens > best[0]:
                best = tokens, entry
        return best
