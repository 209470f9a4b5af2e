"""What a version must show before it is published or promoted. Each refusal is a sentence with its figure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from .adapter import WEIGHTS, AdapterInfo
from .measures import Paired
from .version import Version

MAX_BYTES = 64 << 20
MAX_RANK = 64
LEAST = 100  # test questions of a report
ODDS = 0.05  # of a difference by luck, below which it counts
RARE = 0.01  # of a score so far off by luck, below which an adapter does not reproduce its report


@dataclass(frozen=True)
class Evidence:
    """What was measured now, for the gate.

    again: (right, n) of the adapter loaded from the store, on the first test questions of its report. paired: the
    version against the one it replaces, on the same questions. routed: name -> (before, after, n), how many questions
    of another specialist were routed to it without and with this version's exemplars. trained_on: keys of the training
    examples, tested_on: of the test questions.
    """

    again: tuple[int, int] | None = None
    paired: Paired | None = None
    routed: Mapping[str, tuple[int, int, int]] | None = None
    trained_on: Collection[str] = ()
    tested_on: Collection[str] = ()


def refusals(
    version: Version, info: AdapterInfo, evidence: Evidence, replaces: str | None = None
) -> list[str]:
    """Every reason not to let a version out, none when it may go. replaces: the version it comes after."""
    report = version.card.report
    found = _size(info)
    if not report or not report.get("arms", {}).get("specialist"):
        return [
            *found,
            f"{version.ref} has no report; measure it with `router eval` and put that into its card",
        ]
    return [*found, *_floor(report), *_collapse(report), *_evidence(report, evidence, replaces)]


def _size(info: AdapterInfo) -> list[str]:
    rank = max(rank for rank, _ in info.modules.values())
    found = []
    if info.bytes > MAX_BYTES:
        found.append(f"{WEIGHTS} has {info.bytes / 1e6:.0f} MB, more than {MAX_BYTES / 1e6:.0f}")
    if rank > MAX_RANK:
        found.append(f"its rank is {rank}, more than {MAX_RANK}")
    return found


def _floor(report: Mapping[str, Any]) -> list[str]:
    """The lower end of the interval is above the base and every trivial baseline."""
    arm, n = report["arms"]["specialist"], report.get("n", 0)
    if n < LEAST:
        return [f"its report has {n} questions, fewer than {LEAST}"]
    floor = arm["interval"][0]
    rivals = {name: one for name, one in report["arms"].items() if name == "base"} | {
        name: one for name, one in report.get("baselines", {}).items() if one
    }
    found = [
        f"its interval begins at {floor:.1%}, not above {name}'s {one['accuracy']:.1%}"
        for name, one in rivals.items()
        if floor <= one["accuracy"]
    ]
    if "base" not in rivals:
        found.append("its report does not compare it with the base; measure with --arm specialist --arm base")
    return found


def _collapse(report: Mapping[str, Any]) -> list[str]:
    """More than a tenth of its answers are no answers: what a collapsed model does."""
    arm, n = report["arms"]["specialist"], report["n"]
    lost = arm.get("unparsed", 0) + arm.get("truncated", 0) + arm.get("errored", 0)
    return (
        [f"{lost} of its {n} answers were cut short or no answer, more than a tenth"] if lost > n / 10 else []
    )


def _evidence(report: Mapping[str, Any], evidence: Evidence, replaces: str | None) -> list[str]:
    from scipy.stats import binomtest

    found = []
    if evidence.again:
        right, n = evidence.again
        claimed = report["arms"]["specialist"]["accuracy"]
        p = binomtest(right, n, claimed, alternative="two-sided").pvalue
        if p < RARE:
            found.append(
                f"loaded from the store it has {right} of {n} right, its report says {claimed:.1%} (p {p:.1g})"
            )
    if (pair := evidence.paired) and pair.b < pair.c and pair.p < ODDS:
        found.append(
            f"it is worse than {replaces}: on the same questions {pair.c} are right only with the latter and {pair.b} "
            f"only with it (p {pair.p:.2g})"
        )
    for name, (before, after, n) in sorted((evidence.routed or {}).items()):
        worse = before - after
        if worse > 0 and worse > n / 50:
            found.append(
                f"its exemplars take {worse} of {n} questions from {name} ({before} to {after} routed rightly)"
            )
    if shared := len(set(evidence.trained_on) & set(evidence.tested_on)):
        found.append(
            f"{shared} of its {len(set(evidence.tested_on))} test questions are among its training examples"
        )
    return found
