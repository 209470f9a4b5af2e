"""The result of a run, put together from what its stages left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from registry.adapter import WEIGHTS
from registry.measures import ArmResult, Outcome, Paired
from registry.report import Report, best_heuristic, environment, majority, quote
from registry.version import sha256 as file_hash
from specialists.domain import Task, Verdict

from .cards import card_of, write_card
from .example import balance
from .examples import read_jsonl
from .result import (
    Arm,
    Examples,
    Pair,
    Point,
    Result,
    Stage,
    Strategy,
    StrategyVersion,
    Training,
)

if TYPE_CHECKING:
    from .pipeline import Pipeline
    from .plan import Job
    from .strategy import Learnt

STAGES = ("0-student", "1-teacher", "2-strategy", "3-frozen", "4-examples", "5-train", "6-arms")
MOST_ANSWERS = 12  # rows and columns of the confusion; the rest is one


def result(run: Pipeline) -> Result:
    """Everything there is to say about a finished run. Raises Damaged when a stage's file cannot be read."""
    outcomes = {arm.name: run.outcomes(arm) for arm in run.arms()}
    arms = {arm.name: _student(run, arm, outcomes[arm.name]) for arm in run.arms()}
    for name, stage, about in (
        ("teacher", "1-teacher", "the teacher without a strategy"),
        ("teacher-strategy", "3-frozen", "the teacher under the frozen strategy"),
    ):
        path = run.folder / f"{stage}.json"
        if path.exists():
            rows = json.loads(path.read_text(encoding="utf-8"))["result"]["outcomes"]
            outcomes[name] = _teachers(run.tests, rows)
            arms[name] = Arm(ArmResult.of(outcomes[name]), about, tokens_in=sum(row[3] for row in rows))
    main = next(iter(outcomes))
    collected = _stage(run, "4-examples")
    kept = read_jsonl(run.data("examples"))[: run.plan.examples]
    learnt = run.learnt
    versions = _versions(learnt) if learnt else []
    quoted = [f"{kept[0].messages[-1]['content']}\n\n{kept[0].completion}", *collected["quoted"].values()]
    return Result(
        domain=run.domain.name,
        split="test",
        n=len(run.tests),
        teacher=run.teacher.id,
        base=run.engine.identity,
        command=run.command,
        hashes=_hashes(run),
        environment=environment(),
        arms=arms,
        pairs=tuple(_pairs(outcomes)),
        majority=majority(run.domain, run.tests),
        heuristic=best_heuristic(run.domain, run.tests),
        confusion=_confusion(outcomes[main]),
        learning=tuple(
            _point(run, job, outcomes)
            for job in run.jobs()
            if job.data == run.data("examples") and job.size is None and job.steps
        ),
        sizes=tuple(
            _point(run, job, outcomes) for job in run.jobs() if job.size or job.name.startswith("specialist")
        )
        if run.plan.sizes
        else (),
        training=tuple(_training(run, job) for job in run.jobs()),
        examples=Examples(len(kept), collected["rejected"], balance(kept), tuple(quoted[:2])),
        strategy=Strategy(run.strategy, tuple(versions)) if run.strategy else None,
        stages=tuple(Stage(**one) for one in run.run_.costs(STAGES)),
        errors=quote(outcomes[main]),
    )


def _versions(learnt: Learnt) -> list[StrategyVersion]:
    return [
        StrategyVersion(
            one.version, one.parent, one.accepted, one.score, len(one.right), one.why, learnt.diff(one)
        )
        for one in learnt.versions
    ]


def _stage(run: Pipeline, name: str) -> Any:
    return json.loads((run.folder / f"{name}.json").read_text(encoding="utf-8"))["result"]


def _student(run: Pipeline, arm: Any, outcomes: Sequence[Outcome]) -> Arm:
    from specialists.prompts import messages

    count = sum(len(run.engine.chat.prompt_ids(messages(arm.prompt, task.question))) for task in run.tests)
    prompt = sha256(arm.prompt.encode()).hexdigest()
    adapter = file_hash(arm.adapter / WEIGHTS) if arm.adapter else None
    return Arm(ArmResult.of(outcomes), arm.about, prompt, adapter, count)


def _teachers(tests: Sequence[Task], rows: Sequence[Sequence[Any]]) -> list[Outcome]:
    by_key = {task.key: task for task in tests}
    return [Outcome(by_key[key], Verdict(verdict), got, out) for key, verdict, got, _, out in rows]


def _pairs(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Pair]:
    """The first arm against every other one."""
    main, *others = outcomes
    found = []
    for other in others:
        pair = Paired.of(outcomes[main], outcomes[other])
        found.append(Pair(main, other, pair.b, pair.c))
    return found


def _confusion(outcomes: Sequence[Outcome]) -> dict[str, dict[str, int]]:
    """Gold answer -> what was said -> how often; rare answers are "other", what holds none goes by its verdict."""
    common = {gold for gold, _ in Counter(one.task.answer for one in outcomes).most_common(MOST_ANSWERS)}

    def named(answer: str) -> str:
        return answer if answer in common else "other"

    table: dict[str, Counter[str]] = {}
    for one in outcomes:
        parsed = one.verdict in (Verdict.RIGHT, Verdict.WRONG)
        said = named(one.got) if parsed else str(one.verdict)
        if said == named(one.task.answer) == "other":
            said = "other, right" if one.right else "other, wrong"
        table.setdefault(named(one.task.answer), Counter())[said] += 1
    return {gold: dict(row) for gold, row in sorted(table.items())}


def _point(run: Pipeline, job: Job, outcomes: Mapping[str, Sequence[Outcome]]) -> Point:
    measured, config = ArmResult.of(outcomes[job.name]), job.config(run.plan)
    size = (run.adapter(job) / WEIGHTS).stat().st_size
    return Point(
        job.examples or run.plan.examples,
        job.seed,
        measured.right,
        measured.n,
        measured.balanced_accuracy,
        config.rank,
        config.targets,
        size,
    )


def write_cards(run: Pipeline, found: Result) -> None:
    """A card with its report for every specialist, so that `router register` takes its folder as it is."""
    for job in run.jobs():
        if not job.name.startswith("specialist"):
            continue
        folder = run.adapter(job)
        facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        facts |= {"strategy": found.hashes["strategy"], "examples_file": found.hashes["examples"]}
        facts |= {"dollars": found.dollars, "minutes": round(found.minutes, 1)}
        card = card_of(run.domain, run.base, folder, facts, found.teacher, run.most)
        outcomes, base = run.outcomes(run.arm(job)), run.outcomes(run.base_arm())
        report = Report(
            domain=found.domain,
            split=found.split,
            n=found.n,
            command=found.command,
            arms={"specialist": ArmResult.of(outcomes), "base": ArmResult.of(base)},
            majority=found.majority,
            heuristic=found.heuristic,
            mcnemar={"specialist": Paired.of(outcomes, base)},
            specialist=card.ref,
            base=found.base,
            errors=quote(outcomes),
            training={
                "examples": facts.get("problems", facts["examples"]),
                "minutes": round(facts["seconds"] / 60, 1),
            },
            environment=found.environment,
        )
        write_card(folder, replace(card, report=report.to_dict()))


def _training(run: Pipeline, job: Job) -> Training:
    facts = json.loads((run.adapter(job) / "training.json").read_text(encoding="utf-8"))
    config = facts["identity"]["config"]
    return Training(
        job.name,
        config["seed"],
        facts.get("problems", facts["examples"]),
        config["epochs"],
        config["lr"],
        config["rank"],
        tuple(facts["loss"]),
        tuple((step, right, n) for step, right, n in facts["dev"]),
        facts["best_step"],
        facts["seconds"],
        facts["tokens_per_second"],
        tuple(facts["events"]),
        texts=facts["examples"],
    )


def _hashes(run: Pipeline) -> dict[str, str]:
    files = {
        "examples": run.data("examples"),
        "no-strategy examples": run.data("no-strategy"),
        "plan": run.folder / "plan.json",
    }
    found = {name: file_hash(path) for name, path in files.items() if path.exists()}
    found |= {f"adapter, {job.name}": file_hash(run.adapter(job) / WEIGHTS) for job in run.jobs()}
    return {
        **found,
        "base weights": run.base.weights,
        "strategy": sha256(run.strategy.strip().encode()).hexdigest(),
    }
