"""One training example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """Chat messages and the completion to learn, with the content it came from and who wrote it."""

    messages: list[dict[str, str]]
    completion: str
    key: str
    label: str
    source: Mapping[str, Any] = field(default_factory=dict, compare=False)


def balance(found: Iterable[Example]) -> dict[str, int]:
    """How many examples each label has."""
    return dict(sorted(Counter(example.label for example in found).items()))
