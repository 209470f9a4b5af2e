"""The solution as the student writes it: a line for each field, the words before what they become."""

from __future__ import annotations

from collections.abc import Mapping

from .firing import FIELDS


def render(steps: Mapping[str, str], answer: str) -> str:
    """One line for each field, "*" where the question says nothing of it, then the answer line."""
    lines = [f"{name}: {steps.get(name, '*')}" for name in FIELDS]
    return "\n".join([*lines, f"Answer: {answer}"])
