"""Opening, counting, deadlines, long questions and closing, over several servers."""

from __future__ import annotations

import asyncio
import time

import pytest

from registry.store import Version
from router.cluster.vllm import Vllm
from router.engine.loop import Late
from router.engine.request import Generation
from router.engine.scheduler import Busy, Closed
from specialists.errors import BadInput, Unavailable

from .asking import QUICK, answer, question, right, serve, until
from .stand_in import StandIn, render


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
