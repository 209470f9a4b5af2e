"""Rows that decode together, and prompts on their way into them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from time import monotonic

import torch
from torch import Tensor
from torch.nn.functional import pad

from .cache import Cache, joined
from .lookup import agreed
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
    hints: Sequence[str] = ()
    noted: int = -1  # how many of `written` the lookup knows; -1: not even the prompt
    late: bool = False
    cancelled: bool = False
    error: Exception | None = None

    def unwanted(self, now: float) -> bool:
        """Whether it was cancelled or its deadline has passed."""
        return self.cancelled or (self.deadline is not None and now > self.deadline)

    def take(self, token: int, stop: set[int]) -> None:
        """One token more."""
        if not self.first:
            self.first = monotonic()
        if token in stop:
            self.done = True
        else:
            self.written.append(token)
            self.done = self.truncated = len(self.written) >= self.limit


@dataclass
class _Job:
    """Token ids [rows, time] to append to a cache, of which `at` are already; seen [rows, positions] after all."""

    ids: Tensor
    seen: Tensor
    cache: Cache
    at: int = 0


class Prefill:
    """Prompts of one adapter on their way through the model, some positions at a time."""

    def __init__(self, rows: Sequence[Row], model: Model, mix: SetAdapters, prefixes: PrefixCache) -> None:
        now = monotonic()
        for row in rows:
            row.started = now
        self.rows = list(rows)
        self.adapter = rows[0].adapter
        self.cache: Cache = []
        self.seen = torch.zeros(0, 0, dtype=torch.bool)  # [rows, positions]
        self.tokens: list[int] = []  # what follows each prompt, once all is computed
        self._model, self._mix, self._prefixes = model, mix, prefixes
        self.done = False  # whether all is computed
        self._jobs = self._run()
        self._job: _Job | None = None

    def advance(self, most: int, between: Callable[[], None] | None = None) -> int:
        """One forward of at most so many positions, padding included, or of one for every row; how many it had.

        between: see Model.logits.
        """
        job = self._job = self._job or next(self._jobs)
        rows, width = job.ids.shape
        start, job.at = job.at, min(width, job.at + max(1, most // rows))
        held = job.seen.shape[1] - width
        self._mix([self.adapter] * rows)
        ids, seen = job.ids[:, start : job.at], job.seen[:, : held + job.at]
        scores = self._model.logits(ids, seen, job.cache, between=between)
        if job.at == width:
            try:
                self._job = self._jobs.send(scores)
            except StopIteration:
                self.done = True
        return rows * (job.at - start)

    def _run(self) -> Generator[_Job, Tensor, None]:
        """What is to be computed, one after another; takes the scores of what follows the last position."""
        prompts = [row.prompt for row in self.rows]
        begins = [self._prefixes.find(self.adapter, prompt) for prompt in prompts]
        for _ in range(DEPTH):
            worth = self._prefixes.worth(self.adapter, prompts, [tokens for tokens, _ in begins])
            if worth is None:
                break
            tokens = prompts[worth[0]][: worth[1]]
            held, cache = begins[worth[0]]
            cache = first(cache, held) if cache else self._model.empty_cache()
            yield _Job(torch.tensor([tokens[held:]]), torch.ones(1, len(tokens), dtype=torch.bool), cache)
            self._prefixes.keep(self.adapter, tokens, cache)
            for i, prompt in enumerate(prompts):
                if (shared := common(tokens, prompt, len(prompt) - 1)) > begins[i][0]:
                    begins[i] = shared, cache
        yield from self._rest(begins)
        self._prefixes.note(self.adapter, prompts)

    def _rest(self, begins: list[tuple[int, Cache | None]]) -> Generator[_Job, Tensor, None]:
        """What prompts do not share. A row is then padding, its beginning, padding, its own tokens."""
        order = sorted(range(len(begins)), key=lambda i: (begins[i][0], id(begins[i][1])))
        self.rows = [self.rows[i] for i in order]  # so that rows with one beginning lie together
        begins = [begins[i] for i in order]
        parts: list[tuple[int, Cache | None, int]] = []
        for tokens, cache in begins:
            alike = parts and parts[-1][0] == tokens and parts[-1][1] is cache
            parts.append((tokens, cache, parts.pop()[2] + 1 if alike else 1))
        self.cache, shared = stacked(parts, self._model.empty_cache())
        own = [row.prompt[tokens:] for row, (tokens, _) in zip(self.rows, begins, strict=True)]
        width = max(map(len, own))
        ids = torch.zeros(len(own), width, dtype=torch.long)
        self.seen = torch.zeros(len(own), shared + width, dtype=torch.bool)
        for i, (tail, (tokens, _)) in enumerate(zip(own, begins, strict=True)):
            ids[i, width - len(tail) :] = torch.tensor(tail)
            self.seen[i, shared - tokens : shared] = True
            self.seen[i, shared + width - len(tail) :] = True
        scores = yield _Job(ids, self.seen, self.cache)
        self.tokens = scores.max(-1).indices.tolist()
        if not shared:  # the first of its kind: the next one will show how much of it is shared
            prompt = self.rows[0].prompt
            alone = joined(self.cache, [0], None, width - len(prompt), len(prompt))
            self._prefixes.keep(self.adapter, prompt, alone, whole=True)


class Batch:
    """Rows decoding together, padded before their own tokens so that all end at the same position."""

    def __init__(self, model: Model, mix: SetAdapters) -> None:
        self.rows: list[Row] = []
        self._model, self._mix = model, mix
        self._cache: Cache = []
        self._seen = torch.zeros(0, 0, dtype=torch.bool)  # [rows, positions]: is there a token

    @property
    def alive(self) -> list[Row]:
        """The rows that are not done."""
        return [row for row in self.rows if not row.done]

    def join(self, done: Prefill) -> bool:
        """Put rows whose prompts are computed with the others; their first tokens are the caller's to take."""
        self._merge([i for i, row in enumerate(self.rows) if not row.done], done.cache, done.seen)
        self.rows = [*self.alive, *done.rows]
        return True

    def step(self, between: Callable[[], None] | None = None) -> list[list[int]]:
        """The next token of every row, done ones included. between: see Model.logits."""
        ids = torch.tensor([[row.written[-1] if row.written else 0] for row in self.rows])
        self._seen = pad(self._seen, (0, 1), value=True)
        some = self.alive[0].adapter  # for done rows too: what was theirs may be in memory no more
        self._mix([some if row.done else row.adapter for row in self.rows])
        scores = self._model.logits(ids, self._seen, self._cache, between=between)
        return [[token] for token in scores.max(-1).indices.tolist()]

    def step_alone(self, guessed: list[int], between: Callable[[], None] | None = None) -> list[list[int]]:
        """The next tokens of the only row: its guesses as far as the model agrees, and one more (lookup.py)."""
        (row,) = self.rows
        self._seen = pad(self._seen, (0, 1 + len(guessed)), value=True)
        self._mix([row.adapter])
        ids = torch.tensor([[row.written[-1], *guessed]])
        scores = self._model.logits(ids, self._seen, self._cache, len(ids[0]), between)
        chosen: list[int] = scores.view(len(ids[0]), -1).max(-1).indices.tolist()
        right = agreed(guessed, chosen)
        if wrong := len(guessed) - right:
            self._seen = self._seen[:, :-wrong]
            for layer in self._cache:
                layer.cut(wrong)
        return [chosen[: right + 1]]

    def drop_done(self) -> None:
        """Forget rows that are done, once they are many enough to be worth copying the others' cache."""
        keep = [i for i, row in enumerate(self.rows) if not row.done]
        done = len(self.rows) - len(keep)
        if done and (not keep or 8 * done >= len(self.rows)):
            self._merge(keep, None, None)
            self.rows = [self.rows[i] for i in keep]

    def clear(self) -> None:
        """Forget every row."""
        self.rows = []
        self._merge([], None, None)

    def _merge(self, keep: list[int], cache: Cache | None, seen: Tensor | None) -> None:
        if not keep and cache is None:
            self._cache, self._seen = [], torch.zeros(0, 0, dtype=torch.bool)
            return
        old = self._seen[torch.tensor(keep, dtype=torch.long)]
        start = int(old.int().argmax(1).min()) if keep else old.shape[1]
        old = old[:, start:]
        width = max(old.shape[1], seen.shape[1] if seen is not None else 0)
        self._cache = joined(self._cache, keep, cache, start, width)
        parts = [part for part in (old if keep else None, seen) if part is not None]
        self._seen = torch.cat([pad(part, (width - part.shape[1], 0)) for part in parts])
