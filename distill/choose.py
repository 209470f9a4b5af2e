"""Which of many examples to learn from: those that together show the most."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from .example import Example


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
