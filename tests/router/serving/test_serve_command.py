"""`router serve` as a process: it says where it is, answers, and ends when told to with everything answered."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from router.ledger import Ledger

from ..messages_server import MessagesServer
from .conftest import until

LONG = {"model": "base", "max_tokens": 3000, "messages": [{"role": "user", "content": "x"}]}


class Served:
    """A process that serves, what it has said, and where it is."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "router.cli", "serve", "--port", "0", *args],
            stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        end = time.monotonic() + 60
        while not (found := re.search(r"at (http://\S+);", "".join(self.said))):
            assert self.process.poll() is None and time.monotonic() < end, self.said
            time.sleep(0.02)
        self.url = found[1]

    def _read(self) -> None:
        assert self.process.stderr
        self.said.extend(self.process.stderr)

    def end(self, sig: int, seconds: float = 30) -> int:
        self.process.send_signal(sig)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def requests(self) -> list[Any]:
        return [json.loads(line) for line in self.said if line.startswith("{")]


Begin = Callable[..., Served]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Start servers, which have ended when the test has."""
    started: list[Served] = []

    def one(*args: str) -> Served:
        started.append(Served(*args))
        return started[-1]

    yield one
    for served in started:
        if served.process.poll() is None:
            served.process.kill()


@pytest.fixture
def served(begin: Begin, tiny_base: Path) -> Served:
    return begin("--base", str(tiny_base), "--fallback", "base")


def test_it_drains_when_told_to_end(served: Served, tmp_path: Path) -> None:
    announced = tmp_path / "home" / "server.json"
    assert json.loads(announced.read_text())["url"] == served.url
    assert httpx2.get(f"{served.url}/").text.startswith("<!doctype html>")
    code: list[int] = []
    ending = threading.Thread(target=lambda: code.append(served.end(signal.SIGTERM)))
    with httpx2.stream(
        "POST", f"{served.url}/v1/chat/completions", json={**LONG, "stream": True}, timeout=60
    ) as it:
        lines = it.iter_lines()
        next(lines)
        ending.start()
        rest = "\n".join(lines)
    ending.join(60)
    assert '"finish_reason": "length"' in rest or '"finish_reason": "stop"' in rest
    assert rest.rstrip().endswith("[DONE]")
    assert code == [0] and not announced.exists()
    (request,) = [one for one in served.requests() if one["path"] == "/v1/chat/completions"]
    assert request["outcome"] in ("handed_on", "truncated") and request["tokens"] > 100
    assert "Traceback" not in "".join(served.said)


def test_a_second_interrupt_ends_it_at_once(served: Served) -> None:
    with httpx2.stream(
        "POST", f"{served.url}/v1/chat/completions", json={**LONG, "stream": True}, timeout=60
    ) as it:
        lines = it.iter_lines()  # kept: a client that drops it has left
        next(lines)
        begun = time.monotonic()
        served.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert served.end(signal.SIGINT) == 130
        assert time.monotonic() - begun < 10
    assert "Traceback" not in "".join(served.said)


@pytest.mark.parametrize(("ends", "code"), [([signal.SIGTERM], 0), ([signal.SIGINT, signal.SIGINT], 130)])
def test_claude_is_waited_for_unless_it_is_told_twice(
    ends: list[int], code: int, begin: Begin, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MessagesServer() as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        api.say("A mathematician.", delay=2.0)
        served = begin("--base", str(tiny_base), "--fallback", "claude", "--budget", "0.5")
        assert "goes to claude-haiku-5-5, for at most $0.50 a day" in "".join(served.said)
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(status(f"{served.url}/v1/chat/completions")))
        asking.start()
        until(lambda: api.requests)
        begun = time.monotonic()
        for one in ends[:-1]:
            served.process.send_signal(one)
            time.sleep(0.3)
        assert served.end(ends[-1]) == code
        took = time.monotonic() - begun
        asking.join(10)
    assert "Traceback" not in "".join(served.said)
    charges = Ledger().charges()[0]
    if code:
        assert took < 1.5 and found[0] != 200
    else:
        assert took > 1 and found[0] == 200
        assert [charge.run.rpartition(" ")[0] for charge in charges] == ["serve 0"]


def status(url: str) -> int:
    """The status of an answer to a question that fits nobody, 0 for none."""
    body = {"messages": [{"role": "user", "content": "Who was Ada Lovelace?"}]}
    try:
        return httpx2.post(url, json=body, timeout=20).status_code
    except httpx2.HTTPError:
        return 0


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (["--host", "0.0.0.0"], "needs --keys FILE"),
        (["--host", "::"], "needs --keys FILE"),
        (["--host", "example.org"], "needs --keys FILE"),
        (["--keys", "none.yaml"], "Could not read the keys"),
        (["--engine", "vllm"], "needs --engine-url URL"),
        (["--engine-url", "http://127.0.0.1:1"], "with --engine vllm only"),
        (
            ["--engine", "vllm", "--engine-url", "http://127.0.0.1:1", "--precision", "bf16"],
            "choose base and precision",
        ),
        (["--engine-path", "a=b"], "with --engine vllm only"),
        (
            ["--engine", "vllm", "--engine-url", "http://127.0.0.1:1", "--engine-path", "a"],
            "is not HERE=THERE",
        ),
        (["--engine", "vllm", "--engine-url", "ftp://x"], "ftp://x"),
        (["--engine", "vllm", "--engine-url", "http://127.0.0.1:1"], "127.0.0.1:1"),
        (["--base", "nowhere"], "nowhere"),
        (["--fallback", "claude"], "set ANTHROPIC_API_KEY"),
        (["--fallback", "claude", "--claude-model", "claude-1"], "no price"),
        (["--budget", "1"], "--fallback claude only"),
    ],
)
def test_what_cannot_be_served_is_refused(run: Any, args: list[str], why: str) -> None:
    found = run("serve", "--port", "0", *args)
    assert found.exit_code != 0 and why in found.output


def test_a_port_that_is_taken(run: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = run("serve", "--port", str(taken.getsockname()[1]))
    assert "Could not listen on" in found.output


def test_without_the_extra_it_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'specialist-router[serve]'" in run("serve").output
