"""The backend in this process: one engine under a scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import torch

from registry.adapter import WEIGHTS
from registry.store import Version, verify
from specialists.errors import RouterError
from specialists.paths import stamp

from ..engine.request import Generation, Request
from ..engine.scheduler import QUEUE, ROWS, Scheduler
from ..engine.ticket import Ticket
from .backend import Load, Pieces, T


class Local:
    """One base in this process. base, precision: as for `router ask`; queue, rows: as for Scheduler."""

    def __init__(
        self,
        base: str | None = None,
        precision: str | None = None,
        queue: int = QUEUE,
        rows: int = ROWS,
    ) -> None:
        self._spec, self._precision = base, precision
        self._queue, self._rows = queue, rows
        self._threads = torch.get_num_threads()
        self.scheduler: Scheduler | None = None
        # ref -> which file was added, and what is to be known of it with this base
        self._added: dict[str, tuple[object, str | None]] = {}
        self._changing = (
            asyncio.Lock()
        )  # a version that is let go while it is added again is there in the end

    @property
    def base(self) -> str:
        """See Backend."""
        return self.scheduler.engine.base.id if self.scheduler else ""

    async def open(self) -> None:
        """See Backend."""
        self.scheduler = await asyncio.to_thread(self._open)

    def _open(self) -> Scheduler:
        from ..ask import open_engine

        # What a thread begins with is what another has set for itself last, like the one that routes.
        torch.set_num_threads(self._threads)
        return Scheduler(open_engine(self._spec, self._precision), self._queue, self._rows)

    async def close(self) -> None:
        """See Backend."""
        if self.scheduler:
            await asyncio.to_thread(self.scheduler.close)

    def fault(self) -> str | None:
        """See Backend."""
        if self.scheduler is None:
            return "The base is being opened; ask again in a few seconds."
        return None

    def load(self) -> Load:
        """See Backend."""
        if self.scheduler is None:
            return Load(0, 0)
        return Load(self.scheduler.waiting, self.scheduler.under_way)

    def lend(self, work: Callable[[], T]) -> Awaitable[T] | None:
        """See Backend."""
        lent = self.scheduler.lend(work) if self.scheduler else None
        return asyncio.wrap_future(lent) if lent else None

    async def add(self, version: Version) -> str | None:
        """See Backend."""
        known = self._added.get(version.ref)
        # Another file when it was unregistered and registered again.
        if known is None or known[0] != stamp(version.path / WEIGHTS):
            async with self._changing:
                held = stamp(version.path / WEIGHTS)
                known = self._added.get(version.ref)
                if known is None or known[0] != held:
                    known = held, await asyncio.to_thread(self._add, version)
                    self._added[version.ref] = known
        return known[1]

    def _add(self, version: Version) -> str | None:
        from ..engine.base import compatible

        assert self.scheduler is not None
        engine = self.scheduler.engine
        note = compatible(version.card.base, version.card.base_weights, engine.base)
        verify(version)
        engine.add(version.ref, version.path)
        return note

    async def remove(self, ref: str) -> None:
        """See Backend."""
        async with self._changing:
            if ref in self._added:
                assert self.scheduler is not None
                del self._added[ref]
                await asyncio.to_thread(self.scheduler.engine.remove, ref)

    def stream(self, request: Request) -> Pieces:
        """See Backend. The request is taken now, so that Busy comes before anything is read."""
        assert self.scheduler is not None
        news: asyncio.Queue[str | Generation | RouterError] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(piece: str | Generation | RouterError) -> None:
            loop.call_soon_threadsafe(news.put_nowait, piece)

        return _Pieces(self.scheduler.submit(request, tell, tell), news)


class _Pieces:
    """What a ticket gives, on the event loop. Closed before it was ever read, it cancels too, unlike a generator."""

    def __init__(self, ticket: Ticket, news: asyncio.Queue[str | Generation | RouterError]) -> None:
        self._ticket, self._news = ticket, news
        self._over = False

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> str | Generation:
        if self._over:
            raise StopAsyncIteration
        piece = await self._news.get()
        self._over = not isinstance(piece, str)
        if isinstance(piece, RouterError):
            raise piece
        return piece

    async def aclose(self) -> None:
        self._over = True
        self._ticket.cancel()
