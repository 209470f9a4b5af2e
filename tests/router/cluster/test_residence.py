"""Which server has which adapter, and who is asked."""

from __future__ import annotations

import asyncio

import pytest

from registry.store import Version
from router.cluster.vllm import Vllm
from router.engine.loop import Failed
from specialists.errors import BadInput, Damaged, Unavailable

from .asking import answer, question, right, serve, until
from .stand_in import StandIn


def test_requests_go_where_their_adapter_is(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        for _ in range(3):
            for version in versions:
                await answer(backend, question("How?", version.ref))

    serve(servers, work, versions)
    assert [len(server.loads) for server in servers] == [1, 1, 1]


def test_a_crowd_for_one_adapter_is_spread(servers: list[StandIn], versions: list[Version]) -> None:
    for server in servers:
        server.token_seconds = 0.01

    async def work(backend: Vllm) -> None:
        requests = [question(f"How {i}?", versions[0].ref) for i in range(20)]
        said = await asyncio.gather(*(answer(backend, request) for request in requests))
        assert [one.text for one in said] == [right(backend, request) for request in requests]

    serve(servers, work, versions[:1])
    assert all(server.loads == servers[0].loads for server in servers)
    assert all(server.most_answering >= 4 for server in servers)


def test_an_adapter_that_is_gone_is_loaded_again(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        servers[0].forget()
        request = question("How?", versions[0].ref)
        assert (await answer(backend, request)).text == right(backend, request)

    serve(servers[:1], work, versions[:1])
    assert len(servers[0].loads) == 2


def test_a_refused_adapter_is_served_by_another(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        servers[0].forget()
        servers[0].refuse_load = 404
        request = question("How?", versions[0].ref)
        assert (await answer(backend, request)).text == right(backend, request)
        servers[1].refuse_load = 500
        servers[1].forget()
        with pytest.raises(Failed, match="cannot load red@1.0.0"):
            await answer(backend, request)

    serve(servers[:2], work, versions[:1])


def test_an_adapter_that_nobody_loads_is_not_added(servers: list[StandIn], versions: list[Version]) -> None:
    servers[0].refuse_load = 500

    async def work(backend: Vllm) -> None:
        with pytest.raises(Unavailable, match="max-lora-rank"):
            await backend.add(versions[0])
        with pytest.raises(BadInput, match="no adapter red"):
            backend.stream(question("How?", versions[0].ref))

    serve(servers[:1], work)


def test_cold_adapters_make_room(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        for _ in range(2):
            for version in versions:
                await answer(backend, question("How?", version.ref))

    serve(servers[:1], work, versions, adapters=2)
    assert len(servers[0].adapters) == 2 and len(servers[0].unloads) >= 4


def test_a_removed_version_finishes_and_goes(servers: list[StandIn], versions: list[Version]) -> None:
    servers[0].token_seconds = 0.01

    async def work(backend: Vllm) -> None:
        request = question("How?", versions[0].ref)
        expected = right(backend, request)
        asked = asyncio.create_task(answer(backend, request))
        await until(lambda: servers[0].answering)
        await backend.remove(versions[0].ref)
        assert servers[0].adapters
        assert (await asked).text == expected
        await until(lambda: not servers[0].adapters)
        with pytest.raises(BadInput):
            backend.stream(request)

    serve(servers[:1], work, versions[:1])


def test_an_adapter_of_another_base_is_refused(versions: list[Version]) -> None:
    with StandIn(base="Qwen/Other") as other:

        async def work(backend: Vllm) -> None:
            with pytest.raises(Damaged, match="was made for tiny"):
                await backend.add(versions[0])

        serve([other], work)
