"""The one decode loop: whose prompt is computed, and one token more for everyone in the batch."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Protocol, TypeVar

from specialists.errors import RouterError, Unavailable

from .admission import Admission
from .batch import Batch, Prefill, Row
from .guesses import Guesses
from .lookup import GUESSED
from .mixer import Mixer
from .model import Model
from .pace import Pace
from .prefix import PrefixCache
from .residency import Residency
from .waiting import Waiting

T = TypeVar("T")

log = logging.getLogger(__name__)


class Failed(RouterError):
    """The model or something beside it failed while it answered."""


class Late(Unavailable):
    """The deadline of a request passed before its turn came."""


class Cancelled(RouterError):
    """Whoever asked does not want the answer any more."""


class Outside(Protocol):
    """Whoever a loop works for, while it works."""

    def tell(self, rows: list[Row]) -> None:
        """These rows have their first token, or ended before."""
        ...

    def look(self) -> bool:
        """Put those who came into `waiting`; whether there were any. Called between two layers of the model."""
        ...


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

    Whoever comes while the others get theirs need not wait for it: the step stops between two layers, and goes on when
    the newcomer has its first token. So does a prompt, for one of less than half its length. rows: at most so many
    under way. chunk: positions of prompts computed before a step, and again within it.
    With `patient`, for rows that nobody is waiting for one by one, rows enter in fewer and larger groups, and their
    prompts are all computed before the next step, which costs the same for more rows. pace: sets the number of threads
    as it goes. outside: is told first tokens at once, and asked who came.
    """

    def __init__(
        self,
        parts: Parts,
        rows: int,
        chunk: int,
        patient: bool = False,
        pace: Pace | None = None,
        outside: Outside | None = None,
    ) -> None:
        self.parts, self.chunk, self.patient, self.pace, self.outside = parts, chunk, patient, pace, outside
        self.waiting = Waiting(rows if patient else 1)
        self.steps = 0  # forwards that gave every row a token
        self._entering: deque[Prefill] = deque()
        self._computed: list[Prefill] = []  # prompts that join the batch when its step is done
        self._batch = Batch(parts.model, self._mix)
        self._mixed: list[str | None] | None = None
        self._admission = Admission(self.waiting, parts.adapters, rows, patient)
        self._came = False  # whether anybody did since those who wait were last entered
        self._left_over = 0  # positions of prompts that may still be computed before the step, or within it
        # tokens of a prompt that may be computed between two layers of what is computed now; 0: none, None: of any
        self._longest: int | None = None

    @property
    def under_way(self) -> list[Row]:
        """Rows that have entered and are not done."""
        groups = [*self._entering, *self._computed]
        return [*(row for group in groups for row in group.rows if not row.done), *self._batch.alive]

    def turn(self) -> list[Row]:
        """One turn; the rows that got a token or ended. A failure ends the rows it hit only: see Row.error.

        With `outside` the rows that got their first token are told that instead, unless the step gives them one more.
        """
        if self.pace:
            self.pace.look()
        changed = [*self._end_unwanted(), *self._enter(), *self._prefill()]
        if not (self.patient and self._entering):
            changed += self._step()
        return self._left(dict.fromkeys(changed))

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
        self._computed.clear()
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

    def _enter(self, longest: int | None = None) -> list[Row]:
        """Let rows in, with prompts of at most so many tokens; those that cannot enter ever."""
        self._came = longest is not None
        groups, gone = self._admission.admit(self.under_way, longest)
        for rows in groups:
            self._entering.append(Prefill(rows, self.parts.model, self._mix, self.parts.prefixes))
        return gone

    def _prefill(self) -> list[Row]:
        """Compute some positions of prompts; the rows that got their first token or failed, unless they were told."""
        changed: list[Row] = []
        self._left_over = self.chunk
        while self._entering and self._left_over > 0:
            begun = self._advance(self._entering[0])
            failed = [row for row in self._join() if row not in begun]
            changed += [*failed, *self._told(begun)]
        if not self.patient:
            self._entering.rotate(-1)  # a long prompt does not hold up a short one that came after it
        self._batch.drop_done()
        return changed

    def _told(self, rows: list[Row]) -> list[Row]:
        """Tell these rows, if anybody wants to know; those that are still to be told."""
        if rows and self.outside:
            self.outside.tell(self._left(rows))
            return []
        return rows

    def _advance(self, group: Prefill) -> list[Row]:
        """Compute positions of a group that is entering, at most as many as are left over.

        When it enters no more, the rows that got their first token or failed.
        """
        rows = [row for row in group.rows if not row.done]
        if rows:
            overtaken, self._longest = self._longest, 0
            if overtaken is None:
                self._longest = max(len(row.prompt) for row in rows) // 2
            most, between = self._left_over, self._interrupt if self.outside else None
            used = self._guarded(rows, partial(group.advance, most, between)) or most
            self._left_over -= used
            self._longest = overtaken
        if rows and group.done:
            for row, token in zip(group.rows, group.tokens, strict=True):
                if not row.done:
                    row.take(token, self.parts.stop)
            self._computed.append(group)
        elif not all(row.done for row in rows):
            return []
        self._entering.remove(group)
        return rows

    def _join(self) -> list[Row]:
        """Put those whose prompts are computed into the batch; the rows that failed at that."""
        failed: list[Row] = []
        for group in self._computed:
            rows = [row for row in group.rows if not row.done]
            if rows and not self._guarded(rows, partial(self._batch.join, group)):
                failed += rows
        self._computed.clear()
        return failed

    def _interrupt(self) -> None:
        """Between two layers: enter whoever came, and compute their prompts before the others go on."""
        assert self.outside
        self._came |= self.outside.look()
        if not self._came or self._left_over <= 0 or self._longest == 0:
            return
        known = set(self._entering)
        self._told(self._enter(self._longest))
        mixed, additions = self._mixed, self.parts.mixer.additions
        for group in [group for group in self._entering if group not in known]:
            while group in self._entering and self._left_over > 0:
                self._told(self._advance(group))
        self._mixed, self.parts.mixer.additions = mixed, additions

    def _step(self) -> list[Row]:
        """A token for every row of the batch; those rows, and whoever came meanwhile and failed."""
        rows = self._batch.alive
        if not rows:
            return []
        self._left_over = self.chunk
        tokens = self._guarded(rows, self._next_tokens)
        if tokens is None:  # the cache may have got half of the step
            self._batch.clear()
            return rows + self._join()
        self.steps += 1
        for row, own in zip(self._batch.rows, tokens, strict=True):
            for token in own:
                if not row.done:
                    row.take(token, self.parts.stop)
        self._batch.drop_done()
        return rows + self._join()

    def _next_tokens(self) -> list[list[int]]:
        """Those of every row of the batch: one, or several of a row that is alone."""
        between = self._interrupt if self.outside else None
        if len(self._batch.rows) > 1:
            return self._batch.step(between)
        (row,) = self._batch.rows
        guessed = self.parts.guesses.of(row).guess(min(GUESSED, row.limit - len(row.written) - 1))
        return self._batch.step_alone(guessed, between)

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
