"""Who is on duty and who answers: the registered specialists, kept up to date, and a backend that writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from registry.store import Store, Version
from specialists.errors import BadInput, Damaged, RouterError, Unavailable

from ..answer import Answer, Status
from ..ask import clean
from ..decision import AUTO, BASE, CLAUDE, NONE, Decision
from ..engine.request import Generation, Request
from ..engine.threads import at_most, release
from ..prompting import ask_base, ask_specialist, read
from ..route import Entry, Router
from .backend import Load

if TYPE_CHECKING:
    from ..embed import Encoder
    from .away import Away, Coming
    from .backend import Backend, Pieces

T = TypeVar("T")
LOOK = 1.0  # seconds between two looks at the registry

log = logging.getLogger(__name__)


class NotAllowed(BadInput):
    """The key may not ask this specialist."""


class NotFound(BadInput):
    """No such model or specialist."""


@dataclass(frozen=True)
class Asked:
    """A question on its way. by: who answers, exactly: NAME@VERSION, "base" or a model elsewhere.

    `pieces` is None where nothing is written here: the question goes `away`, or nobody answers, because no specialist
    fits and the base may not.
    """

    decision: Decision
    by: str
    version: Version | None = None
    note: str | None = None
    pieces: Pieces | None = None
    request: Request | None = None
    away: Coming | None = None


class Desk:
    """Decides who answers and lets the backend write. Used from one event loop.

    allowed: names of specialists that whoever asks may ask, None for all. fallback: "base", "none" or "claude", for
    questions that fit no specialist; the last goes with `away`. What is registered is looked at every second, so that
    `router register` in another terminal needs no restart; a specialist that cannot be used is left out, with a line in
    the log, and in `problems`.
    """

    def __init__(
        self, backend: Backend, store: Store | None = None, fallback: str = BASE, away: Away | None = None
    ) -> None:
        self.backend, self.store, self.fallback, self.away = backend, store or Store(), fallback, away
        self.versions: Mapping[str, Version] = {}  # on duty, by name
        self.notes: dict[str, str | None] = {}  # ref -> what is to be known of it with this base
        self.problems: list[str] = []
        self._router: Router | None = None
        self._encoder: Encoder | None = None
        self._stamp: object = None
        self._changing = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._closing = False
        # For when the backend lends none. It multiplies alone or lets its helpers go: see threads.py.
        self._routing = ThreadPoolExecutor(1, "routing")

    async def open(self) -> None:
        """Open the backend and bring the specialists on duty, once. Raises RouterError."""
        from ..embed import load_encoder

        if self._watch:
            return

        load = partial(load_encoder, torch=True)
        encoder = asyncio.get_running_loop().run_in_executor(self._routing, _alone, load)
        await self.backend.open()
        self._encoder = await encoder
        await self.refresh()
        self._watch = asyncio.create_task(self._keep_looking())

    def stop(self) -> None:
        """Take no more questions."""
        self._closing = True

    async def close(self) -> None:
        """Take no more questions and return when those under way are answered."""
        self.stop()
        if self._watch:
            self._watch.cancel()
        await self.backend.close()
        self._routing.shutdown()

    def load(self) -> Load:
        """How busy it is."""
        here = self.backend.load()
        return Load(here.waiting, here.under_way + self.away.under_way) if self.away else here

    def fault(self) -> str | None:
        """Why no question can be answered now; None when all is well."""
        if self._closing:
            return "The server is stopping; ask again when it is back."
        return self.backend.fault() or (None if self._router else "The specialists are being read.")

    async def decide(self, question: str, allowed: frozenset[str] | None = None) -> Decision:
        """Who answers a question. Raises BadInput when it is empty or too long, Unavailable while starting."""
        text = clean(question)
        route = partial(self._require().route, text)
        lent = self.backend.lend(route)
        if lent is None:
            lent = asyncio.get_running_loop().run_in_executor(self._routing, _alone, route)
        decision = await lent
        if decision.specialist is None or allowed is None or decision.specialist in allowed:
            return decision
        reason = f"{decision.specialist} fits, but this key may not ask it"
        closest = (decision.specialist, decision.confidence or 0.0)
        return replace(decision, specialist=None, version=None, runner_up=closest, reason=reason)

    async def ask(
        self,
        model: str,
        conversation: Sequence[dict[str, str]],
        max_tokens: int | None = None,
        deadline: float | None = None,
        allowed: frozenset[str] | None = None,
    ) -> Asked:
        """Begin to answer the last message of a conversation, which is the user's.

        model: auto, base, or NAME[@VERSION]. Raises NotFound, NotAllowed, BadInput for what is no question, and what
        the backend raises. Close `pieces` when the answer is not wanted any more.
        """
        question = clean(conversation[-1]["content"])
        self._require()
        version: Version | None = None
        if model == AUTO:
            decision = await self.decide(question, allowed)
            if decision.specialist:
                decision, version = self._on_duty(decision)
        elif model == BASE:
            decision = Decision.asked_for(question, None)
        else:
            version = await self._named(model, allowed)
            decision = Decision.asked_for(question, version.card.name, version.card.version)
        if version is None:
            whole = [*conversation[:-1], {"role": "user", "content": question}]
            answering = BASE if model == BASE else self.fallback_for(allowed)
            if answering == CLAUDE:
                assert self.away
                coming = self.away.coming(decision, whole, max_tokens, deadline)
                return Asked(decision, self.away.model, away=coming)
            if answering == NONE:
                return Asked(decision, BASE)
            request, note, by = ask_base(whole, max_tokens), None, BASE
        else:
            note, by = await self._ready(version), version.ref
            request = ask_specialist(version, question, max_tokens)
        request = replace(request, deadline=deadline)
        return Asked(decision, by, version, note, self.backend.stream(request), request)

    def fallback_for(self, allowed: frozenset[str] | None) -> str:
        """Where the questions of a key go that fit no specialist it may ask: "base", "none" or "claude"."""
        spends = allowed is None or CLAUDE in allowed
        return BASE if self.fallback == CLAUDE and not spends else self.fallback

    def _on_duty(self, decision: Decision) -> tuple[Decision, Version | None]:
        """The version that answers and a decision that says so, whatever was registered since it was made."""
        name = decision.specialist or ""
        version = self.versions.get(name)
        if version is None:
            gone = replace(
                decision, specialist=None, version=None, reason=f"{name} fits, but was unregistered"
            )
            return gone, None
        return replace(decision, version=version.card.version), version

    async def answer(self, asked: Asked) -> AsyncGenerator[str | tuple[Answer, Generation], None]:
        """The text in pieces, and last what became of the question; closing it cancels the request.

        Raises what the backend raises, and NotFound when the version was unregistered before it was read from disk;
        one that was registered again meanwhile is tried again. An answer from elsewhere comes in one piece.
        """
        if asked.away:
            answer, generation = await asked.away()
            if answer.status is not Status.REFUSED:
                yield answer.text
            yield answer, generation
            return
        if asked.pieces is None:
            yield Answer(asked.decision, Status.REFUSED), Generation("", 0, False, 0.0, 0.0)
            return
        pieces, written = asked.pieces, False
        while True:
            try:
                async with aclosing(pieces):
                    async for piece in pieces:
                        if isinstance(piece, Generation):
                            notes = (asked.note,) if asked.note else ()
                            yield read(asked.decision, asked.version, piece, notes), piece
                            return
                        written = True
                        yield piece
            except Damaged:  # its adapter was not in memory, and is not the file any more that it was
                if asked.version is None or asked.request is None or written:
                    raise
                await self._ready(asked.version)
                written = True  # it is tried again once
                pieces = self.backend.stream(asked.request)

    async def _ready(self, version: Version) -> str | None:
        """Backend.add; NotFound for a version that was unregistered meanwhile."""
        try:
            return await self.backend.add(version)
        except Damaged as error:
            if version.path.exists():
                raise
            raise NotFound(f"{version.ref} was unregistered before its turn came; ask another.") from error

    async def refresh(self) -> None:
        """Bring on duty what is registered now, and let the others go."""
        async with self._changing:
            stamp = await asyncio.to_thread(_stamp, self.store)
            if stamp == self._stamp:
                return
            found = await asyncio.to_thread(self.store.list)
            problems = list(self.store.problems)
            versions: dict[str, Version] = {}
            for version in found:
                try:
                    self.notes[version.ref] = await self.backend.add(version)
                    versions[version.card.name] = version
                except RouterError as error:
                    problems.append(f"{version.ref} is left out: {error}")
            for problem in problems:
                if problem not in self.problems:
                    log.warning(problem)
            assert self._encoder is not None
            loop = asyncio.get_running_loop()
            router = await loop.run_in_executor(self._routing, _build, list(versions.values()), self._encoder)
            before = {version.ref for version in self.versions.values()}
            self.versions, self._router, self.problems, self._stamp = versions, router, problems, stamp
            for ref in before - {version.ref for version in versions.values()}:
                self.notes.pop(ref, None)
                await self.backend.remove(ref)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                await self.refresh()
            except Exception:
                log.warning("the registry could not be read again", exc_info=True)

    async def _named(self, ref: str, allowed: frozenset[str] | None) -> Version:
        """The version that a model's name means, without the disk where it is on duty."""
        name = ref.partition("@")[0]
        if allowed is not None and name not in allowed:
            raise NotAllowed(f"This key may not ask {name!r}.")
        if ref in self.versions:
            return self.versions[ref]
        try:
            return await asyncio.to_thread(self.store.resolve, ref)
        except BadInput as error:
            raise NotFound(str(error)) from error

    def _require(self) -> Router:
        if (fault := self.fault()) or self._router is None:
            raise Unavailable(fault or "The specialists are being read.")
        return self._router


def _entry(version: Version) -> Entry:
    return Entry(version.card.name, version.card.version, version.card.exemplars)


def _alone(work: Callable[[], T]) -> T:
    """The processors may have something else to do, so that several threads would wait for each other."""
    with at_most(1):
        return work()


def _build(versions: list[Version], encoder: Encoder) -> Router:
    try:
        return Router([_entry(version) for version in versions], encoder)
    finally:
        release()


def _stamp(store: Store) -> object:
    """What changes whenever something is registered, promoted, hidden or removed."""
    found: list[tuple[str, int]] = []
    for pattern in ("*", ".history/*", ".hidden/*", ".hidden/*/*"):
        for path in store.home.glob(pattern):
            with contextlib.suppress(OSError):
                found.append((str(path), path.stat().st_mtime_ns))
    return sorted(found)
