"""What was measured of a specialist, with the numbers it has to be compared to; as JSON and as a table."""

from __future__ import annotations

import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from specialists.domain import Domain, Task
from specialists.errors import Damaged

from .measures import ArmResult, Baseline, Outcome, Paired, Tally, tally

QUOTED = 10  # wrong answers quoted in a report
TRAIN_ITEMS = 500  # training items whose most common answers make the majority baseline


def shortcut(domain: Domain, tasks: Sequence[Task], says: Callable[[Task], str | None]) -> Tally:
    """The score of a rule on the items, graded like any other answer."""
    return tally([Outcome(task, domain.verify(task, says(task))) for task in tasks])


def majority(domain: Domain, tasks: Sequence[Task], train: Sequence[Task] | None = None) -> Baseline:
    """The better of two constants: the most common training answer, overall or for each kind of question.

    `train` defaults to the first 500 items of the training split.
    """
    if train is None:
        train = [domain.task("train", index) for index in range(TRAIN_ITEMS)]
    common = Counter(task.answer for task in train).most_common(1)[0][0]
    overall = Baseline("most common answer", shortcut(domain, tasks, lambda _: common), {"": common})
    best = {
        kind: Counter(task.answer for task in train if task.kind == kind).most_common(1)[0][0]
        for kind in sorted({task.kind for task in train})
    }
    by_kind = shortcut(domain, tasks, lambda task: best.get(task.kind, common))
    if by_kind.right > overall.tally.right:
        return Baseline("most common answer of each kind", by_kind, best)
    return overall


def best_heuristic(domain: Domain, tasks: Sequence[Task]) -> Baseline | None:
    """The domain's heuristic with the most right on these very items; None if the domain knows none."""
    scored = [Baseline(name, shortcut(domain, tasks, says)) for name, says in domain.heuristics().items()]
    return max(scored, key=lambda baseline: baseline.tally.right, default=None)


def quote(outcomes: Sequence[Outcome]) -> list[dict[str, str]]:
    """The first ten answers that were not right: question, gold, got, verdict."""
    missed = [outcome for outcome in outcomes if not outcome.right][:QUOTED]
    return [
        {"question": o.task.question, "gold": o.task.answer, "got": o.got, "verdict": o.verdict or "refused"}
        for o in missed
    ]


def environment() -> dict[str, Any]:
    """What the figures depend on besides the weights: versions, processor, cores. Imports no package."""
    found: dict[str, Any] = {"python": platform.python_version(), "system": platform.system()}
    for package in ("specialist-router", "torch", "transformers", "peft"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return found | {"cpu": cpu, "cores": usable}


_KEPT = (
    "domain", "split", "n", "seed", "command", "specialist", "base", "errors", "training", "environment"
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What is known of a domain's specialist: arms and baselines on the same n items, and how it was made."""

    domain: str
    split: str
    n: int
    command: str
    arms: Mapping[str, ArmResult]
    majority: Baseline
    heuristic: Baseline | None = None
    mcnemar: Mapping[str, Paired] = field(default_factory=dict)
    seed: int | None = None
    specialist: str | None = None  # name@version, or what stood in for it
    base: str | None = None  # identity of the base weights
    errors: Sequence[Mapping[str, str]] = ()
    training: Mapping[str, Any] = field(default_factory=dict)  # examples, epochs, minutes, dollars ...
    environment: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """One domain's entry in the JSON of `router eval`: stored counts and the ratios derived from them."""
        paired = self.mcnemar.get("specialist")
        plain = {name: getattr(self, name) for name in _KEPT}
        return plain | {
            "majority": self.majority.tally.accuracy,
            "heuristic": self.heuristic.tally.accuracy if self.heuristic else None,
            "baselines": {
                "majority": self.majority.to_dict(),
                "heuristic": self.heuristic.to_dict() if self.heuristic else None,
            },
            "arms": {name: arm.to_dict() for name, arm in self.arms.items()},
            "mcnemar_p": paired.p if paired else None,
            "mcnemar": {name: pair.to_dict() for name, pair in self.mcnemar.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """The inverse of to_dict; derived ratios are not read. Raises Damaged if a part is missing."""
        try:
            heuristic = data["baselines"]["heuristic"]
            return cls(
                **{name: data[name] for name in _KEPT},
                majority=Baseline.from_dict(data["baselines"]["majority"]),
                heuristic=Baseline.from_dict(heuristic) if heuristic else None,
                arms={name: ArmResult.from_dict(arm) for name, arm in data["arms"].items()},
                mcnemar={name: Paired(pair["b"], pair["c"]) for name, pair in data["mcnemar"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(
                f"This is not a report (reading it: {error!r}); make it with router eval."
            ) from error

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        try:
            data = json.loads(text)
        except ValueError as error:
            raise Damaged(f"This report is not JSON ({error}); make it again with router eval.") from error
        return cls.from_dict(data)


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _cell(result: Tally | None) -> str:
    """ "93.3 (90.0-95.6)" in per cent, or a dash."""
    if result is None:
        return "–"
    low, high = result.interval
    return f"{percent(result.accuracy)} ({percent(low)}–{percent(high)})"


def _row(report: Report) -> list[str]:
    arms = report.arms
    main = arms.get("specialist") or next(iter(arms.values()))
    paired = report.mcnemar.get("specialist")
    heuristic = report.heuristic
    return [
        report.domain,
        str(report.n),
        _cell(arms.get("specialist")),
        percent(main.balanced_accuracy),
        _cell(arms.get("base")),
        _cell(arms.get("routed")),
        percent(report.majority.tally.accuracy),
        f"{percent(heuristic.tally.accuracy)} ({heuristic.name})" if heuristic else "–",
        f"{paired.p:.1g}" if paired else "–",
        f"{main.unparsed} / {main.truncated}",
        f"{main.tokens_per_second:.0f}",
    ]


def table(reports: Iterable[Report]) -> str:
    """A markdown table, a row a report: accuracies in per cent with their 95 % Wilson intervals.

    The columns balanced, unparsed, truncated and tokens/s are the specialist's, else the first arm's.
    """
    titles = ["domain", "n", "specialist %", "balanced %", "base, same prompt %", "routed %", "majority %"]
    titles += ["best heuristic %", "McNemar p", "unparsed / truncated", "tokens/s"]
    rows = [titles, ["---"] + ["---:"] * (len(titles) - 1), *map(_row, reports)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
