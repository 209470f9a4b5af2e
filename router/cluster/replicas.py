"""Servers of one base: which of them are well, how busy each is, and which should answer next."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Container, Sequence
from contextlib import suppress
from typing import TypeVar

import httpx2

from .adapters import Loaded
from .wire import Down, Lost, Refused, Worker

EVERY = 2.0  # seconds between two looks at a server
MISSES = 2  # looks in a row that a server may leave unanswered; a busy one answers late
SILENCE = 300.0  # seconds after which a request is given up of which a server that is well says nothing
MUCH = 4  # requests by which a server is too busy to be preferred for having the adapter

T = TypeVar("T")

log = logging.getLogger(__name__)


class Replica:
    """A server, and what we know of it. under_way: our requests that it has. fault: why it is out, if it is."""

    def __init__(self, worker: Worker, adapters: Loaded) -> None:
        self.worker, self.adapters = worker, adapters
        self.base = ""  # what it serves, once it has said so
        self.under_way = 0
        self.fault: str | None = "was not asked yet"
        self._misses = 0
        self._doubt = asyncio.Event()
        self._limits: set[asyncio.Timeout] = set()  # of what is awaited from it

    @property
    def url(self) -> str:
        return self.worker.url

    def take_out(self, fault: str) -> None:
        """Nothing more goes there, and whoever waits for it gets Lost."""
        if self.fault is None:
            log.warning("%s is out: it %s", self.url, fault)
        self.fault, self._misses = fault, 0
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    async def within(self, until: float, wait: Awaitable[T]) -> T:
        """What is awaited from this server. Raises Lost when it is taken out meanwhile, TimeoutError at `until`.

        until: on the clock of the event loop.
        """
        clock = asyncio.get_running_loop().time
        limit = asyncio.timeout_at(min(until, clock() + SILENCE))
        try:
            async with limit:
                self._limits.add(limit)
                return await wait
        except TimeoutError:
            if clock() >= until:
                raise
            raise Lost(self.fault or f"said nothing for {SILENCE:.0f} s") from None
        finally:
            self._limits.discard(limit)

    async def look(self, base: str) -> None:
        """See whether it is well. One that comes back has to serve `base`, if that is known, and tells what it has."""
        try:
            await self.worker.healthy()
            if self.fault is not None:
                models = await self.worker.models()
                if base and models.base != base:
                    raise Down(f"serves {models.base} where the others serve {base}")
                self.base = models.base
                self.adapters.found(models.adapters)
                log.info("%s is in, with %d adapters", self.url, len(models.adapters))
                self.fault = None
            self._misses = 0
        except Down as error:
            self.take_out(str(error))
        except Refused as error:
            self.take_out(f"refuses ({error.status}: {error})")
        except Lost as error:
            self._misses += 1
            if self.fault is not None or self._misses >= MISSES:
                self.take_out(str(error))

    def doubt(self) -> None:
        """It failed a request: look sooner."""
        self._doubt.set()

    async def watch(self, every: float, base: Callable[[], str]) -> None:
        """Look at it every so many seconds until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(every):
                    await self._doubt.wait()
            self._doubt.clear()
            await self.look(base())


class Replicas:
    """All servers. `choose` knows which of them should answer; a task looks after them between open and close."""

    def __init__(
        self,
        urls: Sequence[str],
        key: str | None,
        adapters: int,
        wanted: Container[str],
        every: float = EVERY,
    ) -> None:
        self.base = ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # A server closes a connection that was idle for 5 s; whoever sends at that moment loses a request.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
        self._client = httpx2.AsyncClient(headers=headers, limits=limits)
        workers = [Worker(self._client, url) for url in urls]
        self.all = [Replica(worker, Loaded(worker, adapters, wanted)) for worker in workers]
        self._every = every
        self._watches: list[asyncio.Task[None]] = []

    @property
    def well(self) -> list[Replica]:
        """Those that take requests."""
        return [replica for replica in self.all if replica.fault is None]

    def faults(self) -> str:
        """What is wrong with those that are out, one after another."""
        return "; ".join(f"{one.url} {one.fault}" for one in self.all if one.fault is not None)

    async def look(self) -> None:
        """Look at all of them now."""
        await asyncio.gather(*(replica.look(self.base) for replica in self.all))

    def watch(self) -> None:
        """Look at all of them from now on."""
        self._watches = [
            asyncio.create_task(replica.watch(self._every, lambda: self.base)) for replica in self.all
        ]

    async def close(self) -> None:
        """Look no more, and close every connection."""
        for watch in self._watches:
            watch.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for replica in self.all:
            await replica.adapters.close()
        await self._client.aclose()

    def choose(self, adapter: str | None, but: Collection[Replica], most: float) -> Replica | None:
        """Who answers next: one that has the adapter unless it is much busier than the least busy, else that one.

        but: not these. most: those that have so many of our requests take none. None: there is nobody.
        """
        free = [one for one in self.well if one not in but and one.under_way < most]
        if not free:
            return None
        # Of equally busy ones the one with fewer adapters, so that each server keeps some of them.
        least = min(free, key=lambda one: (one.under_way, len(one.adapters)))
        having = (one for one in free if adapter is not None and adapter in one.adapters)
        near = min(having, key=lambda one: one.under_way, default=least)
        return near if near.under_way - least.under_way <= MUCH else least
