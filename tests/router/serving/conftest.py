"""A server on loopback whose backend says what it is told, and whose only specialist is colours@1.0.0."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from uvicorn import Config, Server

from registry.store import Version
from router.engine.request import Generation, Request
from router.engine.scheduler import Busy
from router.serving import desk as desks
from router.serving.app import Options, make_app
from router.serving.away import Away
from router.serving.backend import Backend, Load
from router.serving.desk import Desk
from router.serving.keys import Keys

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"


@dataclass
class FakeBackend:
    """Says `says(request)` a word at a time; waits before the second word while `holding` is not set."""

    says: Callable[[Request], str] = lambda request: (
        "It is warm.\nAnswer: yes" if request.adapter else "A poet."
    )
    most: int = 100
    base: str = "fake"
    asked: list[Request] = field(default_factory=list)
    added: dict[str, Version] = field(default_factory=dict)
    under_way: int = 0
    cancelled: int = 0
    holding: threading.Event = field(default_factory=threading.Event)
    broken: str | None = None
    lends: bool = False
    lent: int = 0

    def __post_init__(self) -> None:
        self.holding.set()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        while self.under_way:
            await asyncio.sleep(0.01)

    def fault(self) -> str | None:
        return self.broken

    def load(self) -> Load:
        return Load(0, self.under_way)

    def lend(self, work: Callable[[], Any]) -> asyncio.Future[Any] | None:
        if not self.lends:
            return None
        self.lent += 1
        future = asyncio.get_running_loop().create_future()
        future.set_result(work())
        return future

    async def add(self, version: Version) -> str | None:
        self.added[version.ref] = version
        return None

    async def remove(self, ref: str) -> None:
        self.added.pop(ref, None)

    def stream(self, request: Request) -> AsyncGenerator[str | Generation, None]:
        if self.under_way >= self.most:
            raise Busy("1 requests are waiting, as many as may; ask again later.")
        assert request.adapter is None or request.adapter in self.added
        self.asked.append(request)
        return self._pieces(request)

    async def _pieces(self, request: Request) -> AsyncGenerator[str | Generation, None]:
        self.under_way += 1
        done = False
        try:
            text = self.says(request)
            words = text.split(" ")
            for place, word in enumerate(words):
                yield word if place == 0 else f" {word}"
                while not self.holding.is_set():
                    await asyncio.sleep(0.005)
            done = True
            yield Generation(text, len(words), text.endswith("..."), 0.5, 0.1, 0.05, prompt_tokens=7)
        finally:
            self.under_way -= 1
            self.cancelled += not done


@dataclass
class Running:
    """A server that runs, what is behind it, and a client of it."""

    url: str
    desk: Desk
    client: httpx2.Client
    backend: Any

    def ask(self, question: str = COLOUR, **more: Any) -> httpx2.Response:
        headers = more.pop("headers", {})
        body = {"messages": [{"role": "user", "content": question}], **more}
        return self.client.post("/v1/chat/completions", json=body, headers=headers)


class Quiet(Server):
    """A server in a thread, which takes no signals."""

    def install_signal_handlers(self) -> None:
        pass


def serve(app: FastAPI) -> tuple[str, Callable[[], None]]:
    """Run an application on loopback: its address, and how to stop it."""
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sends at once on these only
    listening.bind(("127.0.0.1", 0))
    server = Quiet(Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.005)

    def stop() -> None:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()

    return f"http://127.0.0.1:{listening.getsockname()[1]}", stop


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def start(
    served: Any, fake_encoder: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Running]]:
    """Start a server: start(keys=a keys file, fallback=..., away=..., backend=..., and what Options takes)."""
    from router import embed
    from tests.conftest import FakeRouter  # type: ignore[import-not-found]

    monkeypatch.setattr(embed, "load_encoder", lambda *_, **__: fake_encoder)
    monkeypatch.setattr(desks, "_build", lambda versions, encoder: FakeRouter())
    stops: list[Callable[[], None]] = []

    def begin(
        keys: Path | None = None,
        backend: Backend | None = None,
        fallback: str = "base",
        away: Away | None = None,
        **options: Any,
    ) -> Running:
        backend = backend or FakeBackend()
        desk = Desk(backend, fallback=fallback, away=away)
        url, stop = serve(make_app(desk, Keys(keys), Options(**options)))
        client = httpx2.Client(base_url=url, timeout=20)
        stops.extend([client.close, stop])
        return Running(url, desk, client, backend)

    yield begin
    for stop in stops:
        stop()
