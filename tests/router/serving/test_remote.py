"""ask, route and chat with a server that runs on this machine."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from router.serving.announce import Announcement, announced_in, read
from specialists.paths import home

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"
KEY = "k" * 16


@pytest.fixture
def running(start: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    running = start()
    with Announcement(running.url, needs_key=False):
        yield running


def here(served: Any) -> int:
    """How many questions were answered in this process."""
    return len(served.requests)


def test_ask_and_route_are_answered_by_the_server(running: Any, served: Any, run: Any) -> None:
    found = run("ask", COLOUR)
    assert (found.exit_code, found.stdout) == (0, "yes\n")
    found = run("ask", "--json", COLOUR)
    answer = json.loads(found.stdout)
    assert (answer["specialist"], answer["answer"], answer["status"], answer["tokens"]) == (
        "colours",
        "yes",
        "answered",
        4,
    )
    assert answer["exemplars"][0]["text"] == "Which colours are warm?"
    found = run("ask", OTHER)
    assert (found.exit_code, found.stdout) == (0, "A poet.\n") and "the base answers" in found.stderr
    assert json.loads(run("route", "--json", COLOUR).stdout)["specialist"] == "colours"
    assert run("ask", "--specialist", "base", COLOUR).stdout == "A poet.\n"
    assert run("ask", "--fallback", "none", OTHER).exit_code == 3
    assert running.url in run("ask", "--explain", COLOUR).stderr
    assert here(served) == 0 and len(running.backend.asked) == 5


def test_lines_are_answered_in_order(running: Any, run: Any) -> None:
    found = run("ask", "-", input="\n".join([OTHER, COLOUR, "", OTHER, COLOUR] * 4))
    answers = [json.loads(line)["status"] for line in found.stdout.splitlines()]
    assert answers == ["handed_on", "answered", "refused", "handed_on", "answered"] * 4


def test_chat_keeps_its_turns(running: Any, run: Any) -> None:
    found = run("chat", input=f"{OTHER}\n{COLOUR}\nAnd her father?\n")
    assert found.stdout == "A poet.\nyes\nA poet.\n"
    assert [message["content"] for message in running.backend.asked[-1].messages[1:]] == [
        OTHER, "A poet.", COLOUR, "It is warm.\nAnswer: yes", "And her father?"
    ]  # fmt: skip


@pytest.mark.parametrize("option", [["--no-server"], ["--precision", "bf16"], ["--base", "models/one"]])
def test_it_answers_here_when_told_to(running: Any, served: Any, run: Any, option: list[str]) -> None:
    served.queue("Answer: here")
    assert run("ask", *option, COLOUR).stdout == "here\n"
    assert running.backend.asked == []


def test_a_server_that_needs_a_key_is_used_with_one(
    start: Any,
    served: Any,
    run: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "keys").write_text(f"a: {{key: {KEY}}}")
    running = start(tmp_path / "keys")
    with Announcement(running.url, needs_key=True):
        served.queue("Answer: here")
        assert run("ask", COLOUR).stdout == "here\n"
        monkeypatch.setenv("ROUTER_API_KEY", KEY)
        assert run("ask", COLOUR).stdout == "yes\n"
        monkeypatch.setenv("ROUTER_API_KEY", "x" * 16)
        found = run("ask", COLOUR)
        assert found.exit_code == 1 or found.exit_code == 3
        assert "not known" in found.output


def test_a_server_that_is_not_ready_or_gone_is_not_used(running: Any, served: Any, run: Any) -> None:
    running.backend.broken = "No replica answers."
    served.queue("Answer: here")
    assert run("ask", COLOUR).stdout == "here\n"


@pytest.mark.parametrize(
    "said",
    [
        "",
        "{",
        "[]",
        '{"url": "http://127.0.0.1:1", "needs_key": false}',
        '{"url": "http://127.0.0.1:1", "needs_key": false, "pid": "x"}',
        '{"url": "http://127.0.0.1:1", "needs_key": false, "pid": 999999999}',
        f'{{"url": "http://127.0.0.1:1", "needs_key": false, "pid": {os.getpid()}}}',
        f'{{"url": "nonsense", "needs_key": false, "pid": {os.getpid()}}}',
    ],
)
def test_a_stale_announcement_costs_nothing(said: str, served: Any, run: Any) -> None:
    home().mkdir(parents=True, exist_ok=True)
    announced_in().write_text(said)
    served.queue("Answer: here")
    assert run("ask", COLOUR).stdout == "here\n"


def test_a_server_that_stops_in_the_middle_is_an_error(running: Any, run: Any) -> None:
    from router.engine.loop import Failed

    def fails(request: Any) -> str:
        raise Failed("The model failed.")

    running.backend.says = fails
    found = run("ask", COLOUR)
    assert found.exit_code == 5 and "The model failed." in found.output and "Traceback" not in found.output


def test_an_announcement_goes_with_its_server() -> None:
    with Announcement("http://127.0.0.1:1", needs_key=False):
        with Announcement("http://127.0.0.1:2", needs_key=True):
            assert (found := read()) and (found["url"], found["needs_key"]) == ("http://127.0.0.1:2", True)
        assert read() is None
    assert not announced_in().exists()
