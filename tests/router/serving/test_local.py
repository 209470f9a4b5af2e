"""The backend in this process, with a tiny model: many at once, each with its own adapter, and those who leave."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from registry.card import Card
from registry.store import Store, Version
from registry.version import sha256
from router import ask
from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.request import Generation, Request
from router.engine.scheduler import Busy
from router.engine.threads import at_most
from router.serving.local import Local
from specialists.errors import Damaged


def publish(folder: Path, name: str, base: Path, weights: str) -> Version:
    card = Card(
        name=name, version="1.0.0", description=name, base=str(base), base_weights=weights,
        adapter=sha256(folder / "adapter_model.safetensors"), prompt="plain", parser="answer_line",
        exemplars=(f"What about {name}?",),
    )  # fmt: skip
    return Store().publish(folder, card)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 what others ask at the same time does not round an answer into another one."""
    monkeypatch.setattr(ask, "open_engine", lambda base, precision: open_exact(base))


def open_exact(base: str) -> Engine:
    return Engine(find_base(base), dtype="float32")


@pytest.fixture
def versions(tiny_base: Path, tiny_adapter: Callable[..., Path]) -> list[Version]:
    weights = find_base(str(tiny_base)).weights
    return [publish(tiny_adapter(name), name, tiny_base, weights) for name in ("reds", "greens", "blues")]


async def whole(local: Local, request: Request) -> tuple[str, Generation]:
    text, last = "", None
    async for piece in local.stream(request):
        if isinstance(piece, Generation):
            last = piece
        else:
            text += piece
    assert last is not None
    return text, last


def requests(versions: list[Version]) -> list[Request]:
    adapters = [None, *(version.ref for version in versions)]
    return [
        Request([{"role": "user", "content": f"question {i}"}], adapters[i % 4], 5 + i % 7) for i in range(24)
    ]


def test_everyone_gets_what_the_engine_gives_alone(tiny_base: Path, versions: list[Version]) -> None:
    async def serve() -> list[tuple[str, Generation]]:
        local = Local(str(tiny_base), "bf16")
        assert local.fault() and local.base == ""
        await local.open()
        assert local.fault() is None and local.base
        for version in versions:
            assert await local.add(version) is None
        found = await asyncio.gather(*(whole(local, request) for request in requests(versions)))
        load = local.load()
        assert (load.waiting, load.under_way) == (0, 0)
        await local.close()
        return list(found)

    engine = open_exact(str(tiny_base))
    for version in versions:
        engine.add(version.ref, version.path)
    for (text, said), request in zip(asyncio.run(serve()), requests(versions), strict=True):
        (alone,) = engine.generate([request])
        assert text == said.text == alone.text and said.prompt_tokens == alone.prompt_tokens > 0


def test_all_threads_multiply_though_one_that_routes_keeps_itself_to_one_while_it_opens(
    tiny_base: Path,
) -> None:
    """It would else go on with one, or with all when others want the processors, many times as slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    routes, opened = threading.Event(), threading.Event()

    def route() -> None:
        with at_most(1):
            routes.set()
            assert opened.wait(60)

    async def serve() -> tuple[int, int]:
        local = Local(str(tiny_base), "bf16")
        with ThreadPoolExecutor(1) as pool:
            routing = pool.submit(route)
            try:
                assert routes.wait(60)
                await local.open()
                lent = local.lend(torch.get_num_threads)
                assert lent is not None and local.scheduler is not None and local.scheduler.engine.pace
                return await lent, local.scheduler.engine.pace.most
            finally:
                opened.set()
                routing.result()
                await local.close()

    try:
        assert asyncio.run(serve()) == (2, 2)
    finally:
        torch.set_num_threads(before)


def test_its_thread_is_lent_when_it_is_open(tiny_base: Path) -> None:
    async def serve() -> None:
        local = Local(str(tiny_base), "bf16")
        assert local.lend(threading.current_thread) is None
        await local.open()
        lent = local.lend(threading.current_thread)
        assert lent is not None and (await lent).name == "scheduler"
        pieces = local.stream(Request([{"role": "user", "content": "x"}], None, 4000))
        lent = local.lend(threading.current_thread)
        assert lent is not None and (await lent).name == "scheduler"
        await pieces.aclose()
        await local.close()

    asyncio.run(serve())


def test_who_leaves_frees_a_place_even_before_reading(tiny_base: Path) -> None:
    async def serve() -> None:
        local = Local(str(tiny_base), "bf16", queue=1, rows=1)
        await local.open()
        long = Request([{"role": "user", "content": "x"}], None, 4000)
        first = local.stream(long)
        await anext(first)
        second = local.stream(long)
        with pytest.raises(Busy):
            local.stream(long)
        await second.aclose()
        await first.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(first)
        while local.load().under_way or local.load().waiting:
            await asyncio.sleep(0.01)
        await whole(local, Request([{"role": "user", "content": "x"}], None, 3))
        await local.close()

    asyncio.run(serve())


def test_a_version_that_was_let_go_finishes_and_may_come_back(
    tiny_base: Path, versions: list[Version]
) -> None:
    async def serve() -> None:
        local = Local(str(tiny_base), "bf16")
        await local.open()
        ref = versions[0].ref
        await local.add(versions[0])
        request = Request([{"role": "user", "content": "x"}], ref, 200)
        pieces = local.stream(request)
        first = await anext(pieces)
        await local.remove(ref)
        await local.remove(ref)
        rest = [piece async for piece in pieces]
        said = rest[-1]
        assert isinstance(said, Generation) and isinstance(first, str)
        assert said.text == first + "".join(piece for piece in rest[:-1] if isinstance(piece, str))
        await local.add(versions[0])
        assert (await whole(local, request))[0] == said.text
        await local.close()

    asyncio.run(serve())


def test_a_version_that_is_wanted_while_it_is_let_go_is_there(
    tiny_base: Path, versions: list[Version], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def serve() -> None:
        local = Local(str(tiny_base), "bf16")
        await local.open()
        assert local.scheduler is not None
        engine, may_go = local.scheduler.engine, threading.Event()
        await local.add(versions[0])
        remove = engine.remove

        def slowly(ref: str) -> None:
            may_go.wait(10)
            remove(ref)

        monkeypatch.setattr(engine, "remove", slowly)
        going = asyncio.create_task(local.remove(versions[0].ref))
        await asyncio.sleep(0.05)
        coming = asyncio.create_task(local.add(versions[0]))
        await asyncio.sleep(0.05)
        may_go.set()
        await asyncio.gather(going, coming)
        await whole(local, Request([{"role": "user", "content": "x"}], versions[0].ref, 3))
        await local.close()

    asyncio.run(serve())


def test_a_version_that_was_registered_again_is_read_again(tiny_base: Path, versions: list[Version]) -> None:
    async def serve() -> None:
        local = Local(str(tiny_base), "bf16")
        await local.open()
        assert local.scheduler is not None
        residency = local.scheduler.engine.residency
        residency.budget = 0  # read when it is asked for, and no earlier
        await local.add(versions[0])
        copy = versions[0].path.with_name("copy")
        shutil.copytree(versions[0].path, copy)
        shutil.rmtree(versions[0].path)
        copy.rename(versions[0].path)
        await local.add(versions[0])
        await whole(local, Request([{"role": "user", "content": "x"}], versions[0].ref, 3))
        await local.close()

    asyncio.run(serve())


def test_what_was_changed_since_is_not_loaded(tiny_base: Path, versions: list[Version]) -> None:
    weights = versions[0].path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(data)

    async def serve() -> None:
        local = Local(str(tiny_base), "bf16")
        await local.open()
        with pytest.raises(Damaged):
            await local.add(versions[0])
        await local.close()

    asyncio.run(serve())
