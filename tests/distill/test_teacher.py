"""Teachers behind one protocol: who they are, what they keep, and what they say when they cannot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill import teacher_url
from distill.solve import most_tokens, prompts, solve
from distill.teacher import Prompt
from distill.teacher_url import Url
from distill.teachers import ClaudeTeacher, Local, Solver, open_teacher
from router.engine.base import find_base
from router.engine.engine import Engine
from router.ledger import Ledger
from specialists.domain import Domain, items, load
from specialists.errors import BadInput, Unavailable

from .chat_server import ChatServer


@pytest.fixture
def domain() -> Domain:
    return load("scheduling:half-hour")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Waiting takes no time; what was waited is listed."""
    waits: list[float] = []
    monkeypatch.setattr(teacher_url.time, "sleep", waits.append)
    return waits


def test_each_spec_opens_its_teacher(domain: Domain, tiny_base: Path) -> None:
    assert isinstance(open_teacher("solver", domain, "r"), Solver)
    claude = open_teacher("claude:claude-opus-5-5", domain, "r", 1.0, batch=True)
    assert isinstance(claude, ClaudeTeacher) and claude.id == "claude-opus-5-5" and claude.batch
    assert open_teacher("claude", domain, "r").id == "claude-haiku-5-5"
    assert open_teacher("http://h/v1#m", domain, "r").id == "http://h/v1#m"
    local = open_teacher(f"local:{tiny_base}", domain, "r")
    assert isinstance(local, Local) and local.id.startswith("qwen2@")
    for spec, says in {
        "gpt": "no teacher 'gpt'",
        "claude:none": "no price for the model",
        "http://h/v1": "#MODEL",
    }.items():
        with pytest.raises(BadInput, match=says):
            open_teacher(spec, domain, "r")


def test_the_solver_solves_and_does_nothing_else(domain: Domain) -> None:
    tasks = items(domain, "dev", 5)
    assert all(one.right for one in solve(Solver(domain), domain, tasks, "", "x"))
    with pytest.raises(BadInput, match="only solves; choose --teacher local or claude"):
        Solver(domain).ask([Prompt("", "Write a poem.", 9)], "x")


def test_a_local_teacher_answers_as_the_engine_and_only_once(
    domain: Domain, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    teacher, tasks = Local(engine, "run"), items(domain, "dev", 3)
    some = [Prompt("s", task.question, 6, task) for task in tasks]
    first = teacher.ask(some, "examples")
    assert all(
        reply.ended == "max_tokens" and not reply.cached and reply.usage.output == 6 for reply in first
    )
    monkeypatch.setattr(engine, "generate", None)  # asked again it would fail
    again = Local(engine, "run").ask([some[1], some[0]], "examples")
    assert [reply.text for reply in again] == [first[1].text, first[0].text] and again[0].cached
    totals = Ledger().totals("run")
    assert totals.calls == 3 and totals.dollars == 0 and totals.usage.output == 18
    assert {charge.model for charge in Ledger().charges()[0]} == {teacher.id}


def test_an_adapter_makes_another_teacher(domain: Domain, tiny_base: Path, tiny_adapter: Any) -> None:
    folder = tiny_adapter("a", scale=1.0)
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    plain, tuned = Local(engine, "r"), Local(engine, "r", folder)
    assert tuned.id.startswith(plain.id + "+")
    prompt = [Prompt("s", "Which?", 8)]
    assert plain.ask(prompt, "x")[0].text != tuned.ask(prompt, "x")[0].text


def test_a_url_is_asked_once_for_each_prompt(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k1")
    tasks = items(domain, "dev", 4)
    by_question = {task.question: domain.worked(task) for task in tasks}
    with ChatServer(lambda request: by_question[request["messages"][1]["content"]]) as server:
        teacher = Url(f"{server.url}/v1#small", "run")
        assert all(one.right for one in solve(teacher, domain, tasks, "Sweep.", "examples"))
        assert all(one.right for one in solve(teacher, domain, tasks[::-1], "Sweep.", "examples"))
        assert len(server.requests) == 4 and server.keys == ["Bearer k1"] * 4
        first = server.requests[0]
        assert (
            first["model"] == "small"
            and first["temperature"] == 0
            and first["max_tokens"] == most_tokens(domain)
        )
        assert "Sweep." in first["messages"][0]["content"]
    assert Ledger().totals("run").usage.input == 28


def test_a_busy_server_is_asked_again_when_it_says(domain: Domain, quick: list[float]) -> None:
    with ChatServer(lambda _: "ok") as server:
        server.trouble.extend([(429, {"retry-after": "7"}), (500, {}), (0, {})])
        (reply,) = Url(f"{server.url}/v1#m", "r").ask([Prompt("", "a", 5)], "x")
    assert reply.text == "ok" and quick == [7.0, 2.0, 4.0]


def test_what_a_server_cannot_do_is_one_sentence(domain: Domain) -> None:
    (prompt,) = prompts(domain, items(domain, "dev", 1))
    with ChatServer(lambda _: "ok") as server:
        teacher = Url(f"{server.url}/v1#m", "r")
        server.trouble.extend([(503, {})] * 4)
        with pytest.raises(Unavailable, match="no answer in 4 tries .503.*see whether it runs"):
            teacher.ask([prompt], "x")
        server.trouble.append((400, {}))
        with pytest.raises(BadInput, match="did not take the request .400"):
            teacher.ask([prompt], "x")
        server.finish = "length"
        assert teacher.ask([prompt], "x")[0].truncated
    with pytest.raises(Unavailable, match="no answer in 4 tries"):
        Url("http://127.0.0.1:9/v1#m", "r").ask([Prompt("", "b", 5)], "x")
    with ChatServer(lambda _: None) as server:  # type: ignore[arg-type,return-value]
        server.respond = lambda _: 7  # type: ignore[assignment,return-value]
        with pytest.raises(Unavailable, match="no chat completion; check that the address"):
            Url(f"{server.url}/v1#m", "r").ask([Prompt("", "c", 5)], "x")
