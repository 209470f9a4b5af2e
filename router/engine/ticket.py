"""What whoever asked a scheduler holds: the text as it is written, the outcome, and a way to cancel."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from specialists.errors import RouterError

from .batch import Row
from .request import Generation
from .stream import Stream

Outcome = Generation | RouterError
OnText = Callable[[str], None]
OnDone = Callable[[Outcome], None]


class Ticket:
    """A request that was taken. Iterating gives its text in pieces as they are written, for one reader."""

    def __init__(
        self,
        row: Row,
        stream: Stream,
        wake: Callable[[], None],
        on_text: OnText | None,
        on_done: OnDone | None,
    ):
        self._row, self._stream, self._wake = row, stream, wake
        self._on_text, self._on_done = on_text, on_done
        self._read = on_text is not None
        self._pieces: SimpleQueue[str | None] = SimpleQueue()
        self._ended = threading.Event()
        self._outcome: Outcome | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self._ended.is_set()

    def cancel(self) -> None:
        """Not wanted any more: its row is free before the next step. Without effect once it has ended."""
        self._row.cancelled = True
        self._wake()

    def result(self, timeout: float | None = None) -> Generation:
        """The answer, waited for at most so many seconds.

        Raises TimeoutError, or why there is none: Cancelled, Late, Failed, or what kept its adapter from being read.
        """
        if not self._ended.wait(timeout):
            raise TimeoutError(f"not answered within {timeout} s")
        assert self._outcome is not None
        if isinstance(self._outcome, RouterError):
            raise self._outcome
        return self._outcome

    def __iter__(self) -> Iterator[str]:
        """Raises like `result` after the last piece."""
        self._read = True
        while (piece := self._pieces.get()) is not None:
            yield piece
        self._pieces.put(None)  # for whoever iterates again
        self.result()

    def tell(self) -> None:
        """Give whoever reads what was written since; for the scheduler."""
        if self._read and (text := self._stream.more(self._row.written, self._row.done)):
            self._pieces.put(text)
            if self._on_text is not None:
                self._on_text(text)

    def end(self, outcome: Outcome) -> None:
        """Tell everyone how it ended; for the scheduler."""
        if rest := self._stream.more(self._row.written, True):
            self._pieces.put(rest)
        self._outcome = outcome
        self._pieces.put(None)
        self._ended.set()
        if self._on_done is not None:
            self._on_done(outcome)
