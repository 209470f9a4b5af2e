"""A domain is a dataset and its grader in one object."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import import_module
from importlib.metadata import entry_points
from importlib.resources import files
from random import Random
from typing import Any, Protocol, runtime_checkable

from .errors import BadInput
from .parsers import PARSERS

SHARES = {"train": 60, "dev": 10, "test": 30}  # per cent of all canonical contents


class Verdict(StrEnum):
    """What became of one answer; the five are never folded together."""

    RIGHT = "right"
    WRONG = "wrong"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    ERRORED = "errored"


@dataclass(frozen=True)
class Task:
    """One item of a domain.

    `key` is the canonical content with order, shift and renaming removed: two items with one key are the same
    problem. `label` is the class that balanced accuracy averages over.
    """

    domain: str
    kind: str
    question: str
    answer: str
    key: str
    difficulty: str
    label: str
    facts: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@runtime_checkable
class Domain(Protocol):
    """What the rest of the project needs to know of a domain."""

    name: str
    prompt: str  # a name in prompts.PROMPTS
    parser: str  # a name in parsers.PARSERS
    max_new_tokens: int

    def task(self, split: str, index: int) -> Task:
        """The index-th item of a split ("train", "dev", "test", or one of these with a suffix such as "test-7")."""
        ...

    def verify(self, task: Task, answer: str | None) -> Verdict:
        """Grade a parsed answer: RIGHT, WRONG, or UNPARSED for None."""
        ...

    def worked(self, task: Task) -> str:
        """The solution written out step by step, ending in the answer line."""
        ...

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        """Shortcuts that skip the work, by name: the trivial baselines besides the majority class."""
        ...

    def exemplars(self) -> list[str]:
        """Questions as people phrase them, for the router."""
        ...


def split_of(name: str, key: str) -> str:
    """The split that owns a canonical content, so that no two splits, of any variants of a domain, share an item."""
    stem = name.partition(":")[0]
    point = int.from_bytes(hashlib.sha256(f"{stem}/{key}".encode()).digest()[:8], "big") % 100
    for split, share in SHARES.items():
        if point < share:
            return split
        point -= share
    raise AssertionError("SHARES must sum to 100")


def draw(name: str, split: str, index: int, make: Callable[[Random], Task]) -> Task:
    """The index-th item of a split: draws from Random("name/split/index") until the content belongs to the split."""
    root = split.split("-")[0]
    if root not in SHARES:
        raise BadInput(
            f"There is no split {split!r}; use one of {', '.join(SHARES)}, or test-SEED for a fresh test."
        )
    rng = Random(f"{name}/{split}/{index}")
    while True:
        task = make(rng)
        if split_of(name, task.key) == root:
            return task


def items(domain: Domain, split: str, n: int) -> list[Task]:
    """The first n items of a split with distinct content."""
    seen: set[str] = set()
    found: list[Task] = []
    for index in range(50 * n + 50):
        if len(found) == n:
            break
        task = domain.task(split, index)
        if task.key not in seen:
            seen.add(task.key)
            found.append(task)
    if len(found) < n:
        raise BadInput(
            f"{domain.name} has only {len(found)} distinct {split} items; ask for at most that many."
        )
    return found


def grade(domain: Domain, task: Task, text: str, truncated: bool) -> Verdict:
    """Grade generated text. Text that stops in mid-air is TRUNCATED unless it already holds an answer."""
    answer = PARSERS[domain.parser](text)
    if answer is None:
        return Verdict.TRUNCATED if truncated else Verdict.UNPARSED
    return domain.verify(task, answer)


def method(domain: Domain) -> str:
    """The domain's own method in words: strategy.md beside its module; "" without one."""
    path = files(type(domain).__module__).joinpath("strategy.md")
    return path.read_text(encoding="utf-8") if path.is_file() else ""


BUILT_IN = {
    "scheduling": "specialists.scheduling:Scheduling",
    "dates": "specialists.dates:Dates",
    "cron": "specialists.cron:Cron",
}


def names() -> Iterator[str]:
    """Every domain that can be loaded: the built-in ones, then those of installed `router.domains` entry points."""
    yield from BUILT_IN
    for entry in entry_points(group="router.domains"):
        if entry.name not in BUILT_IN:
            yield entry.name


def load(name: str) -> Domain:
    """A domain by name; "scheduling:half-hour" is the variant half-hour of scheduling."""
    stem, _, variant = name.partition(":")
    target = BUILT_IN.get(stem)
    if target is None:
        for entry in entry_points(group="router.domains"):
            if entry.name == stem:
                target = entry.value
    if target is None:
        raise BadInput(f"There is no domain {stem!r}; known domains: {', '.join(names())}.")
    module, _, attribute = target.partition(":")
    make = getattr(import_module(module), attribute)
    domain: Domain = make(variant) if variant else make()
    return domain
