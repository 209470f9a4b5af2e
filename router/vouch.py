"""What the gate wants to know of a version that only answering and routing can tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from registry.gate import Evidence
from registry.measures import Outcome, Paired
from registry.store import Store, Version
from specialists.domain import items, load
from specialists.domain import names as domain_names
from specialists.errors import BadInput
from specialists.paths import cache

from .arms import Evaluation, Tools
from .embed import Encoder
from .route import Entry, Router
from .saved import Saved

SAMPLE = 20  # questions that the adapter answers again
BOTH = 100  # questions that a version and the one it replaces both answer
ROUTED = 50  # questions of every other specialist


def vouch(
    version: Version,
    replaces: Version | None,
    store: Store,
    tools: Callable[[], Tools],
    encoder: Callable[[], Encoder],
    examples: Path | None = None,
    progress: bool = True,
) -> Evidence:
    """Measure what there is to measure; a specialist of no known domain has its routing measured alone.

    The sample is answered anew, the comparison with the replaced version may use answers saved by `router eval`.
    examples: the JSONL file that it was trained on.
    """
    report = version.card.report or {}
    name = str(report.get("domain", version.card.name))
    routed = _routed(version, replaces, store, encoder())
    if name.partition(":")[0] not in domain_names() or not report:
        return Evidence(routed=routed)
    split = str(report.get("split", "test"))
    opened = tools()
    again = _answered(opened, split, f"{name}@{version.card.version}", SAMPLE, progress, fresh=True)
    paired = None
    if replaces:
        new, old = (
            _answered(opened, split, f"{name}@{one.card.version}", BOTH, progress)
            for one in (version, replaces)
        )
        paired = Paired.of(new, old)
    tested = [task.key for task in items(load(name), split, int(report["n"]))]
    trained = _keys(examples) if examples else ()
    return Evidence((sum(one.right for one in again), len(again)), paired, routed, trained, tested)


def _answered(
    tools: Tools, split: str, name: str, n: int, progress: bool, fresh: bool = False
) -> Sequence[Outcome]:
    evaluation = Evaluation(tools, split, {})
    evaluation.add_domain(name, n)
    return evaluation.measure("specialist", Saved(cache() / "eval" / f"{split}.jsonl", fresh), progress)


def _routed(
    version: Version, replaces: Version | None, store: Store, encoder: Encoder
) -> dict[str, tuple[int, int, int]]:
    """Of other specialists' test questions, how many are routed to them without and with this version."""
    others = [known for known in store.list() if known.card.name != version.card.name]
    entries = [_entry(known) for known in others]
    before = Router([*entries, *([_entry(replaces)] if replaces else [])], encoder)
    after = Router([*entries, _entry(version)], encoder)
    found = {}
    for other in others:
        name = other.card.name
        if name not in domain_names():
            continue
        questions = [task.question for task in items(load(name), "test", ROUTED)]
        right = [
            sum(decision.specialist == name for decision in router.route_many(questions))
            for router in (before, after)
        ]
        found[name] = (right[0], right[1], len(questions))
    return found


def _entry(version: Version) -> Entry:
    return Entry(version.card.name, version.card.version, version.card.exemplars)


def _keys(path: Path) -> list[str]:
    import json

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [str(json.loads(line)["key"]) for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} is not a file of training examples ({error}).") from error
