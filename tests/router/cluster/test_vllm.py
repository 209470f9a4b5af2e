"""Requests over several servers, of which any may fail at any time: each is answered whole, or says why not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from itertools import cycle
from pathlib import Path

import pytest

from registry.card import Card
from registry.store import Store, Version
from registry.version import sha256
from router.cluster.vllm import Vllm
from router.engine.loop import Failed, Late
from router.engine.request import Generation, Request
from router.engine.scheduler import Busy, Closed
from specialists.errors import BadInput, Damaged, RouterError, Unavailable

from .stand_in import StandIn, render, written

QUICK = 0.05  # seconds between looks


@pytest.fixture
def servers() -> Iterator[list[StandIn]]:
    with ExitStack() as stack:
        yield [stack.enter_context(StandIn()) for _ in range(3)]


@pytest.fixture
def versions(tiny_adapter: Callable[..., Path]) -> list[Version]:
    found = []
    for name in ("red", "green", "blue"):
        folder = tiny_adapter(name)
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
        found.append(Store().publish(folder, card))
    return found


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


def test_answers_and_counts(servers: list[StandIn], versions: list[Version]) -> None:
    async def work(backend: Vllm) -> None:
        assert backend.base == "tiny" and backend.fault() is None
        for ref in (None, "red@1.0.0", "green@1.0.0"):
            request = question("How?", ref)
            said = await answer(backend, request)
            assert said.text == right(backend, request)
            assert said.tokens == len(said.text.encode()) and said.prompt_tokens == len(
                render(request.messages)
            )
            assert not said.truncated and not said.late
            assert 0 < said.first_token_seconds <= said.seconds and said.waited_seconds >= 0
        cut = await answer(backend, question("How?", None, 3))
        assert cut.truncated and cut.tokens == 3

    serve(servers, work, versions)
    assert servers[0].bodies[0]["model"] == "tiny"


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


def test_a_question_that_cannot_even_be_counted(servers: list[StandIn]) -> None:
    servers[0].status, servers[0].message, servers[0].counts = 400, "no chat template", False

    async def work(backend: Vllm) -> None:
        with pytest.raises(BadInput, match="no chat template"):
            await answer(backend, question("How?"))

    serve(servers[:1], work)


def test_as_many_as_may(servers: list[StandIn]) -> None:
    for server in servers:
        server.token_seconds = 0.02

    async def work(backend: Vllm) -> None:
        said = await asyncio.gather(
            *(answer(backend, question(f"How {i}?")) for i in range(8)), return_exceptions=True
        )
        assert sum(isinstance(one, Busy) for one in said) == 2
        assert sum(isinstance(one, Generation) for one in said) == 6

    serve(servers, work, most=2)
    assert [server.most_answering for server in servers] == [2, 2, 2]


def test_a_begun_answer_is_not_turned_away(servers: list[StandIn]) -> None:
    for server in servers[:2]:
        server.token_seconds = 0.01
    servers[0].die_after = 3

    async def work(backend: Vllm) -> None:
        requests = [question(f"How {i}?") for i in range(2)]
        said = await asyncio.gather(*(answer(backend, request) for request in requests))
        assert [one.text for one in said] == [right(backend, request) for request in requests]

    serve(servers[:2], work, most=1)


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


def test_closing_ends_the_request_at_the_server(servers: list[StandIn]) -> None:
    servers[0].token_seconds = 0.02

    async def work(backend: Vllm) -> None:
        pieces = backend.stream(question("How?"))
        await anext(pieces)
        assert backend.load().under_way == 1
        await pieces.aclose()
        assert backend.load().under_way == 0
        await until(lambda: servers[0].aborted == 1)

    serve(servers[:1], work)


def test_deadlines(servers: list[StandIn], versions: list[Version]) -> None:
    servers[0].token_seconds = 0.1

    async def work(backend: Vllm) -> None:
        begun = time.monotonic()
        with pytest.raises(Late):
            await answer(backend, question("How?", deadline=0.05))
        said = await answer(backend, question("How?", deadline=0.5))
        assert said.late and said.truncated and 0 < said.tokens < 20
        assert right(backend, question("How?")).startswith(said.text)
        servers[0].forget()
        servers[0].load_seconds = 1
        with pytest.raises(Late):
            await answer(backend, question("How?", versions[0].ref, deadline=0.1))
        assert time.monotonic() - begun < 1

    serve(servers[:1], work, versions[:1])


def test_a_long_question(servers: list[StandIn]) -> None:
    servers[0].longest = 60

    async def work(backend: Vllm) -> None:
        with pytest.raises(BadInput, match="the base reads at most 60"):
            await answer(backend, question("x" * 100))
        said = await answer(backend, question("x" * 20, None, 100))
        assert said.truncated == (len(right(backend, question("x" * 20)).encode()) > 60 - said.prompt_tokens)
        assert said.prompt_tokens + said.tokens <= 60

    serve(servers[:1], work)


def test_opening(servers: list[StandIn]) -> None:
    async def opened(*urls: str, key: str | None = None) -> str:
        backend = Vllm(urls, key, every=QUICK)
        await backend.open()
        await backend.close()
        return backend.base

    gone = "http://127.0.0.1:9"
    with pytest.raises(BadInput, match="no vLLM server"):
        Vllm([])
    for url in ("ftp://x", "x", "", "http://", "http://h:port"):
        with pytest.raises(BadInput, match="no address"):
            Vllm([url])
    with pytest.raises(Unavailable, match="127.0.0.1:9 cannot be reached"):
        asyncio.run(opened(gone))
    assert asyncio.run(opened(gone, servers[0].url + "/v1/")) == "tiny"
    with StandIn(base="other") as other, pytest.raises(BadInput, match="different bases"):
        asyncio.run(opened(servers[0].url, other.url))
    servers[0].key = "secret"
    with pytest.raises(Unavailable, match="401"):
        asyncio.run(opened(servers[0].url))
    assert asyncio.run(opened(servers[0].url, key="secret")) == "tiny"


def test_one_that_joins_late_has_to_serve_the_same(servers: list[StandIn]) -> None:
    servers[0].down = servers[1].down = True
    servers[1].base = "other"

    async def work(backend: Vllm) -> None:
        servers[0].down = servers[1].down = False
        await until(lambda: backend.servers[0]["fault"] is None)
        await until(lambda: "where the others serve tiny" in str(backend.servers[1]["fault"]))
        assert backend.fault() is None

    serve(servers, work)


def test_closing_waits_and_takes_no_more(servers: list[StandIn]) -> None:
    servers[0].token_seconds = 0.01

    async def run() -> None:
        backend = Vllm([servers[0].url], every=QUICK)
        assert "not asked yet" in str(backend.fault())
        await backend.open()
        asked = asyncio.create_task(answer(backend, question("How?")))
        await until(lambda: servers[0].answering)
        closing = asyncio.create_task(backend.close())
        await asyncio.sleep(0)
        with pytest.raises(Closed):
            backend.stream(question("How?"))
        assert not closing.done() and backend.fault()
        await closing
        assert asked.done() and (await asked).text == right(backend, question("How?"))

    asyncio.run(run())
