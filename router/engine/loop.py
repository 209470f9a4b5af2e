"""The one decode loop: who may enter the batch, whose prompt is computed, and one token more for everyone in it."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TypeVar

from specialists.errors import RouterError, Unavailable

from .batch import Batch, Prefill, Row
from .guesses import Guesses
from .lookup import GUESSED
from .mixer import Mixer
from .model import Model
from .pace import Pace
from .prefix import PrefixCache
from .residency import Residency
from .waiting import Waiting

AHEAD = 4  # adapters read from disk before their turn
PATIENCE = 16  # rows of other adapters that may enter before one for which there is no memory
UNEVEN = 64  # tokens by which prompts computed together may differ in length, and a factor of two

T = TypeVar("T")

log = logging.getLogger(__name__)


class Failed(RouterError):
    """The model or something beside it failed while it answered."""


class Late(Unavailable):
    """The deadline of a request passed before its turn came."""


class Cancelled(RouterError):
    """Whoever asked does not want the answer any more."""


@dataclass(frozen=True)
class Parts:
    """What a loop works with. stop: the tokens that end an answer."""

    model: Model
    mixer: Mixer
    adapters: Residency
    prefixes: PrefixCache
    guesses: Guesses
    stop: set[int]


class Loop:
    """Rows from waiting to done. Every turn some prompts are computed, and then every row gets a token.

    A turn in which prompts are done ends before the others' tokens, so that first tokens are told at once and whoever
    came meanwhile is next; at most every second turn does. rows: at most so many under way. chunk: positions of prompts
    computed in a turn.
    An adapter's first row may take any place and its further ones leave an eighth of them free, so that one in demand
    does not keep the others out. With `patient`, for rows that nobody is waiting for one by one, rows enter in fewer
    and larger groups, and their prompts are all computed before the next step, which costs the same for more rows.
    pace: sets the number of threads as it goes.
    """

    def __init__(
        self,
        parts: Parts,
        rows: int,
        chunk: int,
        patient: bool = False,
        pace: Pace | None = None,
    ) -> None:
        self.parts, self.rows, self.chunk, self.patient, self.pace = parts, rows, chunk, patient, pace
        self.waiting = Waiting(rows if patient else 1)
        self.steps = 0  # forwards that gave every row a token
        self._entering: deque[Prefill] = deque()
        self._owed = False  # whether the last turn ended before its step
        self._batch = Batch(parts.model, self._mix)
        self._mixed: list[str | None] | None = None
        self._passed: Counter[str | None] = (
            Counter()
        )  # rows that entered while there was no memory for an adapter

    @property
    def under_way(self) -> list[Row]:
        """Rows that have entered and are not done."""
        return [*(row for group in self._entering for row in group.rows if not row.done), *self._batch.alive]

    def turn(self, tell: Callable[[list[Row]], object] | None = None) -> list[Row]:
        """One turn; the rows that got a token or ended. A failure ends the rows it hit only: see Row.error.

        tell: given the rows that got their first token as soon as they have it, where a step follows; these are not
        among those returned unless the step gives them one more.
        """
        if self.pace:
            self.pace.look()
        changed = dict.fromkeys([*self._end_unwanted(), *self._enter()])
        begun = self._prefill()
        changed |= dict.fromkeys(begun)
        self._owed = bool(begun) and not self.patient and not self._owed
        if self._owed or (self.patient and self._entering):
            return self._left(changed)
        if begun and tell:
            tell(self._left(changed))
            changed = {}
        return self._left(changed | dict.fromkeys(self._step()))

    def _left(self, changed: Iterable[Row]) -> list[Row]:
        """These rows; those of them that are done hold nothing any more."""
        for row in changed:
            if row.done:
                self._leave(row)
        return list(changed)

    def abandon(self, error: Exception) -> list[Row]:
        """End every row with an error; those rows."""
        rows = [*self.under_way, *self.waiting.rows()]
        for row in rows:
            row.done, row.error = True, error
            self._leave(row)
        self.waiting.remove(row for row in rows if not row.started)
        self._entering.clear()
        self._batch.clear()
        return rows

    def _end_unwanted(self) -> list[Row]:
        """End rows that were cancelled or whose deadline has passed."""
        now = monotonic()
        waiting = [row for row in self.waiting.rows() if row.unwanted(now)]
        for row in waiting:
            row.error = (
                Cancelled("The request was cancelled.")
                if row.cancelled
                else Late(
                    f"The answer was not begun within the {now - row.submitted:.3g} s allowed; ask again or allow more."
                )
            )
        self.waiting.remove(waiting)
        under_way = [row for row in self.under_way if row.unwanted(now)]
        for row in under_way:
            if row.cancelled:
                row.error = Cancelled("The request was cancelled.")
            else:
                row.truncated = row.late = True
        for row in waiting + under_way:
            row.done = True
        return waiting + under_way

    def _enter(self) -> list[Row]:
        """Let rows in whose adapters are in memory, and have others' read. The rows that cannot enter ever."""
        under_way = self.under_way
        if not len(self.waiting) or (self.patient and len(under_way) > self.rows * 3 // 4):
            return []
        turns = self.waiting.turns()
        room = self.rows - len(under_way)
        full = self.parts.adapters.want([key for key in turns if key is not None][: room + AHEAD])
        # One for which there has been no memory for long is not passed by those whose turn comes after its own.
        late = next((i for i, key in enumerate(turns) if key in full and self._passed[key] >= PATIENCE), None)
        ahead = set(turns if late is None or self.patient else turns[:late])
        have = Counter(row.adapter for row in under_way)
        broken: dict[str | None, RouterError] = {}

        def may(adapter: str | None) -> bool:
            spare = 0 if self.patient or not have[adapter] else self.rows // 8
            if adapter not in ahead or have.total() >= self.rows - spare:
                return False
            try:
                if adapter is not None and not self.parts.adapters.use(adapter):
                    return False
            except RouterError as error:
                broken[adapter] = error
                return False
            have[adapter] += 1
            if late is not None and not self.patient:
                ahead.discard(adapter)
            self._passed.update(full)
            self._passed.pop(adapter, None)
            return True

        for rows in _groups(self.waiting.take(room, may)):
            self._entering.append(Prefill(rows, self.parts.model, self._mix, self.parts.prefixes))
        gone = [row for row in self.waiting.rows() if row.adapter in broken]
        for row in gone:
            row.done, row.error = True, broken[row.adapter]
        self.waiting.remove(gone)
        return gone

    def _prefill(self) -> list[Row]:
        """Compute some positions of prompts; the rows that got their first token or failed."""
        changed: list[Row] = []
        left = self.chunk
        while self._entering and left > 0:
            group = self._entering[0]
            rows = [row for row in group.rows if not row.done]
            if rows:
                left -= self._guarded(rows, partial(group.advance, left)) or left
            if rows and group.done and self._guarded(rows, partial(self._batch.join, group)):
                for row, token in zip(group.rows, group.tokens, strict=True):
                    if not row.done:
                        row.take(token, self.parts.stop)
            if group.done or all(row.done for row in rows):
                self._entering.popleft()
                changed += rows
        if not self.patient:
            self._entering.rotate(-1)  # a long prompt does not hold up a short one that came after it
        self._batch.drop_done()
        return changed

    def _step(self) -> list[Row]:
        """A token for every row of the batch; those rows."""
        rows = self._batch.alive
        if not rows:
            return []
        tokens = self._guarded(rows, self._next_tokens)
        if tokens is None:  # the cache may have got half of the step
            self._batch.clear()
            return rows
        self.steps += 1
        for row, own in zip(self._batch.rows, tokens, strict=True):
            for token in own:
                if not row.done:
                    row.take(token, self.parts.stop)
        self._batch.drop_done()
        return rows

    def _next_tokens(self) -> list[list[int]]:
        """Those of every row of the batch: one, or several of a row that is alone."""
        if len(self._batch.rows) > 1:
            return self._batch.step()
        (row,) = self._batch.rows
        return self._batch.step_alone(
            self.parts.guesses.of(row).guess(min(GUESSED, row.limit - len(row.written) - 1))
        )

    def _guarded(self, rows: Sequence[Row], do: Callable[[], T]) -> T | None:
        """What `do` returns, which is never None; None when it failed, and the rows with it."""
        try:
            return do()
        except Exception as error:
            log.warning("%d requests failed", len(rows), exc_info=True)
            for row in rows:
                row.done = True
                row.error = Failed(
                    f"The model failed while it answered ({type(error).__name__}: {error}); try again."
                )
            return None

    def _leave(self, row: Row) -> None:
        if row.adapter is not None:
            if row.started:
                self.parts.adapters.release(row.adapter)
            self.parts.adapters.let_go(row.adapter)

    def _mix(self, names: Sequence[str | None]) -> None:
        """Set the adapters of the next forward's rows."""
        dropped, forgotten = self.parts.adapters.swept()
        for adapter in dropped:
            self.parts.mixer.forget(adapter)
            self._mixed = None
        for adapter in forgotten:
            self.parts.prefixes.forget(adapter)
            self.parts.guesses.forget(adapter)
        if names != self._mixed:
            self._mixed = None  # until it has succeeded
            self.parts.mixer.set(names)
            self._mixed = list(names)


def _groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows whose prompts are computed together: of one adapter and of like length, for the shorter are padded."""
    groups: list[list[Row]] = []
    open_groups: dict[str | None, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row.prompt)):
        group = open_groups.get(row.adapter)
        if group is None or len(row.prompt) > 2 * len(group[0].prompt) + UNEVEN:
            group = open_groups[row.adapter] = []
            groups.append(group)
        group.append(row)
    return groups
