"""Training examples from a domain's own solver: checked, balanced, and never shared with a test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice, zip_longest

from specialists.domain import Domain, Task, Verdict, grade, load
from specialists.errors import BadInput
from specialists.prompts import PROMPTS, messages

HELD_OUT = 1000  # test items of every variant of a domain that training never sees


@dataclass(frozen=True)
class Example:
    """Chat messages and the completion to learn, with the content it came from."""

    messages: list[dict[str, str]]
    completion: str
    key: str
    label: str


def held_out(domain: Domain) -> set[str]:
    """Contents of the test items of this domain's variants whose distribution is not thinned by split."""
    variants: Iterable[str] = getattr(domain, "unthinned", ())
    return {load(name).task("test", index).key for name in variants for index in range(HELD_OUT)}


def examples(domain: Domain, n: int, split: str = "train", skip: int = 0) -> list[Example]:
    """n checked examples with distinct contents after the first `skip`, labels as even as the split allows.

    Raises BadInput when the domain's own worked solution does not pass its own grader, or too few exist.
    """
    seen = held_out(domain)
    tasks: list[Task] = []
    for index in range(20 * (skip + n) + 100):
        if len(tasks) == skip + n:
            break
        task = domain.task(split, index)
        if task.key not in seen:
            seen.add(task.key)
            tasks.append(task)
    if len(tasks) < skip + n:
        raise BadInput(
            f"{domain.name} has only {len(tasks)} distinct {split} examples; ask for at most that many."
        )
    return [_example(domain, task) for task in tasks[skip:]]


def _example(domain: Domain, task: Task) -> Example:
    completion = domain.worked(task)
    verdict = grade(domain, task, completion, truncated=False)
    if verdict is not Verdict.RIGHT:
        raise BadInput(
            f"The worked solution of {domain.name} item {task.key!r} is {verdict}: mend its worked()."
        )
    return Example(messages(PROMPTS[domain.prompt], task.question), completion, task.key, task.label)


def longest(found: Iterable[Example], n: int) -> list[Example]:
    """The n examples with the longest completions, the labels taking turns: the most steps to learn from n examples."""
    groups: dict[str, list[Example]] = {}
    for example in sorted(found, key=lambda example: -len(example.completion)):
        groups.setdefault(example.label, []).append(example)
    turns = (example for row in zip_longest(*groups.values()) for example in row if example)
    return list(islice(turns, n))


def balance(found: Iterable[Example]) -> dict[str, int]:
    """How many examples each label has."""
    return dict(sorted(Counter(example.label for example in found).items()))
