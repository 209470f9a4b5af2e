"""A whole run on a tiny base: every stage, killed and started again, and the same bytes at the end."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Done

from distill import pipeline as module
from distill.config import TrainConfig
from distill.examples import read_jsonl
from distill.pipeline import Pipeline
from distill.plan import ABLATIONS, Plan
from distill.solve import system_prompt
from registry.card import Card
from registry.register import register
from registry.store import Store
from router.ledger import Ledger
from specialists.domain import Domain, items, load, method
from specialists.errors import BadInput

from .chat_server import ChatServer
from .teachers import BAD, GOOD, solution

NAME = "scheduling:half-hour"
CONFIG = TrainConfig(rank=2, alpha=4, epochs=1)


@pytest.fixture
def plan(tiny_base: Path) -> Plan:
    return Plan(NAME, examples=4, problems=10, dev=30, checks=0, n=4, base=str(tiny_base), config=CONFIG)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends its answers: let it write few tokens."""
    monkeypatch.setattr(module.Pipeline, "most", property(lambda self: 12))


def test_the_solver_teaches_a_student_and_the_report_says_so(plan: Plan, tmp_path: Path) -> None:
    said: list[str] = []
    sizes = ("1", "2:q_proj,v_proj")
    every = replace(plan, seeds=2, curve=(2,), sizes=sizes, ablations=ABLATIONS, among=20)
    result = Pipeline(every, tmp_path / "run", say=said.append, command="router distill run ...").run()
    names = list(result.arms)
    trained = [
        "specialist seed 0",
        "specialist seed 1",
        "2 examples",
        "size 1",
        "size 2:q_proj,v_proj",
        "answers-only",
    ]
    assert names == [*trained, "base", "strategy-prompt", "nonsense-prompt"]
    assert {arm.result.n for arm in result.arms.values()} == {4}
    assert any("no-strategy: the solver" in line for line in said)
    rows = read_jsonl(tmp_path / "run" / "data" / "examples.jsonl")
    assert len(rows) == 4 and {row.source["teacher"] for row in rows} == {"solver"}
    domain = load(NAME)
    strategy_prompt = next(
        arm for arm in Pipeline(every, tmp_path / "run").arms() if arm.name == "strategy-prompt"
    )
    assert strategy_prompt.prompt == system_prompt(domain, method(domain))
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "router distill run ..." in page and "answers-only" in page and "<svg" in page
    assert len(result.training) == 6 and [point.examples for point in result.learning] == [4, 4, 2]
    assert [(point.rank, len(point.targets)) for point in result.sizes] == [(2, 7), (2, 7), (1, 7), (2, 2)]
    assert result.sizes[3].bytes < result.sizes[2].bytes < result.sizes[0].bytes
    store = Store(tmp_path / "store", bundled=None)
    version = register(store, tmp_path / "run" / "train" / "specialist-seed-1")
    assert (
        version.card.report and version.card.report["n"] == 4 and version.card.lineage["teacher"] == "solver"
    )
    json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))


def test_a_run_of_another_plan_is_not_gone_on_with(plan: Plan, tmp_path: Path) -> None:
    Pipeline(plan, tmp_path).run()
    with pytest.raises(BadInput, match="another n, seeds; give the same"):
        Pipeline(replace(plan, n=5, seeds=3), tmp_path).run()
    with pytest.raises(BadInput, match="'x:q_proj' is no size"):
        Pipeline(replace(plan, sizes=("x:q_proj",)), tmp_path)
    with pytest.raises(BadInput, match="no ablation sparkle"):
        Pipeline(replace(plan, ablations=("sparkle",)), tmp_path)


def test_a_run_is_given_more_arms_and_trains_no_adapter_twice(plan: Plan, tmp_path: Path) -> None:
    Pipeline(plan, tmp_path).run()
    weights = tmp_path / "train" / "specialist" / "adapter_model.safetensors"
    facts = weights.with_name("training.json")
    before = weights.stat().st_mtime_ns, facts.stat().st_mtime_ns
    seconds = json.loads((tmp_path / "5-train.json").read_text(encoding="utf-8"))["cost"]["seconds"]
    more = replace(plan, sizes=("1",), curve=(2,), ablations=("answers-only",))
    result = Pipeline(more, tmp_path, workers=2).run()
    assert list(result.arms) == ["specialist", "2 examples", "size 1", "answers-only", "base"]
    assert before == (weights.stat().st_mtime_ns, facts.stat().st_mtime_ns)
    after = json.loads((tmp_path / "5-train.json").read_text(encoding="utf-8"))
    assert after["cost"]["seconds"] > seconds
    said: list[str] = []
    assert Pipeline(more, tmp_path, say=said.append).run() == result and not said
    with pytest.raises(BadInput, match="another ablations, curve, sizes"):
        Pipeline(plan, tmp_path).run()


def test_more_examples_than_were_collected_leave_those_alone(plan: Plan, tmp_path: Path) -> None:
    first = Pipeline(replace(plan, among=20), tmp_path)
    first.run()
    kept = first.data("examples").read_bytes()
    with pytest.raises(BadInput, match="another curve; give the same, or choose another --out"):
        Pipeline(replace(plan, among=20, curve=(9,)), tmp_path).run()
    assert first.data("examples").read_bytes() == kept
    first.run()


def test_two_processes_do_not_work_in_one_folder(plan: Plan, tmp_path: Path) -> None:
    first, second = Pipeline(plan, tmp_path), Pipeline(plan, tmp_path)
    with first.run_.held(), pytest.raises(BadInput, match="Another process is at work"):
        second.run()


def respond(domain: Domain, splits: dict[str, Any]) -> Callable[[dict[str, Any]], str]:
    """What an apt teacher says to a chat completion."""
    count = 0

    def answer(request: dict[str, Any]) -> str:
        nonlocal count
        system, text = (turn["content"] for turn in request["messages"])
        if system.startswith("You write strategies"):
            count += 1
            return BAD[0] if count == 1 else GOOD
        if system.startswith("You keep the journal"):
            return json.dumps({"marks": [], "notes": [f"Write times down, {len(text) % 7}."]})
        return solution(domain, splits[text], system)

    return answer


def test_a_teacher_that_writes_goes_through_every_stage_and_is_asked_nothing_twice(
    plan: Plan, tmp_path: Path
) -> None:
    domain = load(NAME)
    known = [*items(domain, "train", 60), *items(domain, "dev", 30), *items(domain, "test", 20)]
    splits = {task.question: task for task in known}
    with ChatServer(respond(domain, splits)) as server:
        written = replace(plan, teacher=f"{server.url}/v1#apt", problems=20, ablations=("no-strategy",))
        result = Pipeline(written, tmp_path / "run").run()
        asked = len(server.requests)
        bodies = [json.dumps(request, sort_keys=True) for request in server.requests]
        assert len(set(bodies)) == asked
        again = Pipeline(written, tmp_path / "run").run()
        assert len(server.requests) == asked and again.to_dict() == result.to_dict()
    assert result.strategy and result.strategy.text == GOOD
    assert [version.accepted for version in result.strategy.versions] == [True, False, True]
    assert {"teacher", "teacher-strategy", "specialist", "no-strategy", "base"} == set(result.arms)
    assert sum(stage.calls for stage in result.stages) == asked == Ledger().totals().calls
    assert sum(result.examples.rejected.values()) >= 0 and result.teacher.endswith("#apt")


def test_stopped_at_any_request_it_ends_with_the_same_bytes(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = load(NAME)
    known = [*items(domain, "train", 60), *items(domain, "dev", 30), *items(domain, "test", 20)]
    splits = {task.question: task for task in known}

    def start(server: ChatServer, folder: Path, left: int) -> Any:
        """A run whose server breaks down at a request, for good."""
        monkeypatch.setenv("ROUTER_HOME", str(tmp_path / f"home-{folder.name}"))
        answers = server.respond

        def breaking(request: dict[str, Any]) -> str:
            nonlocal left
            left -= 1
            if left < 0:
                raise ConnectionResetError
            return answers(request)

        server.respond = breaking
        try:
            return Pipeline(replace(plan, teacher="http://x/v1#apt"), folder).run()
        finally:
            server.respond = answers

    from distill import teacher_url

    monkeypatch.setattr(teacher_url.time, "sleep", lambda _: None)
    monkeypatch.setattr(teacher_url, "TRIES", 1)
    with ChatServer(respond(domain, splits)) as server:
        monkeypatch.setattr(
            teacher_url.Url,
            "url",
            property(lambda self: f"{server.url}/v1", lambda self, value: None),
            raising=False,
        )
        start(server, tmp_path / "whole", 10**6)
        asked = len(server.requests)
        expected = (tmp_path / "whole" / "data" / "examples.jsonl").read_bytes()
        for left in range(1, asked, max(1, asked // 5)):
            server.respond, folder = respond(domain, splits), tmp_path / f"left{left}"
            server.requests.clear()
            with pytest.raises(Exception, match="gave no answer"):
                start(server, folder, left)
            start(server, folder, 10**6)
            assert (folder / "data" / "examples.jsonl").read_bytes() == expected
            # The request under way when the server broke down was asked twice, none other.
            assert len(server.requests) == asked + 1


def test_the_command_line_shows_what_it_would_cost_and_stops(
    run: Callable[..., Done], tmp_path: Path
) -> None:
    done = run(
        "distill", "run", NAME, "--teacher", "claude", "--out", str(tmp_path / "r"), "--dry-run", "-n", "20"
    )
    assert done.exit_code == 0, done.output
    assert "1-teacher" in done.output and "together" in done.output and "$" in done.output
    assert not (tmp_path / "r").exists()
    bad = run("distill", "run", NAME, "--out", str(tmp_path / "r"), "--curve", "2,x")
    assert bad.exit_code == 2 and "no list of numbers" in bad.output


def test_the_solver_tells_every_example_again(plan: Plan, tmp_path: Path) -> None:
    told = replace(
        plan, domain="scheduling:half-hour", examples=2, retell=3, n=1, ablations=("answers-only",)
    )
    result = Pipeline(told, tmp_path / "run", say=lambda _: None).run()
    assert [(one.examples, one.texts) for one in result.training] == [(2, 6), (2, 6)]
    assert "2 in 6 texts" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert result.arms["specialist"].about.endswith("each told 3 ways")
    card = Card.from_json(
        (tmp_path / "run" / "train" / "specialist" / "card.json").read_text(encoding="utf-8")
    )
    assert card.description.endswith("2 problems, told in 6 texts, of its own solver")


def test_a_teacher_cannot_tell_examples_again(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="leave it out"):
        Pipeline(replace(plan, teacher="claude", retell=2), tmp_path / "run")
