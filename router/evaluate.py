"""Batch evaluation: the same items for every arm, graded, paired, and saved as they are answered.

Arms: `specialist` (its adapter), `base` (the same prompt and items without adapter) and `routed` (the items
of all chosen domains in one shuffled stream, each answered by whoever the router names; what that specialist
answered in its own arm is not generated again, and counts the same seconds).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from registry.store import Store, Version, verify
from specialists.domain import names as domain_names
from specialists.errors import BadInput
from specialists.paths import cache

from .arms import Evaluation, Resolves, Tools, specialist_of
from .own import KIND, read
from .saved import Saved

ARMS = ("specialist", "base", "routed")


def open_tools(base: str | None = None, store: Store | None = None, precision: str = "bf16") -> Tools:
    """The real engine, store and router; `base` as engine.base.find_base takes it, `precision` as open_engine does.

    Loads the base weights.
    """
    from .ask import open_engine, open_router
    from .engine.base import compatible

    engine = open_engine(base, precision)
    found = store or Store()

    def check(version: Version) -> None:
        compatible(version.card.base, version.card.base_weights, engine.base)
        verify(version)

    routes = partial(open_router, found, torch=True)
    return Tools(engine, engine.identity, found, routes, check, engine.arithmetic)


def measured_in(report: Mapping[str, Any] | None) -> str:
    """The precision in which a report was measured: bf16 unless it says so, or this processor cannot do as it did."""
    from .engine.precision import can_multiply

    said = str((report or {}).get("base") or "")
    if " int4" in said:
        return "int4"
    return "int8" if said.endswith(" int8") and can_multiply() else "bf16"


def run(
    names: Sequence[str] | None = None,
    n: int = 100,
    arms: Sequence[str] = ("specialist", "base"),
    seed: int | None = None,
    questions: Path | None = None,
    adapter: Path | None = None,
    fresh: bool = False,
    progress: bool = True,
    command: str | None = None,
    tools: Tools | None = None,
    base: str | None = None,
    precision: str = "bf16",
) -> dict[str, Any]:
    """Evaluate domains (unless named, all that have a specialist); returns the JSON object of `router eval`.

    seed: another test stream, "test-SEED". questions: a user's own set instead, whole whatever n; a name then
    is the specialist of the lines that name none. adapter: an unregistered adapter folder standing in for the
    specialist of the one domain named. fresh: forget saved answers. command: what the reports say made them.
    base, precision: as open_engine takes them.
    Raises BadInput for what cannot be evaluated.
    """
    names = list(dict.fromkeys(names or ()))
    arms = list(dict.fromkeys(arms))
    unknown = [arm for arm in arms if arm not in ARMS]
    if unknown or not arms:
        raise BadInput(f"There is no arm {', '.join(unknown) or '(none given)'}; use {', '.join(ARMS)}.")
    if n < 1:
        raise BadInput(f"Cannot evaluate {n} items; ask for at least 1.")
    if len(names) != 1 and adapter:
        raise BadInput("An adapter folder stands in for one specialist; name exactly one domain with it.")
    if len(names) > 1 and questions:
        raise BadInput("A question file takes one name at most, for its lines without a specialist.")
    rows = read(questions) if questions else None
    tools = tools or open_tools(base, precision=precision)
    split = KIND if rows else "test" if seed is None else f"test-{seed}"
    evaluation = Evaluation(tools, split, {specialist_of(names[0]): adapter} if adapter else {})
    if rows:
        evaluation.add_own(rows, names[0] if names else None)
    for name in [] if rows else names or _evaluable(tools.store):
        evaluation.add_domain(name, n)
    saved = Saved(cache() / "eval" / f"{split}.jsonl", fresh)
    results = {arm: evaluation.measure(arm, saved, progress) for arm in arms}
    command = command or _command(names, n, arms, seed, questions, adapter, base, precision)
    reports = evaluation.reports(results, seed=seed, command=command)
    return {"domains": {report.domain: report.to_dict() for report in reports}, "command": command}


def _evaluable(store: Resolves) -> list[str]:
    """The specialists that have a domain to draw items from. Raises BadInput when there is none."""
    found = [version.card.name for version in store.list() if version.card.name in domain_names()]
    if not found:
        raise BadInput("No registered specialist has a domain; register one, or give a file of questions.")
    return found


def _command(
    names: Sequence[str],
    n: int,
    arms: Sequence[str],
    seed: int | None,
    questions: Path | None,
    adapter: Path | None,
    base: str | None,
    precision: str,
) -> str:
    words = ["router", "eval", *names]
    words += ["--questions", str(questions)] if questions else ["-n", str(n)]
    for arm in arms:
        words += ["--arm", arm]
    words += ["--seed", str(seed)] if seed is not None else []
    words += ["--adapter", str(adapter)] if adapter else []
    words += ["--base", base] if base else []
    return shlex.join(words + (["--precision", precision] if precision != "bf16" else []))


def shortfalls(result: Mapping[str, Any]) -> list[str]:
    """What keeps each specialist from being shown better than base and the baselines; empty when all are.

    Better means: the lower end of its 95 % interval lies above the other's accuracy.
    """
    found = []
    for name, entry in result["domains"].items():
        arms = entry["arms"]
        if "specialist" not in arms or "base" not in arms:
            found.append(f"{name}: the arms specialist and base were not both measured.")
            continue
        floor = arms["specialist"]["interval"][0]
        rivals = {
            "base": arms["base"]["accuracy"],
            "the majority answer": entry["majority"],
            "the best heuristic": entry["heuristic"],
        }
        found += [
            f"{name}: the specialist's interval starts at {floor:.1%}, not above {rival} at {accuracy:.1%}."
            for rival, accuracy in rivals.items()
            if accuracy is not None and floor <= accuracy
        ]
    return found


TITLES = ["domain", "n", "arm", "right", "95 % interval", "balanced"]
TITLES += ["unparsed", "truncated", "refused", "tokens/s"]


def human(result: Mapping[str, Any]) -> str:
    """The result as an aligned table for a terminal, every domain's baselines under its arms."""
    rows = [TITLES]
    notes = []
    for name, entry in result["domains"].items():
        for arm, one in entry["arms"].items():
            counts = [str(one[count]) for count in ("unparsed", "truncated", "refused")]
            rows.append([*_scores(name, entry, arm, one), *counts, f"{one['tokens_per_second']:.1f}"])
            others = [f"{one[count]} {count}" for count in ("misrouted", "errored") if one[count]]
            notes += [f"{name}, {arm}: {', '.join(others)}"] if others else []
        for which, one in entry["baselines"].items():
            if one:
                rows.append([*_scores(name, entry, f"{which}: {one['name']}", one), "", "", "", ""])
        for arm, pair in entry["mcnemar"].items():
            alone = f"only {arm} right on {pair['b']}, only base on {pair['c']}"
            notes.append(f"{name}: {alone}; McNemar p = {pair['p']:.2g}")
    return _aligned(rows) + "".join(f"{note}\n" for note in notes)


def _scores(name: str, entry: Mapping[str, Any], who: str, one: Mapping[str, Any]) -> list[str]:
    low, high = one["interval"]
    return [
        name,
        str(entry["n"]),
        who,
        f"{one['accuracy']:.1%}",
        f"{low:.1%} - {high:.1%}",
        f"{one['balanced_accuracy']:.1%}",
    ]


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell: words to the left, numbers to the right."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    words = {TITLES.index("domain"), TITLES.index("arm")}
    lines = [
        "  ".join(
            cell.ljust(width) if column in words else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)
