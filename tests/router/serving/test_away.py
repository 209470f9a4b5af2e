"""Questions that fit no specialist, put to Claude by a server: who may, what it costs, and what a client is told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from router.ledger import Ledger, Usage, dollars
from router.serving import away as aways
from router.serving.away import Away
from specialists.prompts import PROMPTS

from ..messages_server import MessagesServer
from .conftest import COLOUR, OTHER, Running, until

HAIKU = "claude-haiku-5-5"
PRICE = dollars(HAIKU, Usage(10, 5))
KEYS = """
reader: {key: rrrrrrrrrrrrrrrr, specialists: [colours]}
writer: {key: wwwwwwwwwwwwwwww, specialists: [claude]}
"""


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesServer]:
    with MessagesServer() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        yield server


@pytest.fixture
def running(start: Callable[..., Running], api: MessagesServer) -> Running:
    return start(fallback="claude", away=Away(None, None, "8000", 10))


def client_of(running: Running) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def counted(running: Running, line: str) -> bool:
    return re.search(f"^{re.escape(line)}$", running.client.get("/metrics").text, re.M) is not None


def test_what_fits_nobody_is_answered_by_claude_and_the_rest_here(
    running: Running, api: MessagesServer
) -> None:
    api.say("A mathematician.")
    raw = client_of(running).chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": OTHER}], max_tokens=77
    )
    found = raw.parse()
    assert (found.model, found.choices[0].message.content) == (HAIKU, "A mathematician.")
    assert found.usage is not None and (found.usage.prompt_tokens, found.usage.completion_tokens) == (10, 5)
    assert raw.headers["x-router-specialist"] == "none"
    said = found.model_extra["router"]  # type: ignore[index]
    assert (said["status"], said["model"], said["dollars"]) == ("handed_on", HAIKU, round(PRICE, 9))
    assert running.ask(COLOUR).json()["model"] == "colours@1.0.0"
    assert running.ask(OTHER, model="base").json()["model"] == "base"
    (sent,) = api.requests
    assert sent["max_tokens"] == 77 and sent["messages"] == [{"role": "user", "content": OTHER}]
    assert sent["system"][0]["text"] == PROMPTS["plain"]
    assert [request.adapter for request in running.backend.asked] == ["colours@1.0.0", None]


def test_claude_sees_the_whole_conversation(running: Running, api: MessagesServer) -> None:
    told = [("developer", "Be brief."), ("user", "Hello"), ("assistant", "Hi."), ("user", OTHER)]
    body = {"messages": [{"role": role, "content": text} for role, text in told]}
    assert running.client.post("/v1/chat/completions", json=body).status_code == 200
    (sent,) = api.requests
    assert [message["role"] for message in sent["messages"]] == ["user", "assistant", "user"]
    assert sent["system"][0]["text"] == "Be brief."


def test_a_stream_has_it_in_one_piece(running: Running, api: MessagesServer) -> None:
    api.say("A mathematician.")
    lines = running.ask(OTHER, stream=True).text.split("\n\n")[:-2]
    first, piece, last = (json.loads(line[6:]) for line in lines)
    assert (
        first["router"]["specialist"] is None and first["model"] == piece["model"] == last["model"] == HAIKU
    )
    assert piece["choices"][0]["delta"] == {"content": "A mathematician."}
    assert last["choices"][0]["finish_reason"] == "stop" and last["router"]["dollars"] == round(PRICE, 9)


def test_the_same_question_is_paid_once(running: Running, api: MessagesServer) -> None:
    assert [running.ask(OTHER).json()["router"]["dollars"] for _ in range(2)] == [round(PRICE, 9), 0]
    assert len(api.requests) == len(Ledger().charges()[0]) == 1


@pytest.mark.parametrize(
    ("text", "stop", "status", "finish", "said", "refusal"),
    [
        ("She was", "max_tokens", "truncated", "length", "She was", None),
        (
            "I must not",
            "refusal",
            "refused",
            "stop",
            "",
            f"{HAIKU} declined to answer; rephrase the question.",
        ),
    ],
)
def test_how_an_answer_ends(
    text: str,
    stop: str,
    status: str,
    finish: str,
    said: str,
    refusal: str | None,
    running: Running,
    api: MessagesServer,
) -> None:
    api.say(text, stop)
    found = running.ask(OTHER).json()
    (choice,) = found["choices"]
    assert (found["router"]["status"], choice["finish_reason"]) == (status, finish)
    assert choice["message"] == {"role": "assistant", "content": said, "refusal": refusal}
    lines = running.ask(OTHER, stream=True).text.split("\n\n")[:-2]  # kept, so that it is not asked again
    deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines]
    assert "".join(delta.get("content", "") for delta in deltas) == said
    assert deltas[-1] == ({"refusal": refusal} if refusal else {})


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (lambda api: api.fail(401), 503, "key"),
        (lambda api: api.fail(400, "messages: no"), 400, "messages: no"),
        (lambda api: api.send(200, b"hello"), 503, "no answer of the Messages API"),
    ],
)
def test_a_failing_api_is_one_sentence(
    fault: Callable[[MessagesServer], Any], status: int, said: str, running: Running, api: MessagesServer
) -> None:
    fault(api)
    found = running.ask(OTHER)
    assert found.status_code == status and said in found.json()["error"]["message"]
    fault(api)
    assert said in running.ask(OTHER, stream=True).text
    assert running.ask(COLOUR).status_code == 200 and Ledger().charges() == ([], 0)


def test_the_budget_is_of_a_day_and_outlives_the_server(
    start: Callable[..., Running], api: MessagesServer
) -> None:
    now = datetime(2026, 11, 30, 23, 59, tzinfo=UTC)
    times = [now]
    budget = 1.9 * dollars(HAIKU, Usage(0, 100)) + PRICE  # a second call of 100 tokens could go beyond it

    def away(place: str = "8000") -> Away:
        return Away(None, budget, place, 10, lambda: times[0])

    def asked(running: Running, question: str) -> str:
        return str(running.ask(question, max_tokens=100).json()["router"]["status"])

    api.say(input_tokens=10, output_tokens=100)
    first = start(fallback="claude", away=away())
    assert asked(first, OTHER) == "handed_on"
    assert asked(first, f"{OTHER} Really?") == "refused"
    again = start(fallback="claude", away=away())  # the server was started again
    found = again.ask(f"{OTHER} Really?", max_tokens=100).json()
    assert found["model"] == HAIKU and "raise --budget" in found["choices"][0]["message"]["refusal"]
    assert asked(start(fallback="claude", away=away("8001")), f"{OTHER} On another port?") == "handed_on"
    times[0] += timedelta(minutes=1)
    assert asked(again, f"{OTHER} Really?") == "handed_on"
    assert [charge.run for charge in Ledger().charges()[0]] == [
        "serve 8000 2026-11-30", "serve 8001 2026-11-30", "serve 8000 2026-12-01"
    ]  # fmt: skip


def test_only_keys_that_say_so_may_spend(
    start: Callable[..., Running], api: MessagesServer, tmp_path: Path
) -> None:
    (tmp_path / "keys.yaml").write_text(KEYS)
    running = start(keys=tmp_path / "keys.yaml", fallback="claude", away=Away(None, None, "8000", 10))

    def by(key: str, question: str) -> Any:
        return running.ask(question, headers={"Authorization": f"Bearer {key * 16}"}).json()

    def fallback(key: str) -> Any:
        return running.client.get("/stats", headers={"Authorization": f"Bearer {key * 16}"}).json()[
            "fallback"
        ]

    assert by("r", OTHER)["model"] == fallback("r") == "base" and not api.requests
    assert by("w", OTHER)["model"] == fallback("w") == HAIKU
    assert by("w", COLOUR)["model"] == HAIKU  # it fits colours, which this key may not ask
    assert "this key may not ask it" in by("w", COLOUR)["router"]["reason"]


def test_metrics_and_savings_tell_what_was_paid(running: Running, api: MessagesServer) -> None:
    running.ask(OTHER)
    stats = running.client.get("/stats").json()
    assert stats["spent"] == round(PRICE, 9) and stats["savings"]["dollars"] == 0
    assert stats["per_specialist"]["claude"]["requests"] == 1
    assert counted(running, 'router_requests_total{specialist="claude",status="handed_on"} 1.0')
    assert counted(running, f"router_dollars_total {PRICE!r}")
    running.ask(COLOUR)
    stats = running.client.get("/stats").json()
    assert stats["spent"] == round(PRICE, 9) and stats["savings"]["dollars"] > 0


def test_the_log_says_what_was_paid_and_not_what_was_asked(
    running: Running, api: MessagesServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "router.requests"):
        running.ask(OTHER)
        until(lambda: caplog.records)
    (line,) = caplog.messages
    assert json.loads(line)["dollars"] == round(PRICE, 9) and json.loads(line)["model"] == HAIKU
    assert "Lovelace" not in line


def test_a_deadline_passes_while_claude_thinks(running: Running, api: MessagesServer) -> None:
    api.say("Late.", delay=1.0)
    found = running.ask(OTHER, headers={"X-Router-Deadline": "0.2"})
    assert found.status_code == 504 and "within the 0.2 s allowed" in found.json()["error"]["message"]
    until(lambda: Ledger().charges()[0])  # it was paid, and is kept
    assert running.ask(OTHER).json()["router"]["text"] == "Late." and len(api.requests) == 1


def test_too_many_are_told_to_come_again(
    start: Callable[..., Running], api: MessagesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aways, "CALLS", 1)
    running = start(fallback="claude", away=Away(None, 1.0, "8000", 1))
    api.say("First.", delay=1.0).say("Second.")
    found: list[Any] = []
    asking = [
        threading.Thread(target=lambda one=one: found.append(running.ask(f"{OTHER} {one}"))) for one in "ab"
    ]
    for one in asking:
        one.start()
    until(lambda: running.client.get("/stats").json()["under_way"] == 2)
    busy = running.ask(OTHER)
    assert busy.status_code == 429 and busy.headers["retry-after"] == "1"
    assert running.ask(COLOUR).status_code == 200  # nobody here waits for them
    for one in asking:
        one.join()
    assert sorted(one.json()["router"]["text"] for one in found) == ["First.", "Second."]
    until(lambda: running.client.get("/stats").json()["under_way"] == 0)


def test_a_client_that_leaves_frees_its_place(running: Running, api: MessagesServer) -> None:
    api.say("Nobody hears this.", delay=0.5)
    with running.client.stream(
        "POST",
        "/v1/chat/completions",
        json={"messages": [{"role": "user", "content": OTHER}], "stream": True},
    ) as it:
        next(it.iter_lines())
        until(lambda: running.desk.load().under_way == 1)
    until(lambda: running.desk.load().under_way == 0, 0.4)
    until(lambda: Ledger().charges()[0])
    assert running.ask(OTHER).json()["router"]["dollars"] == 0  # what was paid is there for the next
