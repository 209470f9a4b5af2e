"""Counts of graded answers and what follows from them.

Only counts are stored; every ratio is derived. scipy is imported where an interval or a p-value is asked for,
because importing it takes seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any, Self

from specialists.domain import Task, Verdict

Groups = Mapping[str, tuple[int, int]]  # class -> (right, n)


@lru_cache(maxsize=1024)
def wilson(right: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a proportion (Wilson 1927), as fractions of 1."""
    from scipy.stats import binomtest

    interval = binomtest(right, n).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


@lru_cache(maxsize=1024)
def mcnemar_p(b: int, c: int) -> float:
    """Two-sided exact McNemar test (McNemar 1947); b items only the one had right, c only the other."""
    if b + c == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(b, b + c, 0.5).pvalue)


@dataclass(frozen=True)
class Outcome:
    """One graded item. `verdict` is None when the router refused it; `seconds` is its share of wall time."""

    task: Task
    verdict: Verdict | None
    got: str = ""
    tokens: int = 0
    seconds: float = 0.0
    misrouted: bool = False

    @property
    def right(self) -> bool:
        return self.verdict is Verdict.RIGHT


@dataclass(frozen=True)
class Tally:
    """How many of n items were right, overall and in each class of Task.label."""

    n: int
    right: int
    labels: Groups

    @property
    def accuracy(self) -> float:
        return self.right / self.n

    @property
    def interval(self) -> tuple[float, float]:
        return wilson(self.right, self.n)

    @property
    def recalls(self) -> dict[str, float]:
        """The fraction right of each class."""
        return {label: right / n for label, (right, n) in self.labels.items()}

    @property
    def balanced_accuracy(self) -> float:
        """The plain mean of the recalls of the classes present."""
        return sum(self.recalls.values()) / len(self.labels)

    def to_dict(self) -> dict[str, Any]:
        """Counts, and the ratios derived from them."""
        counts = {
            f.name: _spelled(value) if isinstance(value := getattr(self, f.name), Mapping) else value
            for f in fields(self)
        }
        ratios = {"accuracy": self.accuracy, "interval": list(self.interval)}
        return counts | ratios | {"balanced_accuracy": self.balanced_accuracy}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of to_dict; ratios are not read. Raises KeyError or the like on other data."""
        values: dict[str, Any] = {f.name: data[f.name] for f in fields(cls)}
        groups = {name: _read(value) for name, value in values.items() if isinstance(value, Mapping)}
        return cls(**(values | groups))


def _spelled(groups: Groups) -> dict[str, dict[str, int]]:
    return {name: {"right": right, "n": n} for name, (right, n) in groups.items()}


def _read(groups: Mapping[str, Any]) -> Groups:
    return {name: (count["right"], count["n"]) for name, count in groups.items()}


def group(outcomes: Iterable[Outcome], by: Callable[[Task], str]) -> dict[str, tuple[int, int]]:
    """(right, n) of each class of items, sorted by class."""
    right: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for outcome in outcomes:
        total[by(outcome.task)] += 1
        right[by(outcome.task)] += outcome.right
    return {name: (right[name], total[name]) for name in sorted(total)}


def tally(outcomes: Sequence[Outcome]) -> Tally:
    """Counts of at least one outcome."""
    return Tally(len(outcomes), sum(o.right for o in outcomes), group(outcomes, lambda task: task.label))


@dataclass(frozen=True)
class ArmResult(Tally):
    """One way of answering: right + wrong + unparsed + truncated + errored + refused = n.

    `misrouted` items went to another specialist than theirs; they lie across the other counts.
    """

    wrong: int = 0
    unparsed: int = 0
    truncated: int = 0
    errored: int = 0
    refused: int = 0
    misrouted: int = 0
    seconds: float = 0.0
    tokens: int = 0
    difficulties: Groups = field(default_factory=dict)
    kinds: Groups = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of generation; 0 when nothing was generated."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"tokens_per_second": self.tokens_per_second}

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> ArmResult:
        """The result of at least one outcome."""
        count = Counter(o.verdict for o in outcomes)
        whole = tally(outcomes)
        return cls(
            whole.n,
            whole.right,
            whole.labels,
            wrong=count[Verdict.WRONG],
            unparsed=count[Verdict.UNPARSED],
            truncated=count[Verdict.TRUNCATED],
            errored=count[Verdict.ERRORED],
            refused=count[None],
            misrouted=sum(o.misrouted for o in outcomes),
            seconds=sum(o.seconds for o in outcomes),
            tokens=sum(o.tokens for o in outcomes),
            difficulties=group(outcomes, lambda task: task.difficulty),
            kinds=group(outcomes, lambda task: task.kind),
        )


@dataclass(frozen=True)
class Baseline:
    """What a shortcut scores on the same items. `answers`: what a constant says by kind ("" = any kind)."""

    name: str
    tally: Tally
    answers: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "answers": dict(self.answers)} | self.tally.to_dict()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Baseline:
        return cls(data["name"], Tally.from_dict(data), data["answers"])


@dataclass(frozen=True)
class Paired:
    """An arm against base on the same items: b only the arm had right, c only base had right."""

    b: int
    c: int

    @property
    def p(self) -> float:
        return mcnemar_p(self.b, self.c)

    def to_dict(self) -> dict[str, Any]:
        return {"b": self.b, "c": self.c, "p": self.p}

    @classmethod
    def of(cls, arm: Sequence[Outcome], base: Sequence[Outcome]) -> Paired:
        """Both sequences hold the same items in the same order."""
        pairs = [(one.right, other.right) for one, other in zip(arm, base, strict=True)]
        return cls(pairs.count((True, False)), pairs.count((False, True)))
