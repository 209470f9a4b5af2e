"""Servers that die, hang or decline: each request is answered whole by another, or says why not."""

from __future__ import annotations

import asyncio
from itertools import cycle

import pytest

from registry.store import Version
from router.cluster.vllm import Vllm
from router.engine.loop import Failed
from router.engine.scheduler import Busy
from specialists.errors import BadInput, RouterError, Unavailable

from .asking import answer, question, right, serve, until
from .stand_in import StandIn, render


@pytest.mark.parametrize("after", [0, 1, 4, 9])
@pytest.mark.parametrize("sizes", [(1,), (3, 1)])
@pytest.mark.parametrize("tells", [True, False])
def test_a_server_dies_in_the_middle(
    servers: list[StandIn], versions: list[Version], after: int, sizes: tuple[int, ...], tells: bool
) -> None:
    for server in servers:
        server.sizes, server.tells_ids = lambda: cycle(sizes), tells
    servers[0].die_after = after

    async def work(backend: Vllm) -> None:
        requests = [question(f"Question {i}", version.ref) for i in range(4) for version in versions]
        said = await asyncio.gather(*(answer(backend, request) for request in requests))
        assert [one.text for one in said] == [right(backend, request) for request in requests]
        assert all(one.tokens == len(one.text.encode()) for one in said)
        await until(lambda: backend.servers[0]["fault"])
        assert (await answer(backend, requests[0])).text == said[0].text

    serve(servers, work, versions)


def test_most_of_them_die_one_after_another(servers: list[StandIn]) -> None:
    servers[0].die_after, servers[1].die_after = 2, 1

    async def work(backend: Vllm) -> None:
        said = await answer(backend, question("How?"))
        assert said.text == right(backend, question("How?"))

    serve(servers, work)
    assert [len(server.asked) for server in servers] == [1, 1, 1]
    assert len(servers[2].bodies[0]["prompt"]) >= len(render([{"role": "user", "content": "How?"}])) + 2


def test_a_dead_engine_is_a_dead_server(servers: list[StandIn]) -> None:
    servers[0].error_after = 2

    async def work(backend: Vllm) -> None:
        assert (await answer(backend, question("How?"))).text == right(backend, question("How?"))

    serve(servers, work)


def test_an_aborted_answer_is_not_whole(servers: list[StandIn]) -> None:
    servers[0].finish = "abort"

    async def work(backend: Vllm) -> None:
        assert (await answer(backend, question("How?"))).text == right(backend, question("How?"))

    serve(servers[:2], work)


def test_all_die(servers: list[StandIn]) -> None:
    for server in servers:
        server.die_after = 3

    async def work(backend: Vllm) -> None:
        said = ""
        with pytest.raises(Failed, match="broke off"):
            async for piece in backend.stream(question("How?")):
                said += str(piece)
        assert right(backend, question("How?")).startswith(said)
        await until(backend.fault)
        assert "No vLLM server can be used" in str(backend.fault())
        with pytest.raises(Unavailable, match="No vLLM server can be used"):
            await answer(backend, question("How?"))
        servers[1].down, servers[1].die_after = False, None
        await until(lambda: backend.fault() is None)
        await answer(backend, question("How?"))

    serve(servers, work)
    assert sum(len(server.asked) for server in servers) <= 3 + 1 + 1


def test_one_that_hiccups_is_asked_again(servers: list[StandIn]) -> None:
    servers[0].die_after, servers[0].once = 2, True

    async def work(backend: Vllm) -> None:
        assert (await answer(backend, question("How?"))).text == right(backend, question("How?"))

    serve(servers[:1], work)
    assert len(servers[0].asked) == 2


def test_another_text_from_another_server_is_a_failure(servers: list[StandIn]) -> None:
    servers[0].die_after = 6
    for server in servers:
        server.tells_ids = False
    servers[1].words = servers[2].words = "something else altogether"

    async def work(backend: Vllm) -> None:
        with pytest.raises(Failed, match="another text"):
            await answer(backend, question("How?"))

    serve(servers, work)


@pytest.mark.parametrize("status", [500, 502, 429, 503, 401])
def test_a_server_that_declines_is_passed_over(servers: list[StandIn], status: int) -> None:
    servers[0].status = status

    async def work(backend: Vllm) -> None:
        assert (await answer(backend, question("How?"))).text == right(backend, question("How?"))

    serve(servers, work)


@pytest.mark.parametrize(
    ("status", "error"), [(500, Failed), (429, Busy), (503, Busy), (400, BadInput), (422, BadInput)]
)
def test_all_decline(servers: list[StandIn], status: int, error: type[RouterError]) -> None:
    for server in servers:
        server.status, server.message = status, "a reason\n\x1b[31m" + "x" * 1000

    async def work(backend: Vllm) -> None:
        with pytest.raises(error) as caught:
            await answer(backend, question("How?"))
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500

    serve(servers, work)
    assert sum(len(server.asked) for server in servers) <= len(servers) + 1


def test_a_server_that_comes_back_tells_what_it_has(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        servers[0].forget()
        servers[0].health = 503
        await until(backend.fault)
        servers[0].health = 200
        await until(lambda: backend.fault() is None)
        await answer(backend, question("How?", versions[0].ref))

    serve(servers[:1], work, versions[:1])
    assert len(servers[0].loads) == 2 and len(servers[0].asked) == 1


def test_a_server_that_hangs_is_left(servers: list[StandIn]) -> None:
    servers[0].token_seconds = 30

    async def work(backend: Vllm) -> None:
        asked = asyncio.create_task(answer(backend, question("How?")))
        await until(lambda: servers[0].answering)
        servers[0].health = 500
        assert (await asked).text == right(backend, question("How?"))

    serve(servers[:2], work)


def test_one_look_that_fails_takes_nobody_out(servers: list[StandIn]) -> None:
    servers[0].token_seconds = 0.02

    async def work(backend: Vllm) -> None:
        replicas = backend._replicas
        assert replicas
        servers[0].health = 503
        await replicas.all[0].look("tiny")
        servers[0].health = 200
        assert replicas.all[0].fault is None

    serve(servers[:1], work)
