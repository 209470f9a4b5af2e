"""Who may ask what, how often, from where; and what the log says of it."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pytest

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"
PAYROLL, ADMIN, SLOW = ("k" * 16, "a" * 16, "s" * 16)
KEYS = f"""
payroll: {{key: {PAYROLL}, specialists: [dates]}}
operations: {{key: {ADMIN}, admin: true}}
slow: {{key: {SLOW}, requests_per_minute: 2}}
"""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(KEYS)
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers", [{}, bearer("x" * 16), {"Authorization": "Bearer"}, {"Authorization": f"Basic {ADMIN}"}]
)
def test_nobody_without_a_key_is_answered(start: Any, keys: Path, headers: dict[str, str]) -> None:
    running = start(keys)
    for method, path in (
        ("POST", "/v1/chat/completions"), ("GET", "/v1/models"), ("POST", "/route"), ("GET", "/specialists"),
        ("GET", "/stats"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("DELETE", "/specialists/colours"),
    ):  # fmt: skip
        found = running.client.request(method, path, headers=headers)
        assert found.status_code == 401 and found.headers["www-authenticate"] == "Bearer"
        assert "key" in found.json()["error"]["message"]
    assert running.client.get("/healthz").status_code == running.client.get("/").status_code == 200


def test_a_tenant_asks_only_its_own_specialists(start: Any, keys: Path) -> None:
    running = start(keys)
    found = running.ask(model="colours", headers=bearer(PAYROLL))
    assert found.status_code == 403 and "may not ask 'colours'" in found.json()["error"]["message"]
    found = running.ask(headers=bearer(PAYROLL))  # routed there, so the base answers
    assert found.status_code == 200 and found.headers["x-router-specialist"] == "none"
    assert "this key may not ask it" in found.json()["router"]["reason"]
    assert running.client.get("/specialists", headers=bearer(PAYROLL)).json() == []
    models = running.client.get("/v1/models", headers=bearer(PAYROLL)).json()["data"]
    assert [model["id"] for model in models] == ["auto", "base"]
    assert running.ask(headers=bearer(ADMIN)).headers["x-router-specialist"] == "colours"


def test_too_many_requests_are_told_when_to_come_back(start: Any, keys: Path) -> None:
    running = start(keys)
    for _ in range(2):
        assert running.ask(headers=bearer(SLOW)).status_code == 200
    found = running.ask(headers=bearer(SLOW))
    assert found.status_code == 429 and 1 <= int(found.headers["retry-after"]) <= 30
    assert "2 requests a minute" in found.json()["error"]["message"]
    assert running.ask(headers=bearer(ADMIN)).status_code == 200  # nobody else is held up


@pytest.mark.parametrize("key", [PAYROLL, SLOW])
def test_only_an_admin_changes_what_is_registered(start: Any, keys: Path, key: str) -> None:
    running = start(keys)
    assert running.client.delete("/specialists/colours", headers=bearer(key)).status_code == 403
    found = running.client.post("/specialists", json={"path": "x"}, headers=bearer(key))
    assert found.status_code == 403 and "admin" in found.json()["error"]["message"]
    assert "colours" in running.desk.versions


def test_without_keys_nobody_changes_what_is_registered(start: Any) -> None:
    running = start()
    assert running.client.delete("/specialists/colours").status_code == 403


def test_a_server_without_keys_answers_to_its_own_names_and_pages_only(start: Any) -> None:
    running = start(hosts=frozenset({"127.0.0.1"}))
    get = running.client.get
    assert get("/v1/models").status_code == 200
    assert get("/v1/models", headers={"Host": "127.0.0.1:9"}).status_code == 200
    assert get("/v1/models", headers={"Host": "evil.example"}).status_code == 403
    assert get("/v1/models", headers={"Origin": "http://evil.example"}).status_code == 403
    assert get("/v1/models", headers={"Origin": running.url}).status_code == 200


def test_every_answer_has_an_id(start: Any) -> None:
    running = start()
    assert running.ask(headers={"X-Request-ID": "mine-1"}).headers["x-request-id"] == "mine-1"
    made = [
        running.ask(headers={"X-Request-ID": given}).headers["x-request-id"] for given in ("", "a b", "<" * 9)
    ]
    assert len(set(made)) == 3 and all(one.isalnum() for one in made)


def test_a_body_that_is_too_large_is_not_read(start: Any) -> None:
    running = start()
    found = running.ask("x" * (1 << 20))
    assert found.status_code == 413 and found.json()["error"]["message"].endswith("shorten it.")

    def chunks() -> Any:
        for _ in range(20):
            yield b"x" * (1 << 16)

    found = running.client.post("/v1/chat/completions", content=chunks())
    assert found.status_code in (400, 413)
    assert running.ask().status_code == 200


def lines(caplog: pytest.LogCaptureFixture, count: int) -> list[Any]:
    """What was logged of so many requests, which is written after their answers."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = [record.message for record in caplog.records if record.name == "router.requests"]
        if len(found) == count:
            break
        time.sleep(0.01)
    return [json.loads(one) for one in found]


def test_the_log_has_a_line_a_request_and_no_question(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router.requests")
    running = start()
    running.ask(OTHER, headers={"X-Request-ID": "one"})
    running.ask(COLOUR, stream=True)
    running.client.get("/nowhere")
    first, second, third = lines(caplog, 3)
    assert first["id"] == "one" and first["status"] == 200 and first["specialist"] is None
    assert (first["outcome"], first["tokens"]) == ("handed_on", 2)
    assert (second["specialist"], second["outcome"]) == ("colours", "answered")
    assert third["status"] == 404
    assert "Ada" not in caplog.text and COLOUR not in caplog.text


def test_questions_are_logged_when_asked_for(start: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "router.requests")
    start(log_questions=True).ask(OTHER)
    assert lines(caplog, 1)[0]["question"] == OTHER
