"""Requests from any thread, answered together: they join the batch, and leave it, while others are under way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import TypeVar

import torch

from specialists.errors import RouterError, Unavailable

from .batch import Row
from .engine import Engine
from .loop import Failed, Loop
from .request import Request
from .stream import Stream
from .threads import release
from .ticket import OnDone, OnText, Ticket

QUEUE = 256  # requests that may wait
ROWS = 64  # requests under way at once
CHUNK = 512  # positions of prompts computed between two steps: a quarter of a second on two cores
POLL = 0.05  # seconds after which deadlines are looked at while adapters are read and nothing is under way

T = TypeVar("T")

log = logging.getLogger(__name__)


class Busy(Unavailable):
    """As many requests wait as may; ask again later."""


class Closed(Unavailable):
    """The scheduler takes no more requests."""


class Scheduler:
    """Answers requests on a thread of its own, which has the engine until `close`.

    queue: requests that may wait. rows: requests under way at once. chunk: positions of prompts computed between two
    steps, so that a long prompt holds the others up no longer than that takes. Specialists take turns: one for which
    many ask delays another by one row at most, and never takes all places (see Loop). A request is answered by the
    adapter that had its name when it was submitted, even if that is removed or replaced meanwhile.
    """

    def __init__(self, engine: Engine, queue: int = QUEUE, rows: int = ROWS, chunk: int = CHUNK) -> None:
        if engine.owner is not None:
            raise RuntimeError("this engine has a scheduler already")
        engine.pack()
        release()  # from now on the scheduler's own thread multiplies
        engine.owner = self
        engine.residency.on_change = self._notify
        self.engine, self.queue, self.rows, self.chunk = engine, queue, rows, chunk
        self._loop = self._new_loop()
        self._wake = threading.Condition()
        self._news = False  # whether anything happened since the last turn began
        self._inbox: list[Row] = []
        self._tickets: dict[Row, Ticket] = {}
        self._lent: Callable[[], None] | None = None
        self._closing = False
        self._worker = threading.Thread(target=self._work, name="scheduler", daemon=True)
        self._worker.start()

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(drain=error is None)

    @property
    def steps(self) -> int:
        """Forwards so far that gave every row a token."""
        return self._loop.steps

    @property
    def waiting(self) -> int:
        """Requests that are not begun."""
        with self._wake:
            return sum(not row.started for row in self._tickets)

    @property
    def under_way(self) -> int:
        """Requests that are begun and not ended."""
        with self._wake:
            return sum(bool(row.started) for row in self._tickets)

    def submit(
        self, request: Request, on_text: OnText | None = None, on_done: OnDone | None = None
    ) -> Ticket:
        """Take a request. Both callbacks are called on the scheduler's thread and should return soon.

        on_text(piece) gets the text as it is written, on_done(outcome) a Generation or a RouterError. Raises Busy when
        the queue is full, BadInput for a prompt that is too long or an adapter that is not there, Closed after `close`.
        """
        self._check_room()
        row = self.engine.row(request)
        ticket = Ticket(row, Stream(self.engine.chat), self._notify, on_text, on_done)
        with self._wake:
            try:
                self._check_room()
            except RouterError:
                if row.adapter is not None:
                    self.engine.residency.let_go(row.adapter)
                raise
            self._inbox.append(row)
            self._tickets[row] = ticket
            self._notify()
        return ticket

    def lend(self, work: Callable[[], T]) -> Future[T] | None:
        """Have something else multiplied on this thread, which has the helpers: between two layers, one at a time.

        None while something else is waiting for that: a thread of its own would need helpers of its own, and all of
        them would get slow (threads.py).
        """
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(work())
            except BaseException as error:  # belongs to whoever borrowed
                future.set_exception(error)

        with self._wake:
            if self._lent or self._closing:
                return None
            self._lent = do
            self._notify()
        return future

    def close(self, drain: bool = True) -> None:
        """Take no more requests and end: after all are answered, or with `drain` false after cancelling them."""
        with self._wake:
            self._closing = True
            if not drain:
                for row in self._tickets:
                    row.cancelled = True
            self._notify()
        if threading.current_thread() is not self._worker:
            self._worker.join()

    def _check_room(self) -> None:
        if self._closing:
            raise Closed("The scheduler is closed and takes no more requests.")
        if (waiting := self.waiting) >= self.queue:
            raise Busy(f"{waiting} requests are waiting, as many as may; ask again later.")

    def _notify(self) -> None:
        with self._wake:
            self._news = True
            self._wake.notify_all()

    @torch.inference_mode()
    def _work(self) -> None:
        if self.engine.pace:
            self.engine.pace.begin()
        while self._await_work():
            try:
                changed = self._loop.turn()
            except Exception as error:  # not a failed forward, which ends its own rows: a fault of ours
                log.exception("the scheduler failed")
                changed = self._start_again(error)
            self.tell(changed)
            if not changed and not self._loop.under_way:
                with self._wake:  # all that is left waits for adapters
                    self._wake.wait_for(lambda: self._news, POLL)
        self.engine.residency.on_change = lambda: None
        if self.engine.pace:
            self.engine.pace.give_back()
        self.engine.owner = None

    def _await_work(self) -> bool:
        """Until there is something to do; false when there is not and never will be."""
        while True:
            with self._wake:
                if not self._tickets and self.engine.pace:
                    self.engine.pace.rest()
                self._wake.wait_for(lambda: self._tickets or self._lent or self._closing)
                self._news = False
            self.look()
            with self._wake:
                if self._tickets or (self._closing and not self._lent):
                    return bool(self._tickets)

    def look(self) -> bool:
        """See Outside; on the scheduler's thread. What was lent is done."""
        if self._lent is None and not self._inbox:
            return False
        with self._wake:
            lent, self._lent = self._lent, None
        if lent:
            lent()
        with self._wake:
            came = list(self._inbox)
            self._inbox.clear()
        for row in came:
            self._loop.waiting.add(row)
        return bool(came)

    def _new_loop(self) -> Loop:
        return self.engine.loop(self.rows, self.chunk, pace=self.engine.pace, outside=self)

    def _start_again(self, error: Exception) -> list[Row]:
        """End every row but those that came just now, with what is known of the fault."""
        failed = Failed(f"The scheduler failed ({type(error).__name__}: {error}); ask again.")
        steps = self._loop.steps
        self._loop.abandon(failed)
        self._loop = self._new_loop()
        self._loop.steps = steps
        with self._wake:
            rows = [row for row in self._tickets if row not in self._inbox]
        for row in rows:
            if not row.done:
                row.done, row.error = True, failed
        return rows

    def tell(self, rows: list[Row]) -> None:
        """See Outside; on the scheduler's thread."""
        for row in rows:
            ticket = self._tickets[row]
            try:
                ticket.tell()
            except Exception:
                log.warning("a reader of text failed; its request is cancelled", exc_info=True)
                row.cancelled = True
            if row.done:
                with self._wake:
                    del self._tickets[row]
                try:
                    ticket.end(row.error if isinstance(row.error, RouterError) else self.engine.finished(row))
                except Exception:
                    log.warning("whoever was told of an outcome failed", exc_info=True)
