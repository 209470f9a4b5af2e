"""A specialist from nothing, on one screen: baselines, a strategy, checked examples, training, arms, and a report.

The stages are those of the project's first experiment (docs/seeds.md): 0 the student as it is, 1 the teacher as it is,
2 the teacher learns a strategy, 3 a fresh teacher under the frozen strategy, 4 the student taught by examples. Every
stage is done once; a run that was stopped goes on where it was, and asks or trains nothing again.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from registry.measures import Outcome
from router.saved import Saved
from specialists.domain import Domain, Task, items, load, method
from specialists.errors import BadInput
from specialists.paths import write_atomic
from specialists.prompts import PROMPTS

from .arms import NONSENSE, Arm, measure
from .examples import candidates, collect, write_jsonl
from .frozen import chosen
from .plan import ABLATIONS, GROWS, Job, Plan
from .solve import Attempt, most_tokens, prompts, solve, system_prompt
from .stages import Run
from .strategy import BATCH, STRATEGY_CHARACTERS, STRATEGY_TOKENS, Learnt, learn
from .teacher import Prompt, Teacher
from .teachers import open_teacher
from .trainings import side_by_side, train_job

if TYPE_CHECKING:
    from router.engine.base import Base
    from router.engine.engine import Engine

    from .example import Example
    from .result import Result


class Pipeline:
    """A run in `folder`. budget: dollars for the whole run, over all its starts. workers: trainings side by side."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        budget: float = 0.0,
        workers: int = 1,
        say: Callable[[str], object] = print,
        command: str = "",
        progress: bool = False,
    ) -> None:
        unknown = [name for name in plan.ablations if name not in ABLATIONS]
        if unknown:
            raise BadInput(f"There is no ablation {', '.join(unknown)}; use {', '.join(ABLATIONS)}.")
        if plan.retell > 1 and plan.teacher != "solver":
            raise BadInput(
                f"--retell is for the solver as teacher, and this run has {plan.teacher}; leave it out."
            )
        self.plan, self.folder, self.workers = plan, folder, workers
        self.say, self.command, self.progress = say, command, progress
        self.domain: Domain = load(plan.domain)
        for size in plan.sizes:
            Job("", "", folder, size=size).config(plan)  # one that is none shows now
        # More points of the curve may come later only while the examples stay the same.
        within = max([plan.examples, *plan.curve]) == plan.examples
        self.run_ = Run(folder, asdict(plan), say, GROWS if within else ())
        self.budget = budget

    # What the stages share, opened when first needed.

    @cached_property
    def base(self) -> Base:
        from router.engine.base import find_base

        return find_base(self.plan.base)

    @cached_property
    def engine(self) -> Engine:
        from router.engine.engine import Engine

        return Engine(self.base, precision=chosen(self.plan.config.precision))

    @cached_property
    def teacher(self) -> Teacher:
        plan = self.plan
        engine = self.engine if plan.teacher == "local" else None
        return open_teacher(plan.teacher, self.domain, self.run_.name, self.budget, plan.batch, engine)

    @cached_property
    def tests(self) -> list[Task]:
        return items(self.domain, "test", self.plan.n)

    @cached_property
    def saved(self) -> Saved:
        return Saved(self.folder / "answers.jsonl")

    # The stages.

    def run(self) -> Result:
        """All stages in order; the report is in the folder when this returns."""
        with self.run_.held():
            stage = self.run_.stage
            stage("0-student", (), self._student)
            if self.teacher.writes:
                stage("1-teacher", ("teacher",), lambda: self._teach("", "teacher"))
            stage(
                "2-strategy",
                ("strategy train", "strategy dev", "strategy journal", "strategy text"),
                self._learn,
            )
            if self.teacher.writes:
                stage(
                    "3-frozen", ("teacher strategy",), lambda: self._teach(self.strategy, "teacher strategy")
                )
            other = [name for name in self.plan.ablations if name == "no-strategy"]
            stage("4-examples", ("examples", "examples no-strategy"), self._collect, other)
            stage("5-train", (), self._train, [job.name for job in self.jobs()])
            stage("6-arms", (), self._measure, [arm.name for arm in self.arms()])
            from .report import write
            from .story import result, write_cards

            found = result(self)
            write_cards(self, found)
            write(found, self.folder)
            return found

    def _bar(self, name: str, total: int | None) -> Any:
        return tqdm(total=total, desc=name, unit="answer", disable=not self.progress, file=sys.stderr)

    def _student(self) -> Any:
        return {"right": sum(one.right for one in self.outcomes(self.base_arm()))}

    def _teach(self, strategy: str, purpose: str) -> Any:
        with self._bar(purpose, len(self.tests)) as bar:
            tried = solve(self.teacher, self.domain, self.tests, strategy, purpose, bar.update)
        return {
            "right": sum(one.right for one in tried),
            "outcomes": [[one.task.key, one.verdict, *_said(one)] for one in tried],
        }

    def _learn(self) -> Any:
        if not self.teacher.writes:
            return {"strategy": method(self.domain), "from": "the domain's own method"}
        train = items(self.domain, "train", self.plan.problems)
        dev = items(self.domain, "dev", self.plan.dev)
        learnt = learn(self.teacher, self.domain, train, dev, self.folder / "strategy", self.say)
        return {"strategy": learnt.best.text, "from": self.teacher.id}

    @property
    def strategy(self) -> str:
        """The frozen strategy, as learnt or as the domain has it."""
        found = json.loads((self.folder / "2-strategy.json").read_text(encoding="utf-8"))
        text: str = found["result"]["strategy"]
        return text

    @property
    def learnt(self) -> Learnt | None:
        path = self.folder / "strategy" / "strategy.json"
        return Learnt.from_json(path.read_text(encoding="utf-8")) if path.exists() else None

    def _collect(self) -> Any:
        plan = self.plan
        most = max([plan.examples, *plan.curve])
        dropped: Counter[str] = Counter()
        found = candidates(self.domain, most, plan.among, dropped)
        with self._bar("examples", None) as bar:
            made = collect(self.teacher, self.domain, most, self.strategy, found, bar.update)
        self._write("examples", made.kept)
        if "no-strategy" in plan.ablations and self.teacher.writes:
            other = collect(self.teacher, self.domain, plan.examples, "", found)
            self._write("no-strategy", other.kept)
        elif "no-strategy" in plan.ablations:
            self.say("no-strategy: the solver writes one kind of solution only, so this arm is left out")
        return {"rejected": {**made.rejected, **dropped}, "quoted": made.quoted, "kept": len(made.kept)}

    def _write(self, name: str, found: Sequence[Example]) -> None:
        write_atomic(self.data(name), write_jsonl(found))

    def data(self, name: str) -> Path:
        return self.folder / "data" / f"{name}.jsonl"

    def jobs(self) -> list[Job]:
        """All trainings of the plan."""
        plan, data = self.plan, self.data("examples")
        ways = f", each told {plan.retell} ways" if plan.retell > 1 else ""
        about = f"LoRA on {plan.examples} worked examples{ways}"
        jobs = []
        for seed in range(plan.seeds):
            name = "specialist" if plan.seeds == 1 else f"specialist seed {seed}"
            jobs.append(Job(name, about, data, seed, plan.examples, plan.checks))
        for count in plan.curve:
            jobs.append(Job(f"{count} examples", f"LoRA on {count} worked examples{ways}", data, 0, count))
        for size in plan.sizes:
            jobs.append(Job(f"size {size}", f"LoRA of rank {size}", data, 0, plan.examples, size=size))
        if "answers-only" in plan.ablations:
            about = "LoRA on the same examples without steps"
            jobs.append(Job("answers-only", about, data, 0, plan.examples, steps=False))
        if self.data("no-strategy").exists():
            jobs.append(
                Job("no-strategy", "LoRA on solutions written without a strategy", self.data("no-strategy"))
            )
        return jobs

    def adapter(self, job: Job) -> Path:
        return self.folder / "train" / job.name.replace(" ", "-").replace(":", "-").replace(",", "-")

    def _train(self) -> Any:
        todo = [(job, self.adapter(job)) for job in self.jobs()]
        if self.workers > 1:
            side_by_side(todo, self.plan, self.most, self.workers, self.say)
            return {}
        for job, out in todo:
            self.say(f"training {job.name}")
            train_job(job, out, self.plan, self.most)
        return {}

    def base_arm(self) -> Arm:
        return Arm(
            "base",
            "the base under the prompt that the specialist was trained with",
            PROMPTS[self.domain.prompt],
        )

    def arm(self, job: Job) -> Arm:
        return Arm(job.name, job.about, PROMPTS[self.domain.prompt], self.adapter(job))

    def arms(self) -> list[Arm]:
        """Every student, the specialists first."""
        arms = [self.arm(job) for job in self.jobs()]
        arms.append(self.base_arm())
        if "strategy-prompt" in self.plan.ablations:
            text = system_prompt(self.domain, self.strategy)
            arms.append(Arm("strategy-prompt", "the base with the strategy in its prompt, no LoRA", text))
        if "nonsense-prompt" in self.plan.ablations:
            text = system_prompt(self.domain, NONSENSE)
            arms.append(Arm("nonsense-prompt", "the base with a nonsense strategy in its prompt", text))
        return arms

    @property
    def most(self) -> int:
        """The most tokens that a student may write: as many as its teacher."""
        return most_tokens(self.domain) if self.teacher.writes else self.domain.max_new_tokens

    def outcomes(self, arm: Arm) -> list[Outcome]:
        return measure(self.engine, self.domain, self.tests, arm, self.most, self.saved, self.progress)

    def _measure(self) -> Any:
        return {arm.name: sum(one.right for one in self.outcomes(arm)) for arm in self.arms()}

    def estimate(self) -> list[tuple[str, int, float]]:
        """(stage, calls, dollars at most) of what a teacher would be asked; what is kept already costs nothing."""
        plan, domain, teacher = self.plan, self.domain, self.teacher
        if not teacher.writes:
            return []
        long = "x" * STRATEGY_CHARACTERS  # as long as a strategy may get
        train, dev = items(domain, "train", plan.problems), items(domain, "dev", plan.dev)
        batches = -(-len(train) // BATCH)
        journal = Prompt("x" * 1000, "x" * 30_000, STRATEGY_TOKENS)
        asked = [
            ("1-teacher", prompts(domain, self.tests), 1),
            ("2-strategy", prompts(domain, train, long), 1),
            ("2-strategy dev", prompts(domain, dev, long), batches + 1),
            ("2-strategy journal and text", [journal], 2 * batches),
            ("3-frozen", prompts(domain, self.tests, long), 1),
            ("4-examples", prompts(domain, candidates(domain, plan.examples), long), 1),
        ]
        return [(name, len(some) * times, teacher.estimate(some) * times) for name, some, times in asked]


def _said(one: Attempt) -> tuple[str, int, int]:
    usage = one.reply.usage
    return one.outcome.got, usage.input + usage.cache_read + usage.cache_write, usage.output
