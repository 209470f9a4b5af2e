"""What is loaded on a server: once, when it is needed, under a name of its own, and no more than may be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from registry.card import Card
from registry.store import Store, Version
from registry.version import sha256
from router.cluster.adapters import Adapter, Loaded, adapter_of
from router.cluster.wire import Refused, Worker
from specialists.errors import Damaged

from .stand_in import StandIn

NAMES = {"a", "b", "c", "d"}


def adapter(name: str) -> Adapter:
    return Adapter(f"{name}@1.0.0", name, f"/adapters/{name}")


def with_loaded(
    server: StandIn, work: Callable[[Loaded], Awaitable[None]], most: int = 2, wanted: set[str] = NAMES
) -> None:
    async def run() -> None:
        async with httpx2.AsyncClient() as client:
            loaded = Loaded(Worker(client, server.url), most, wanted)
            await work(loaded)
            await loaded.close()

    asyncio.run(run())


async def use(loaded: Loaded, *names: str) -> None:
    for name in names:
        async with loaded.use(adapter(name)):
            pass


def test_all_who_need_it_wait_for_one_loading() -> None:
    with StandIn() as server:
        server.load_seconds = 0.1

        async def work(loaded: Loaded) -> None:
            await asyncio.gather(*(use(loaded, "a") for _ in range(5)))

        with_loaded(server, work)
        assert server.loads == ["a"]


def test_who_waits_no_more_does_not_end_the_loading() -> None:
    with StandIn() as server:
        server.load_seconds = 0.2

        async def work(loaded: Loaded) -> None:
            impatient = asyncio.create_task(use(loaded, "a"))
            patient = asyncio.create_task(use(loaded, "a"))
            await asyncio.sleep(0.05)
            impatient.cancel()
            await patient

        with_loaded(server, work)
        assert server.loads == ["a"]


def test_the_least_recently_used_goes() -> None:
    with StandIn() as server:

        async def work(loaded: Loaded) -> None:
            await use(loaded, "a", "b", "a", "c")
            await loaded.close()
            assert server.unloads == ["b"]
            assert set(server.adapters) == {"a", "c"}
            await use(loaded, "b")

        with_loaded(server, work)
        assert server.unloads == ["b", "a"]


def test_what_is_in_use_stays() -> None:
    with StandIn() as server:

        async def work(loaded: Loaded) -> None:
            async with loaded.use(adapter("a")), loaded.use(adapter("b")):
                await use(loaded, "c")
                await loaded.close()
                assert server.unloads == ["c"]
            await use(loaded, "d")

        with_loaded(server, work)
        assert server.unloads == ["c", "a"]


def test_used_again_while_it_is_unloaded() -> None:
    with StandIn() as server:

        async def work(loaded: Loaded) -> None:
            await use(loaded, "a", "b", "c", "a")  # the last while "a" is on its way out
            assert "a" in loaded

        with_loaded(server, work)
        assert "a" in server.adapters and server.loads.count("a") == 2


def test_what_is_no_longer_registered_goes() -> None:
    with StandIn() as server:
        wanted = {"a", "b"}

        async def work(loaded: Loaded) -> None:
            async with loaded.use(adapter("a")):
                wanted.remove("a")
                loaded.trim()
                assert not server.unloads

        with_loaded(server, work, wanted=wanted)
        assert server.unloads == ["a"]


def test_what_others_loaded_is_used_and_left_alone() -> None:
    with StandIn() as server:
        server.adapters = {"a": "/there", "theirs": "/there"}

        async def work(loaded: Loaded) -> None:
            loaded.found(set(server.adapters))
            assert "a" in loaded and "theirs" not in loaded
            await use(loaded, "a", "b", "c", "d")

        with_loaded(server, work)
        assert "theirs" in server.adapters and "a" not in server.loads


def test_loading_what_is_there_is_no_fault() -> None:
    with StandIn() as server:
        server.adapters = {"a": "/there"}

        async def work(loaded: Loaded) -> None:
            await use(loaded, "a")

        with_loaded(server, work)
        assert server.loads == ["a"]


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_refusal_reaches_all_who_wait_and_is_not_remembered(status: int) -> None:
    with StandIn() as server:
        server.refuse_load, server.load_seconds = status, 0.05

        async def work(loaded: Loaded) -> None:
            found = await asyncio.gather(*(use(loaded, "a") for _ in range(3)), return_exceptions=True)
            assert all(isinstance(one, Refused) and one.status == status for one in found)
            assert "a" not in loaded
            server.refuse_load = None
            await use(loaded, "a")

        with_loaded(server, work)
        assert server.loads == ["a", "a"]


@pytest.fixture
def version(tiny_adapter: Callable[..., Path]) -> Version:
    folder = tiny_adapter("colours")
    card = Card(
        name="colours",
        version="1.0.0",
        description="colours and their names",
        base="tiny",
        base_weights="0" * 64,
        adapter=sha256(folder / "adapter_model.safetensors"),
        prompt="plain",
        parser="answer_line",
        exemplars=("Which colours are warm?",),
    )
    return Store().publish(folder, card)


def test_a_name_is_of_weights_and_scale(version: Version, tmp_path: Path) -> None:
    one = adapter_of(version, {})
    assert one.name.startswith("colours@") and len(one.name) == len("colours@") + 12
    assert one.path == str(version.path.resolve()) and one == adapter_of(version, {})
    config = json.loads((version.path / "adapter_config.json").read_text())
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 99}))
    (folder / "adapter_model.safetensors").write_bytes(
        (version.path / "adapter_model.safetensors").read_bytes()
    )
    other = Store().publish(folder, replace(version.card, version="1.0.1"))
    assert adapter_of(other, {}).name != one.name


def test_paths_are_those_of_the_servers(version: Version) -> None:
    home = version.path.parent.parent
    assert adapter_of(version, {str(home): "/mnt/adapters", "/": "/no"}).path == "/mnt/adapters/colours/1.0.0"
    assert adapter_of(version, {"/elsewhere": "/mnt"}).path == str(version.path.resolve())


def test_changed_bytes_are_not_loaded(version: Version) -> None:
    weights = version.path / "adapter_model.safetensors"
    weights.chmod(0o644)
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(Damaged):
        adapter_of(version, {})
