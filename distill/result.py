"""What came of a run: every figure of its report, and nothing that is not stored here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from registry.measures import ArmResult, Baseline, mcnemar_p, wilson
from specialists.errors import Damaged


@dataclass(frozen=True)
class Arm:
    """One way of answering. `prompt`, `adapter`: sha256, the latter None for the bare base; tokens_in: all prompts'."""

    result: ArmResult
    about: str
    prompt: str = ""
    adapter: str | None = None
    tokens_in: int = 0


@dataclass(frozen=True)
class Pair:
    """Two arms on the same items: how many only one of them had right."""

    a: str
    b: str
    only_a: int
    only_b: int

    @property
    def p(self) -> float:
        """McNemar's exact two-sided p."""
        return mcnemar_p(self.only_a, self.only_b)


@dataclass(frozen=True)
class Point:
    """An adapter on a curve: of how many examples, which rank and targets, how many bytes, and how many were right."""

    examples: int
    seed: int
    right: int
    n: int
    balanced_accuracy: float
    rank: int = 0
    targets: tuple[str, ...] = ()
    bytes: int = 0

    @property
    def accuracy(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.n)


@dataclass(frozen=True)
class Training:
    """One training. loss: nats a token at every step; dev: (step, right, n) of every check; events: plain sentences.

    texts: what it read in an epoch; more than its examples when they were retold.
    """

    name: str
    seed: int
    examples: int
    epochs: float
    lr: float
    rank: int
    loss: tuple[float, ...]
    dev: tuple[tuple[int, int, int], ...]
    best_step: int
    seconds: float
    tokens_per_second: float
    events: tuple[str, ...] = ()
    texts: int = 0


@dataclass(frozen=True)
class Examples:
    """What was learnt from: solutions kept, and those not kept by reason."""

    kept: int
    rejected: Mapping[str, int]
    labels: Mapping[str, int]
    quoted: tuple[str, ...] = ()


@dataclass(frozen=True)
class StrategyVersion:
    """A strategy that was tried: how many dev items the teacher had right with it, and what became of it."""

    version: int
    parent: int | None
    accepted: bool
    right: int
    n: int
    why: str
    diff: str


@dataclass(frozen=True)
class Strategy:
    """The strategy that the examples follow, and every version on the way to it."""

    text: str
    versions: tuple[StrategyVersion, ...] = ()


@dataclass(frozen=True)
class Stage:
    """What a stage took: seconds, calls, tokens, dollars; cache_read: those of tokens_in that the prompt cache gave."""

    name: str
    seconds: float
    calls: int
    tokens_in: int
    tokens_out: int
    dollars: float
    cache_read: int = 0


@dataclass(frozen=True)
class Result:
    """A run's figures. The first arm is the main one; `confusion` is its gold answer -> what it said -> how often."""

    domain: str
    split: str
    n: int
    teacher: str
    base: str
    command: str
    hashes: Mapping[str, str]
    environment: Mapping[str, Any]
    arms: Mapping[str, Arm]
    pairs: tuple[Pair, ...]
    majority: Baseline
    heuristic: Baseline | None
    confusion: Mapping[str, Mapping[str, int]]
    learning: tuple[Point, ...]
    training: tuple[Training, ...]
    examples: Examples
    strategy: Strategy | None
    stages: tuple[Stage, ...]
    errors: Sequence[Mapping[str, str]] = ()
    sizes: tuple[Point, ...] = field(default=())

    @property
    def dollars(self) -> float:
        return sum(stage.dollars for stage in self.stages)

    @property
    def minutes(self) -> float:
        return sum(stage.seconds for stage in self.stages) / 60

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: what is stored, and the ratios of the arms beside it."""
        arms = {name: {**asdict(arm), "result": arm.result.to_dict()} for name, arm in self.arms.items()}
        plain = {
            name: [asdict(one) for one in getattr(self, name)]
            for name in ("pairs", "learning", "sizes", "training", "stages")
        }
        found = {
            **{name: getattr(self, name) for name in _AS_IS},
            "arms": arms,
            **plain,
            "majority": self.majority.to_dict(),
            "heuristic": self.heuristic.to_dict() if self.heuristic else None,
            "examples": asdict(self.examples),
            "strategy": asdict(self.strategy) if self.strategy else None,
        }
        made: dict[str, Any] = json.loads(json.dumps(found))
        return made

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Result:
        """The inverse of to_dict; ratios are not read. Raises Damaged when a part is missing."""
        try:
            strategy = data["strategy"]
            versions = [StrategyVersion(**one) for one in strategy["versions"]] if strategy else []
            return cls(
                **{name: data[name] for name in _AS_IS},
                arms={
                    name: Arm(**{**arm, "result": ArmResult.from_dict(arm["result"])})
                    for name, arm in data["arms"].items()
                },
                pairs=tuple(Pair(**one) for one in data["pairs"]),
                majority=Baseline.from_dict(data["majority"]),
                heuristic=Baseline.from_dict(data["heuristic"]) if data["heuristic"] else None,
                learning=tuple(_point(one) for one in data["learning"]),
                sizes=tuple(_point(one) for one in data["sizes"]),
                training=tuple(_training(one) for one in data["training"]),
                examples=Examples(**{**data["examples"], "quoted": tuple(data["examples"]["quoted"])}),
                strategy=Strategy(strategy["text"], tuple(versions)) if strategy else None,
                stages=tuple(Stage(**one) for one in data["stages"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(
                f"This is not the result of a run (reading it: {error!r}); make it with router distill run."
            ) from error


_AS_IS = (
    "domain", "split", "n", "teacher", "base", "command", "hashes", "environment", "confusion", "errors",
)  # fmt: skip


def _point(one: Mapping[str, Any]) -> Point:
    return Point(**{**one, "targets": tuple(one["targets"])})


def _training(one: Mapping[str, Any]) -> Training:
    dev = tuple((step, right, n) for step, right, n in one["dev"])
    return Training(**{**one, "loss": tuple(one["loss"]), "dev": dev, "events": tuple(one["events"])})
