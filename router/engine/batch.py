"""Rows that decode together, and prompts on their way into them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from time import monotonic

import torch
from torch import Tensor
from torch.nn.functional import pad

from .cache import Cache, joined
from .model import Model
from .prefix import PrefixCache, common, first, stacked

DEPTH = 2  # beginnings computed by themselves for one group: a specialist's prompt, and one within it

SetAdapters = Callable[[Sequence[str | None]], None]


@dataclass(eq=False)
class Row:
    """A request under way. Times are of the monotonic clock, in seconds, 0.0 while they are to come.

    adapter: the hash of the adapter's bytes, None for the bare base. limit: the most tokens to write. late: it ended
    at its deadline. error: why it ended without an answer.
    """

    prompt: list[int]
    adapter: str | None
    limit: int
    index: int = 0
    submitted: float = 0.0
    deadline: float | None = None
    started: float = 0.0
    first: float = 0.0
    written: list[int] = field(default_factory=list)
    done: bool = False
    truncated: bool = False
    late: bool = False
    cancelled: bool = False
    error: Exception | None = None

    def take(self, token: int, stop: set[int]) -> None:
        """One token more."""
        if not self.first:
            self.first = monotonic()
        if token in stop:
            self.done = True
        else:
            self.written.append(token)
            self.done = self.truncated = len(self.written) >= self.limit


class Prefill:
    """Prompts of one adapter on their way through the model, some positions at a time."""

    def __init__(self, rows: Sequence[Row], model: Model, mix: SetAdapters, prefixes: PrefixCache) -> None:
        self.rows = list(rows)
        self.cache: Cache = []
        self.seen = torch.zeros(0, 0, dtype=torch.bool)  # [rows, positions]
        self.tokens: list[int] = []  # what follows each prompt; empty until all is computed
        self._model, self._mix, self._prefixes = model, mix, prefixes
        self._most = 0
        self._forwards = self._run()
        now = monotonic()
        for row in rows:
            row.started = now

    @property
    def adapter(self) -> str | None:
        """That of every row."""
        return self.rows[0].adapter

    def advance(self, most: int) -> int:
        """One forward of at most so many positions, padding included, or of one for every row; how many it had.

        0: there was nothing left to compute.
        """
        self._most = most
        return next(self._forwards, 0)

    def _run(self) -> Generator[int, None, None]:
        """All forwards, one an iteration."""
        prompts = [row.prompt for row in self.rows]
        begins = [self._prefixes.find(self.adapter, prompt) for prompt in prompts]
        for _ in range(DEPTH):
            worth = self._prefixes.worth(self.adapter, prompts, [tokens for tokens, _ in begins])
            if worth is None:
                break
            beginning = prompts[worth[0]][: worth[1]]
            cache = yield from self._beginning(beginning, *begins[worth[0]])
            for i, prompt in enumerate(prompts):
                if (tokens := common(beginning, prompt, len(prompt) - 1)) > begins[i][0]:
                    begins[i] = tokens, cache
        yield from self._rest(begins)
        self._prefixes.note(self.adapter, prompts)

    def _beginning(self, tokens: list[int], held: int, cache: Cache | None) -> Generator[int, None, Cache]:
        """Compute and keep what prompts begin with, of which `held` tokens are in a cache."""
        mine = first(cache, held) if cache else self._model.empty_cache()
        yield from self._feed(
            torch.tensor([tokens[held:]]), torch.ones(1, len(tokens), dtype=torch.bool), mine
        )
        self._prefixes.keep(self.adapter, tokens, mine)
        return mine

    def _rest(self, begins: list[tuple[int, Cache | None]]) -> Generator[int, None, None]:
        """Compute what each prompt does not share: [padding, beginning, padding, own tokens] of a row."""
        order = sorted(range(len(begins)), key=lambda i: (begins[i][0], id(begins[i][1])))
        self.rows = [self.rows[i] for i in order]  # so that rows with one beginning lie together
        begins = [begins[i] for i in order]
        parts: list[tuple[int, Cache | None, int]] = []
        for begin in begins:
            count = parts.pop()[2] if parts and parts[-1][0] == begin[0] and parts[-1][1] is begin[1] else 0
            parts.append((*begin, count + 1))
        self.cache, shared = stacked(parts, self._model.empty_cache())
        own = [row.prompt[tokens:] for row, (tokens, _) in zip(self.rows, begins, strict=True)]
        width = max(map(len, own))
        ids = torch.zeros(len(own), width, dtype=torch.long)
        self.seen = torch.zeros(len(own), shared + width, dtype=torch.bool)
        for i, (tail, (tokens, _)) in enumerate(zip(own, begins, strict=True)):
            ids[i, width - len(tail) :] = torch.tensor(tail)
            self.seen[i, shared - tokens : shared] = True
            self.seen[i, shared + width - len(tail) :] = True
        scores = yield from self._feed(ids, self.seen, self.cache)
        self.tokens = scores.max(-1).indices.tolist()
        if not shared and self._prefixes.find(self.adapter, self.rows[0].prompt)[1] is None:
            row = self.rows[0]  # the first of its kind: the next one shows how much of it is shared
            start = width - len(row.prompt)
            self._prefixes.keep(self.adapter, row.prompt, _only(self.cache, start), whole=True)

    def _feed(self, ids: Tensor, seen: Tensor, cache: Cache) -> Generator[int, None, Tensor]:
        """Append ids [rows, time] to a cache, as many positions a forward as allowed; the last scores."""
        rows, width = ids.shape
        held = seen.shape[1] - width
        start = 0
        while True:
            end = min(width, start + max(1, self._most // rows))
            self._mix([self.adapter] * rows)
            scores = self._model.logits(ids[:, start:end], seen[:, : held + end], cache)
            if end == width:
                # Counted last, so that what is computed is also taken in within the same call.
                self._last = rows * (end - start)
            yield rows * (end - start)
            if end == width:
                return scores
            start = end
