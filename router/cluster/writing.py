"""One request, from server to server until its answer is whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from math import inf

from specialists.errors import BadInput, RouterError, Unavailable

from ..engine.loop import Failed, Late
from ..engine.request import Generation, Request
from ..engine.scheduler import Busy
from .adapters import Adapter
from .answer import Answer
from .replicas import Replica, Replicas
from .wire import Full, Lost, Refused


class Writing:
    """The writing of an answer. asked: when, on the clock of the event loop. most: requests that a server may have."""

    def __init__(
        self, replicas: Replicas, request: Request, adapter: Adapter | None, asked: float, most: int
    ) -> None:
        self._replicas, self._request, self._adapter, self._most = replicas, request, adapter, most
        self._clock = asyncio.get_running_loop().time
        self._asked = asked
        self._until = inf if request.deadline is None else asked + request.deadline
        self._answer = Answer(request)
        self._late = False
        self._sent: float | None = None  # when a server was asked first
        self._first: float | None = None  # when the first token came
        self._tried: set[Replica] = set()
        self._lost: set[Replica] = set()  # of these, those that broke down, and may have come back
        self._full: set[Replica] = set()
        self._forgetful: set[Replica] = set()  # those that did not have the adapter that they should have
        self._measured = False

    async def pieces(self) -> AsyncGenerator[str]:
        """The text as it comes, "" where tokens have no text yet; generation() is there when this has ended.

        At most one try more than there are servers. Raises Late, Busy, BadInput, Failed or Unavailable.
        """
        reason = "no server was left"
        try:
            for _ in range(len(self._replicas.all) + 1):
                replica = await self._next(reason)
                try:
                    async with aclosing(self._try(replica)) as pieces:
                        async for piece in pieces:
                            yield piece
                    return
                except Refused as refusal:
                    reason = f"{replica.url} refuses ({refusal.status}: {refusal})"
                    await self._refused(replica, refusal)
                except Lost as error:
                    reason = f"{replica.url} {error}"
                    self._failed(replica, error)
        except TimeoutError:
            if not self._answer.text:
                allowed = f"{self._request.deadline:.3g} s allowed"
                raise Late(
                    f"The answer was not begun within the {allowed}; ask again or allow more."
                ) from None
            self._late = True
            return
        raise self._given_up(reason)

    def generation(self) -> Generation:
        """What came of it, once all pieces are read."""
        answer, now = self._answer, self._clock()
        sent = now if self._sent is None else self._sent
        return Generation(
            answer.text,
            answer.tokens,
            answer.truncated or self._late,
            now - sent,
            (self._first or now) - sent,
            sent - self._asked,
            self._late,
            answer.prompt_tokens,
        )

    async def _try(self, replica: Replica) -> AsyncGenerator[str]:
        """What one server writes. Raises Lost, Refused, or TimeoutError at the deadline."""
        model = self._adapter.name if self._adapter else self._replicas.base
        replica.under_way += 1
        try:
            async with AsyncExitStack() as stack:
                if self._adapter:
                    try:
                        there = stack.enter_async_context(replica.adapters.use(self._adapter))
                        await replica.within(self._until, there)
                    except Refused as refusal:
                        raise Lost(not_loaded(self._adapter, refusal)) from refusal
                path, body = self._answer.ask(model)
                self._sent = self._clock() if self._sent is None else self._sent
                chunks = await stack.enter_async_context(aclosing(replica.worker.chunks(path, body)))
                while (chunk := await replica.within(self._until, anext(chunks, None))) is not None:
                    piece = self._answer.take(chunk)
                    if chunk.text or chunk.ids:
                        self._first = self._first or self._clock()
                        yield piece
        except Lost:
            if not self._answer.finished:  # else all that is missing is the count of tokens, which we have
                raise
        finally:
            replica.under_way -= 1
        if not self._answer.finished:
            raise Lost("ended an answer without saying why")

    async def _next(self, reason: str) -> Replica:
        """Who is asked next. Raises Busy, Failed or Unavailable when there is nobody."""
        name = self._adapter.name if self._adapter else None
        begun = bool(self._answer.text)
        most = inf if begun else self._most  # an answer that was begun is not turned away
        if (found := self._replicas.choose(name, self._tried, most)) is None:
            # A server that closed an idle connection, or was started again at once, is well all the same.
            async with asyncio.timeout_at(None if self._until == inf else self._until):
                await asyncio.gather(*(replica.look(self._replicas.base) for replica in self._lost))
            self._tried -= self._lost
            self._lost.clear()
            found = self._replicas.choose(name, self._tried, most)
        if found is None:
            raise self._given_up(reason)
        return found

    def _failed(self, replica: Replica, error: Lost) -> None:
        self._tried.add(replica)
        if isinstance(error, Full):
            self._full.add(replica)
        else:
            self._lost.add(replica)
            replica.doubt()

    async def _refused(self, replica: Replica, refusal: Refused) -> None:
        """What a refusal means: something to mend before the next try, another server, or the end. Raises BadInput."""
        name = self._adapter.name if self._adapter else None
        if refusal.status == 404 and name and replica not in self._forgetful:
            replica.adapters.forget(name)  # it was started again, or somebody unloaded it
            self._forgetful.add(replica)
        elif refusal.status == 400 and not self._measured and not self._answer.text:
            self._measured = True
            try:
                await self._fit(replica, refusal)
            except Lost as error:
                self._failed(replica, error)
            except Refused:
                raise BadInput(f"vLLM does not take the request: {refusal}") from None
        elif refusal.status in (400, 413, 422) and not self._answer.text:
            raise BadInput(f"vLLM does not take the request: {refusal}")
        else:
            self._tried.add(replica)
            replica.doubt()

    async def _fit(self, replica: Replica, refusal: Refused) -> None:
        """Ask for no more tokens than the context has room for. Raises BadInput when that was not the matter."""
        asked = replica.worker.length(self._replicas.base, self._request.messages)
        count, longest = await replica.within(self._until, asked)
        if count >= longest:
            raise BadInput(
                f"The question has {count} tokens and the base reads at most {longest}; shorten it."
            )
        if count + self._answer.room <= longest:
            raise BadInput(f"vLLM does not take the request: {refusal}")
        self._answer.room = longest - count

    def _given_up(self, reason: str) -> RouterError:
        if self._answer.text:
            return Failed(f"The answer broke off and could not be finished: {reason}; ask again.")
        well = self._replicas.well
        if not well:
            return Unavailable(
                f"No vLLM server can be used: {self._replicas.faults()}; ask again in a few seconds."
            )
        if any(one in self._full or one.under_way >= self._most for one in well):
            return Busy("Every vLLM server that could answer has as much to do as it may; ask again later.")
        return Failed(f"No vLLM server answered: {reason}; ask again.")


def not_loaded(adapter: Adapter, refusal: Refused) -> str:
    """Why a server has not got an adapter, and what to do about it, after the server's name."""
    if refusal.status == 404 and "adapter" not in str(refusal).lower():
        hint = "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
    else:
        hint = f"see that it can read {adapter.path} and was started with --max-lora-rank high enough"
    return f"cannot load {adapter.ref} ({refusal.status}: {refusal}): {hint}"
