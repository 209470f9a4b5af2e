"""One base in memory, any number of adapters beside it, and greedy generation over a batch that mixes them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from registry.adapter import check
from specialists.errors import BadInput

from .base import Base
from .cache import Cache, joined, repeated
from .chat import open_chat
from .lookup import GUESSED, KEPT, Lookup, agreed
from .lora import Adapter, Mixer, read_adapter, shapes, wrap
from .model import open_model
from .packed import can_pack
from .precision import resolve, to_int8

MAX_BATCH = 64  # rows under way at once
PREFILL_TOKENS = 4096  # prompt positions, padding included, computed in one forward
SHARE_FROM = 16  # tokens that prompts must have in common to be worth a forward of their own
PACK_FROM = 8  # requests from which packing the weights (about a second) pays

OnToken = Callable[[int, str], None]


@dataclass(frozen=True)
class Request:
    """Chat messages, the adapter to answer with (None: the bare base), and the most tokens to write.

    hints: texts that the answer may repeat in parts, such as worked solutions; they speed it up and change nothing.
    """

    messages: Sequence[dict[str, str]]
    adapter: str | None = None
    max_new_tokens: int = 512
    hints: Sequence[str] = ()


@dataclass(frozen=True)
class Generation:
    """What came of a request. `truncated`: it was cut at max_new_tokens or at the model's longest context.

    seconds and first_token_seconds count from when the request's prompt entered the model.
    """

    text: str
    tokens: int
    truncated: bool
    seconds: float
    first_token_seconds: float


@dataclass
class _Row:
    """A request under way."""

    index: int
    adapter: str | None
    prompt: list[int]
    limit: int
    started: float = 0.0
    first: float = 0.0
    hints: Sequence[str] = ()
    written: list[int] = field(default_factory=list)
    noted: int = -1  # how many of `written` the lookup knows; -1: not even the prompt
    shown: str = ""
    done: bool = False
    truncated: bool = False


class Engine:
    """Answers requests with one base. Not safe for use from several threads at once.

    precision: auto, bf16 or int8 (precision.py). Raises BadInput for another.
    """

    def __init__(self, base: Base, dtype: str = "bfloat16", precision: str = "bf16") -> None:
        self.base = base
        self.precision = resolve(precision, getattr(torch, dtype))
        self.chat = open_chat(base)
        self.model = open_model(base, dtype)
        self.layers = wrap(self.model)
        if self.precision == "int8":
            to_int8(self.layers, base)
        self.adapters: dict[str, Adapter] = {}
        self._mixer = Mixer(self.layers, self.adapters)
        self._stop = self.model.stop | {self.chat.stop}
        self._lookups: dict[str | None, Lookup] = {}  # what each adapter wrote

    def add(self, name: str, folder: Path) -> None:
        """Check an adapter whole against the base and keep it under `name`; raises Damaged with every mismatch."""
        info = check(folder, shapes(self.layers))
        self.adapters[name] = read_adapter(folder, info, self.model.dtype)
        self._mixer.forget(name)

    def remove(self, name: str) -> None:
        """Forget an adapter."""
        self.adapters.pop(name, None)
        self._lookups.pop(name, None)
        self._mixer.forget(name)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        on_token: OnToken | None = None,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every request greedily, in the order given. New requests join the batch as others finish.

        on_token(index, text) streams whole characters as they are written; on_done(index, generation) is called as each
        request ends. Raises BadInput for an adapter that was never added or a prompt longer than the context.
        """
        waiting = deque(
            sorted((self._row(i, r) for i, r in enumerate(requests)), key=lambda row: -len(row.prompt))
        )
        if len(requests) >= PACK_FROM and can_pack(self.model.dtype):
            for layer in dict.fromkeys(self.layers.values()):
                layer.pack()
        results: dict[int, Generation] = {}
        batch = _Batch(self)
        while waiting or batch.rows:
            if waiting and len(batch.alive) <= MAX_BATCH * 3 // 4:
                batch.join(_take(waiting, MAX_BATCH - len(batch.alive)))
            else:
                batch.step()
            for row in batch.fresh():
                self._stream(row, on_token)
                if row.done:
                    results[row.index] = self._finished(row)
                    if on_done:
                        on_done(row.index, results[row.index])
            batch.drop_finished()
        return [results[i] for i in range(len(requests))]

    def _row(self, index: int, request: Request) -> _Row:
        if request.adapter is not None and request.adapter not in self.adapters:
            raise BadInput(
                f"No adapter {request.adapter!r} is loaded; loaded: {', '.join(self.adapters) or 'none'}."
            )
        prompt = self.chat.prompt_ids(request.messages)
        longest = self.model.longest
        if len(prompt) >= longest:
            raise BadInput(
                f"The question has {len(prompt)} tokens and the base reads at most {longest}; shorten it."
            )
        limit = min(request.max_new_tokens, longest - len(prompt))
        return _Row(index, request.adapter, prompt, limit, hints=request.hints)

    def _lookup(self, row: _Row) -> Lookup:
        """What a row's adapter wrote before, up to the row's own last token."""
        found = self._lookups.get(row.adapter)
        if found is None or len(found) > KEPT:
            found = self._lookups[row.adapter] = Lookup(
                [*self.chat.encode(hint), self.chat.stop] for hint in row.hints
            )
        if row.noted < 0:
            found.extend(row.prompt)
            row.noted = 0
        found.extend(row.written[row.noted :])
        row.noted = len(row.written)
        return found

    def _text(self, row: _Row) -> str:
        return self.chat.decode(row.written)

    def _stream(self, row: _Row, on_token: OnToken | None) -> None:
        if on_token is None:
            return
        text = self._text(row)
        if not text.endswith("\ufffd") or row.done:  # else a character is still incomplete
            on_token(row.index, text[len(row.shown) :])
            row.shown = text

    def _finished(self, row: _Row) -> Generation:
        return Generation(
            self._text(row),
            len(row.written),
            row.truncated,
            time.monotonic() - row.started,
            row.first - row.started,
        )

    def _advance(self, row: _Row, token: int) -> None:
        """Take one more token into a row."""
        if not row.first:
            row.first = time.monotonic()
        if token in self._stop:
            row.done = True
        else:
            row.written.append(token)
            row.done = row.truncated = len(row.written) >= row.limit


def _take(waiting: deque[_Row], room: int) -> list[_Row]:
    """The next rows to prefill together: one adapter's, while they fit the room and the prefill."""
    taken = [waiting.popleft()]
    while (
        waiting
        and len(taken) < room
        and waiting[0].adapter == taken[0].adapter
        and (len(taken) + 1) * len(taken[0].prompt) <= PREFILL_TOKENS
    ):
        taken.append(waiting.popleft())
    return taken


def _shared(prompts: list[list[int]]) -> int:
    """How many tokens all prompts begin with, the last of each left out: there must be one to go on from."""
    low, high = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return next((i for i in range(most) if low[i] != high[i]), most)


class _Batch:
    """Rows decoding together, padded before their own tokens so that all end at the same position."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.rows: list[_Row] = []
        self._changed: list[_Row] = []
        self._cache: Cache = []
        self._seen = torch.zeros(0, 0, dtype=torch.bool)  # [rows, positions]: is there a token

    @property
    def alive(self) -> list[_Row]:
        return [row for row in self.rows if not row.done]

    def fresh(self) -> list[_Row]:
        """The rows that got a token in the last join or step."""
        return self._changed

    def join(self, rows: list[_Row]) -> None:
        """Prefill rows, which have one adapter, and put them with the others.

        What all prompts begin with, such as the specialist's own prompt, is computed once.
        """
        now = time.monotonic()
        for row in rows:
            row.started = now
        model = self.engine.model
        self.engine._mixer.set([rows[0].adapter])
        shared = _shared([row.prompt for row in rows]) if len(rows) > 1 else 0
        cache = model.empty_cache()
        if shared >= SHARE_FROM:
            model.logits(
                torch.tensor([rows[0].prompt[:shared]]), torch.ones(1, shared, dtype=torch.bool), cache
            )
            cache = repeated(cache, len(rows))
        else:
            shared = 0
        width = max(len(row.prompt) for row in rows) - shared
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        seen = torch.zeros(len(rows), shared + width, dtype=torch.bool)
        seen[:, :shared] = True
        for i, row in enumerate(rows):
            own = row.prompt[shared:]
            ids[i, width - len(own) :] = torch.tensor(own)
            seen[i, shared + width - len(own) :] = True
        self.engine._mixer.set([row.adapter for row in rows])
        tokens = self._forward(ids, seen, cache)
        self._merge(list(range(len(self.rows))), cache, seen)
        self.rows += rows
        self._mix()
        self._take_tokens(rows, tokens)

    def step(self) -> None:
        """One token more for every row; a row that is alone may get several."""
        if len(self.rows) == 1:
            return self._step_alone(self.rows[0])
        ids = torch.tensor([[row.written[-1] if row.written else 0] for row in self.rows])
        self._seen = torch.nn.functional.pad(self._seen, (0, 1), value=True)
        tokens = self._forward(ids, self._seen, self._cache)
        self._take_tokens(self.rows, tokens)

    def _step_alone(self, row: _Row) -> None:
        """The next tokens of the only row: its guesses as far as the model agrees, and one more (lookup.py)."""
        room = row.limit - len(row.written)
        guessed = self.engine._lookup(row).guess(min(GUESSED, room - 1))
        self._seen = torch.nn.functional.pad(self._seen, (0, 1 + len(guessed)), value=True)
        ids = torch.tensor([[row.written[-1], *guessed]])
        scores = self.engine.model.logits(ids, self._seen, self._cache, len(ids[0]))
        chosen: list[int] = scores.view(len(ids[0]), -1).max(-1).indices.tolist()
        right = agreed(guessed, chosen)
        if wrong := len(guessed) - right:
            self._seen = self._seen[:, :-wrong]
            for layer in self._cache:
                layer.cut(wrong)
        self._changed = [row]
        for token in chosen[: right + 1]:
            if not row.done:
                self.engine._advance(row, token)

    def drop_finished(self) -> None:
        """Forget rows that are done, once they are many enough to be worth copying the others' cache."""
        done = sum(row.done for row in self.rows)
        if done and (done == len(self.rows) or 8 * done >= len(self.rows)):
            keep = [i for i, row in enumerate(self.rows) if not row.done]
            self._merge(keep, None, None)
            self.rows = [self.rows[i] for i in keep]
            self._mix()

    def _mix(self) -> None:
        if self.rows:
            self.engine._mixer.set([row.adapter for row in self.rows])

    def _merge(self, keep: list[int], cache: Cache | None, seen: Tensor | None) -> None:
        old = self._seen[torch.tensor(keep, dtype=torch.long)]
        if not keep and cache is None:
            self._cache, self._seen = [], torch.zeros(0, 0, dtype=torch.bool)
            return
        start = int(old.int().argmax(1).min()) if keep else old.shape[1]
        old = old[:, start:]
        width = max(old.shape[1], seen.shape[1] if seen is not None else 0)
        self._cache = joined(self._cache, keep, cache, start, width)
        parts = [part for part in (old if keep else None, seen) if part is not None]
        self._seen = torch.cat([torch.nn.functional.pad(part, (width - part.shape[1], 0)) for part in parts])

    def _forward(self, ids: Tensor, seen: Tensor, cache: Cache) -> list[int]:
        """The most likely next token of every row."""
        chosen: list[int] = self.engine.model.logits(ids, seen, cache).max(-1).indices.tolist()
        return chosen

    def _take_tokens(self, rows: list[_Row], tokens: list[int]) -> None:
        self._changed = [row for row in rows if not row.done]
        for row, token in zip(rows, tokens, strict=True):
            if not row.done:
                self.engine._advance(row, token)
