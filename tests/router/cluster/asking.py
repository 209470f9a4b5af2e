"""What the tests of vLLM servers ask, and how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path

from registry.card import Card
from registry.store import Store, Version
from registry.version import sha256
from router.cluster.vllm import Vllm
from router.engine.request import Generation, Request

from .stand_in import StandIn, render, written

QUICK = 0.05  # seconds between looks


def publish(folder: Path, name: str) -> Version:
    """An adapter's folder as version 1.0.0 of a specialist of the base "tiny"."""
    card = Card(
        name=name,
        version="1.0.0",
        description=name,
        base="tiny",
        base_weights="0" * 64,
        adapter=sha256(folder / "adapter_model.safetensors"),
        prompt="plain",
        parser="answer_line",
        exemplars=(f"What is {name}?",),
    )
    return Store().publish(folder, card)


def question(text: str, adapter: str | None = None, tokens: int = 500, **more: float) -> Request:
    return Request([{"role": "user", "content": text}], adapter, tokens, **more)  # type: ignore[arg-type]


def right(backend: Vllm, request: Request) -> str:
    """What a server alone writes."""
    model = backend._adapters[request.adapter].name if request.adapter else "tiny"
    return written(model, render(request.messages)).decode()


async def answer(backend: Vllm, request: Request) -> Generation:
    said = ""
    async with aclosing(backend.stream(request)) as pieces:
        async for piece in pieces:
            if isinstance(piece, Generation):
                assert piece.text == said
                return piece
            assert piece
            said += piece
    raise AssertionError("there was no generation")


def serve(
    servers: list[StandIn], work: Callable[[Vllm], Awaitable[None]], versions: list[Version] = (), **more: int
) -> None:  # type: ignore[assignment]
    async def run() -> None:
        backend = Vllm([server.url for server in servers], every=QUICK, **more)
        await backend.open()
        try:
            for version in versions:
                assert await backend.add(version) is None
            await work(backend)
        finally:
            await backend.close()
        assert backend.load().waiting == backend.load().under_way == 0

    asyncio.run(asyncio.wait_for(run(), 60))


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)
