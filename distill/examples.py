"""Training examples from a domain's own solver: checked, balanced, and never shared with a test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def covering(found: Sequence[Example], n: int) -> list[Example]:
    """n of the examples that together show most of what there is to learn, short ones and long ones.

    Labels and eighths of length take turns; each time the example is taken whose steps (see steps_of) were seen
    least so far. A step's k-th showing counts 1/sqrt(k), which makes the gain submodular, so that being greedy is near
    the best choice (Nemhauser, Wolsey and Fisher 1978).
    """
    by_label: dict[str, list[Example]] = {}
    for example in sorted(found, key=lambda example: len(example.completion)):
        by_label.setdefault(example.label, []).append(example)
    eighths = [
        [group[at * len(group) // 8 : (at + 1) * len(group) // 8] for group in by_label.values()]
        for at in range(8)
    ]
    pools = [pool for row in eighths for pool in row if pool]
    steps = {example.key: steps_of(example) for example in found}
    shown: Counter[tuple[str, ...]] = Counter()
    chosen: list[Example] = []
    while len(chosen) < n and any(pools):
        for pool in pools:
            if pool and len(chosen) < n:
                best = max(pool, key=lambda one: sum((shown[step] + 1) ** -0.5 for step in steps[one.key]))
                pool.remove(best)
                shown.update(steps[best.key])
                chosen.append(best)
    return chosen


def steps_of(example: Example) -> set[tuple[str, ...]]:
    """The steps of an example: every three neighbouring words, numbers or signs of a line of question or solution."""
    lines = [*example.messages[-1]["content"].splitlines(), *example.completion.splitlines()]
    words = [["", *re.findall(r"\d+|[^\W\d]+|[^\w\s]", line), ""] for line in lines]
    return {tuple(row[at : at + 3]) for row in words for at in range(len(row) - 2)}


def balance(found: Iterable[Example]) -> dict[str, int]:
    """How many examples each label has."""
    return dict(sorted(Counter(example.label for example in found).items()))
