"""The report of a run: what came of it, how it is known, and what it cost."""

from __future__ import annotations

import json
from pathlib import Path

from specialists.paths import write_atomic

from . import page, report_parts
from .page import Paragraph, Section
from .report_parts import main, percent, rivals
from .result import Result

SIGNIFICANT = 0.05


def write(result: Result, folder: Path) -> None:
    """report.json, report.md and report.html in the folder, each whole."""
    write_atomic(folder / "report.json", (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    write_atomic(folder / "report.md", markdown(result).encode())
    write_atomic(folder / "report.html", html(result).encode())


def markdown(result: Result) -> str:
    """The report as Markdown, without its charts."""
    return page.markdown(title(result), sections(result))


def html(result: Result) -> str:
    """The report as one self-contained HTML page."""
    return page.html(title(result), sections(result))


def title(result: Result) -> str:
    return f"{result.domain}, taught by {result.teacher}"


def sections(result: Result) -> list[Section]:
    """Everything, in the order in which it is read; empty ones are left out by the page."""
    return [
        Section("", [Paragraph(verdict(result))]),
        Section("Arms", report_parts.arms(result)),
        Section("By difficulty", report_parts.difficulty(result)),
        Section("What it answers", report_parts.confusion(result)),
        Section("How many examples it takes", report_parts.curve(result)),
        Section("How large the adapter is", report_parts.sizes(result)),
        Section("Training", report_parts.training(result)),
        Section("Examples", report_parts.examples(result)),
        Section("Strategy", report_parts.strategy(result)),
        Section("Mistakes", report_parts.errors(result)),
        Section("What it took", report_parts.costs(result)),
        Section("How to make it again", report_parts.again(result)),
    ]


def verdict(result: Result) -> str:
    """One paragraph from the figures, for good or ill."""
    name, arm = main(result)
    low, high = arm.result.interval
    text = (
        f"On {result.n} test items {name} is right on {arm.result.right}: {percent(arm.result.accuracy)} % "
        f"(95 % interval {percent(low)} to {percent(high)}), balanced {percent(arm.result.balanced_accuracy)} %."
    )
    beaten = {who: share for who, share in rivals(result).items() if low > share}
    other = {who: share for who, share in rivals(result).items() if low <= share}
    if beaten:
        listed = ", ".join(f"{who} at {percent(share)} %" for who, share in beaten.items())
        text += f" The interval's lower end is above {listed}."
    if other:
        listed = ", ".join(f"{who} at {percent(share)} %" for who, share in other.items())
        text += f" It is NOT above {listed}: that much is not shown."
    for pair in result.pairs:
        if pair.b in (
            "answers-only",
            "no-strategy",
            "strategy-prompt",
            "nonsense-prompt",
            "teacher-strategy",
        ):
            word = "better than" if pair.only_a > pair.only_b else "worse than"
            known = f"{word} {pair.b}" if pair.p < SIGNIFICANT else f"not known to differ from {pair.b}"
            text += f" It is {known} (only it right {pair.only_a}, only the other {pair.only_b}, p = {pair.p:.2g})."
    seeds = [arm for name, arm in result.arms.items() if name.startswith("specialist seed")]
    if len(seeds) > 1:
        shares = [percent(arm.result.balanced_accuracy) for arm in seeds]
        text += f" Balanced accuracy of the {len(seeds)} seeds: {', '.join(shares)} %."
    return text
