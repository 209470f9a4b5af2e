"""One base in memory, any number of adapters beside it, and greedy generation over a batch that mixes them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from specialists.errors import BadInput

from .base import Base
from .batch import Row
from .chat import open_chat
from .device import choose
from .guesses import Guesses
from .kernels import KINDS, load
from .loop import Cancelled, Loop, Outside, Parts
from .lora import products, shapes, wrap
from .mixer import Mixer, gather
from .model import open_model
from .one_call import in_one_call
from .pace import Pace
from .packed import can_pack
from .precision import resolve, round_weights
from .prefix import PREFIX_BYTES, PrefixCache
from .qwen2 import Qwen2
from .request import Generation, Request
from .residency import ADAPTER_BYTES, Residency
from .stream import Stream

MAX_BATCH = 64  # rows under way at once
PREFILL_TOKENS = 4096  # prompt positions, padding included, computed in one forward
PACK_FROM = 8  # requests from which packing the weights (about a second) pays

OnToken = Callable[[int, str], None]


class Engine:
    """Answers requests with one base.

    precision: auto, bf16, int8 or int4 (precision.py). device: auto, cpu or cuda (device.py). BadInput for others.
    adapter_bytes: memory for adapters at rest (see Residency); prefix_bytes: for beginnings of prompts (PrefixCache).
    Adapters may be added and removed from any thread. To generate, use one thread, or a Scheduler, which owns the
    engine until it is closed.
    """

    def __init__(
        self,
        base: Base,
        dtype: str = "bfloat16",
        precision: str = "bf16",
        device: str | None = None,
        adapter_bytes: int = ADAPTER_BYTES,
        prefix_bytes: int = PREFIX_BYTES,
    ) -> None:
        self.base = base
        self.device = choose(device)
        self.precision = resolve(precision, getattr(torch, dtype), self.device)
        self.chat = open_chat(base)
        self.model = open_model(base, dtype, self.device)
        self.layers = wrap(self.model)
        if self.precision != "bf16":
            round_weights(self.layers, base, self.precision)
        kernels = load() if self.device.type == "cpu" and self.model.dtype in KINDS else None
        self.arithmetic = (
            f"torch {torch.__version__} on {self.device.type}, {kernels.name if kernels else 'alone'}"
        )
        every = products(self.layers)
        rounded = self.precision != "bf16" and kernels is not None and kernels.multiplies
        kept = torch.int8 if rounded else self.model.dtype
        if rounded and kernels and isinstance(self.model, Qwen2):
            in_one_call(self.model, kernels)
        way = gather(every, kernels, kept, self.device)
        self.residency = Residency(shapes(self.layers), kept, way.place, adapter_bytes)
        self.prefixes = PrefixCache(prefix_bytes)
        self.pace = Pace() if self.device.type == "cpu" else None
        self._guesses = Guesses(self.chat)
        self.owner: object | None = None  # the scheduler that generates
        self._mixer = Mixer(every, way, self.residency.resident)
        self._stop = self.model.stop | {self.chat.stop}

    @property
    def identity(self) -> str:
        """Which weights answer, and in what precision unless in their own: for reports and the names of answers."""
        weights = f"{self.base.id}@{self.base.weights[:16]}"
        if self.precision == "bf16":
            return weights
        if self.residency.kept != torch.int8:
            return f"{weights} {self.precision}"
        return (
            f"{weights} and adapters int8" if self.precision == "int8" else f"{weights} int4, adapters int8"
        )

    @property
    def adapters(self) -> Mapping[str, str]:
        """Name -> hash of every adapter that was added."""
        return self.residency.names

    def add(self, name: str, folder: Path, *, pinned: bool = False) -> None:
        """Check an adapter whole against the base and keep it under `name`; raises Damaged with every mismatch.

        Of a name that is added again, requests asked from now on get the new weights and those asked before the old.
        pinned: it stays in memory.
        """
        self.residency.add(name, folder, pinned=pinned)

    def remove(self, name: str) -> None:
        """Forget an adapter. Requests asked before are still answered with it."""
        self.residency.remove(name)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[Request],
        on_token: OnToken | None = None,
        on_done: Callable[[int, Generation], None] | None = None,
    ) -> list[Generation]:
        """Answer every request greedily, in the order given. New requests join the batch as others finish.

        on_token(index, text) streams whole characters as they are written; on_done(index, generation) is called as each
        request ends. Raises BadInput for an adapter that was never added or a prompt longer than the context, and
        whatever ends a request without an answer.
        """
        if self.owner is not None:
            raise RuntimeError("a scheduler generates with this engine: submit to it, or close it first")
        # Few requests are somebody's who waits; many are measured, and threads that change could change a rounding.
        pace = self.pace if len(requests) < PACK_FROM else None
        loop = self.loop(MAX_BATCH, PREFILL_TOKENS, patient=True, pace=pace)
        rows = self._rows(requests)
        for row in sorted(rows, key=lambda row: -len(row.prompt)):
            loop.waiting.add(row)
        if len(requests) >= PACK_FROM:
            self.pack()
        streams = [Stream(self.chat) for _ in rows]
        results: dict[int, Generation] = {}
        try:
            while len(results) < len(rows):
                changed = loop.turn()
                for row in changed:
                    if row.error:
                        raise row.error
                    if on_token and (text := streams[row.index].more(row.written, row.done)):
                        on_token(row.index, text)
                    if row.done:
                        results[row.index] = self.finished(row)
                        if on_done:
                            on_done(row.index, results[row.index])
                if not changed and not loop.under_way:
                    self.residency.wait_any(row.adapter for row in loop.waiting.rows())
        finally:
            loop.abandon(Cancelled("Another request of the same call failed."))
            if pace:
                pace.give_back()
        return [results[i] for i in range(len(rows))]

    def loop(
        self,
        rows: int,
        chunk: int,
        patient: bool = False,
        pace: Pace | None = None,
        outside: Outside | None = None,
    ) -> Loop:
        """A decode loop over this engine; see Loop. One may be used at a time."""
        parts = Parts(self.model, self._mixer, self.residency, self.prefixes, self._guesses, self._stop)
        return Loop(parts, rows, chunk, patient, pace, outside)

    def pack(self) -> None:
        """Keep a copy of the weights that is multiplied faster, where there is such a thing."""
        if can_pack(self.model.dtype, self.device):
            for product in products(self.layers):
                product.pack()

    def row(self, request: Request, index: int = 0) -> Row:
        """A request as the loop takes it, its adapter held until the loop lets it go. Raises BadInput."""
        prompt = self.chat.prompt_ids(request.messages)
        longest = self.model.longest
        if len(prompt) >= longest:
            raise BadInput(
                f"The question has {len(prompt)} tokens and the base reads at most {longest}; shorten it."
            )
        if request.max_new_tokens < 1:
            raise BadInput(f"max_new_tokens is {request.max_new_tokens}; give at least 1.")
        key = None if request.adapter is None else self.residency.hold(request.adapter)
        now = time.monotonic()
        return Row(
            prompt,
            key,
            min(request.max_new_tokens, longest - len(prompt)),
            index,
            submitted=now,
            deadline=None if request.deadline is None else now + request.deadline,
            hints=request.hints,
        )

    def _rows(self, requests: Sequence[Request]) -> list[Row]:
        rows: list[Row] = []
        try:
            for index, request in enumerate(requests):
                rows.append(self.row(request, index))
        except BaseException:
            for row in rows:
                if row.adapter is not None:
                    self.residency.let_go(row.adapter)
            raise
        return rows

    def finished(self, row: Row) -> Generation:
        """What came of a row that is done and has no error."""
        now = time.monotonic()
        return Generation(
            self.chat.decode(row.written),
            len(row.written),
            row.truncated,
            now - row.started,
            (row.first or now) - row.started,
            row.started - row.submitted,
            row.late,
            len(row.prompt),
        )
