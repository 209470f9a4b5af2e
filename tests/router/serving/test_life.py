"""A server under pressure: full, slow, left, changed while it answers, and stopped."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from registry.card import Card
from registry.store import Store
from registry.version import sha256
from router.engine.loop import Failed, Late
from router.engine.request import Request
from specialists.errors import Damaged, RouterError

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"


def until(true: Callable[[], Any], seconds: float = 10.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_a_full_server_says_when_to_come_back(start: Any) -> None:
    running = start()
    running.backend.most = 1
    running.backend.holding.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.ask)
        until(lambda: running.backend.under_way == 1)
        for stream in (False, True):
            found = running.ask(stream=stream)
            assert found.status_code == 429 and found.headers["retry-after"] == "1"
        running.backend.holding.set()
        assert first.result().status_code == 200


def test_five_hundred_connections_are_held(start: Any) -> None:
    from router.serving.cli import allow_connections

    allow_connections()
    running = start()
    running.backend.most = 500
    running.backend.holding.clear()
    body = {"messages": [{"role": "user", "content": COLOUR}], "stream": True}

    async def crowd() -> list[str]:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(base_url=running.url, timeout=60, limits=limits) as client:

            async def one() -> str:
                return (await client.post("/v1/chat/completions", json=body)).text

            tasks = [asyncio.create_task(one()) for _ in range(500)]
            while running.backend.under_way < 500:
                await asyncio.sleep(0.02)
                assert not any(task.done() for task in tasks)
            stats = (await client.get("/stats")).json()
            assert stats["under_way"] == 500
            running.backend.holding.set()
            return await asyncio.gather(*tasks)

    found = asyncio.run(asyncio.wait_for(crowd(), 60))
    assert all(text.endswith("data: [DONE]\n\n") and '"answer": "yes"' in text for text in found)
    until(lambda: running.backend.under_way == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(start: Any, stream: bool) -> None:
    running = start()
    running.backend.holding.clear()
    body = {"messages": [{"role": "user", "content": COLOUR}], "stream": stream}
    if stream:
        with running.client.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()  # kept: a client that drops it has left
            assert "router" in next(lines)
            until(lambda: running.backend.under_way == 1)
    else:
        with pytest.raises(httpx2.TimeoutException):
            running.client.post("/v1/chat/completions", json=body, timeout=0.5)
    until(lambda: running.backend.cancelled == 1 and running.backend.under_way == 0)


def test_a_deadline_is_passed_on_and_never_longer_than_the_servers(start: Any) -> None:
    running = start(deadline=30.0)
    for given, meant in ((None, 30.0), ("2.5", 2.5), ("99", 30.0)):
        running.ask(headers={} if given is None else {"X-Router-Deadline": given})
        assert running.backend.asked[-1].deadline == meant
    for wrong in ("0", "-1", "soon", "nan", "inf"):
        assert running.ask(headers={"X-Router-Deadline": wrong}).status_code == 400


@pytest.mark.parametrize(
    ("error", "status"), [(Late("The deadline passed."), 504), (Failed("The model failed."), 500)]
)
def test_an_answer_that_fails_is_an_error(start: Any, error: RouterError, status: int) -> None:
    running = start()

    def fails(request: Request) -> str:
        raise error

    running.backend.says = fails
    found = running.ask()
    assert found.status_code == status and found.json()["error"]["message"] == str(error)
    events = running.ask(stream=True).text.split("\n\n")
    assert json.loads(events[-3][6:])["error"]["message"] == str(error) and events[-2] == "data: [DONE]"
    assert f'router_errors_total{{status="{status}"}} 2.0' in running.client.get("/metrics").text


def test_a_bug_gives_no_traceback(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    running = start()

    def breaks(request: Request) -> str:
        raise ZeroDivisionError("secret")

    running.backend.says = breaks
    found = running.ask()
    assert found.status_code == 500 and "secret" not in found.text
    assert running.backend.under_way == 0 and running.client.get("/healthz").status_code == 200


def test_readiness_says_why_not(start: Any) -> None:
    running = start()
    assert running.client.get("/readyz").json() == {"status": "ok"}
    running.backend.broken = "No replica answers."
    found = running.client.get("/readyz")
    assert found.status_code == 503 and found.json() == {"status": "No replica answers."}
    assert running.ask().status_code == 503 and running.client.get("/healthz").status_code == 200


def test_traffic_is_counted_by_specialist(start: Any) -> None:
    running = start()
    for question in (COLOUR, COLOUR, OTHER):
        running.ask(question)
    found = running.client.get("/stats").json()
    assert {name: one["requests"] for name, one in found["per_specialist"].items()} == {
        "base": 1,
        "colours": 2,
    }
    assert (found["requests"], found["tokens"], found["refused"]) == (3, 10, 0)
    assert sum(tokens for _, tokens in found["recent"]) == pytest.approx(10, abs=0.5)
    assert found["savings"]["dollars"] > 0
    text = running.client.get("/metrics").text
    assert 'router_requests_total{specialist="colours",status="answered"} 2.0' in text
    assert 'router_tokens_total{specialist="base"} 2.0' in text
    assert 'router_first_token_seconds_bucket{le="0.25",specialist="colours"} 2.0' in text
    (row,) = running.client.get("/specialists").json()
    assert (row["name"], row["served"], row["exemplars"]) == ("colours", 2, ["Which colours are warm?"])


def publish(folder: Path, version: str, name: str = "colours") -> None:
    card = Card(
        name=name,
        version=version,
        description="colours and their names",
        base="Qwen/Qwen2.5-Coder-0.5B-Instruct",
        base_weights="unknown",
        adapter=sha256(folder / "adapter_model.safetensors"),
        prompt="plain",
        parser="answer_line",
        exemplars=("Which colours are warm?",),
    )
    Store().publish(folder, card)


def test_what_is_registered_elsewhere_comes_on_duty(
    start: Any, tiny_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = start()
    running.backend.holding.clear()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(running.ask)
        until(lambda: running.backend.under_way == 1)
        publish(tiny_adapter("brighter"), "1.1.0")
        until(lambda: running.desk.versions["colours"].card.version == "1.1.0")
        until(lambda: list(running.backend.added) == ["colours@1.1.0"])
        running.backend.holding.set()
        assert old.result().json()["model"] == "colours@1.0.0"
    assert running.ask(model="colours").json()["model"] == "colours@1.1.0"
    assert running.ask(model="colours@1.0.0").json()["model"] == "colours@1.0.0"


def test_register_and_unregister_over_http(
    start: Any, tmp_path: Path, tiny_adapter: Callable[..., Path]
) -> None:
    key = "a" * 16
    (tmp_path / "keys").write_text(f"ops: {{key: {key}, admin: true}}")
    running = start(tmp_path / "keys")
    running.client.headers["Authorization"] = f"Bearer {key}"
    folder = Store().resolve("colours").path
    assert running.client.delete("/specialists/sounds").status_code == 404
    assert running.client.delete("/specialists/colours").json() == {"unregistered": "colours"}
    assert running.client.get("/specialists").json() == [] and running.backend.added == {}
    assert running.ask(model="colours").status_code == 404
    assert (
        running.client.post("/specialists", json={"path": str(folder)}).status_code == 400
    )  # its folder is gone
    publish(tiny_adapter("again"), "1.0.1")
    found = running.client.post("/specialists", json={"path": str(Store().resolve("colours").path)})
    assert found.status_code == 201 and found.json()["version"] == "1.0.1"
    assert running.ask(model="colours").json()["model"] == "colours@1.0.1"


def test_a_specialist_that_does_not_fit_is_left_out(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.router.serving import conftest  # type: ignore[import-not-found]

    backend = conftest.FakeBackend()

    async def refuses(version: Any) -> None:
        raise Damaged("It is for another base.")

    backend.add = refuses
    running = start(backend=backend)
    assert running.client.get("/specialists").json() == []
    assert running.client.get("/stats").json()["problems"] == [
        "colours@1.0.0 is left out: It is for another base."
    ]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("gone", [False, True])
def test_a_version_that_goes_before_its_turn(start: Any, stream: bool, gone: bool) -> None:
    running = start()
    failures = iter([True, gone])

    def says(request: Request) -> str:
        if next(failures):
            if gone:
                Store().unregister("colours")
            raise Damaged("The adapter was changed or removed after it was added; add it again.")
        return "Answer: yes"

    async def add(version: Any) -> None:
        if not version.path.exists():
            raise Damaged("It is not there.")

    running.backend.says, running.backend.add = says, add
    running.backend.added["colours@1.0.0"] = Store().resolve("colours")
    found = running.ask(stream=stream)
    if gone:
        assert "colours@1.0.0 was unregistered before its turn came" in found.text
        assert stream or found.status_code == 404
    else:
        assert '"answer":"yes"' in found.text.replace(" ", "") and found.status_code == 200


def test_stopping_answers_what_is_under_way(start: Any) -> None:
    running = start()
    running.backend.holding.clear()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(running.ask()))
    thread.start()
    until(lambda: running.backend.under_way == 1)
    running.desk.stop()
    assert running.client.get("/readyz").status_code == 503
    refused = running.ask()
    assert refused.status_code == 503 and refused.headers["retry-after"]
    running.backend.holding.set()
    thread.join(10)
    assert found[0].status_code == 200
