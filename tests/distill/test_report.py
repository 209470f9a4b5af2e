"""The report says what the figures say, whichever way they point, and survives any text and any figure."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill import report
from distill.report_parts import smallest
from distill.result import (
    Arm,
    Examples,
    Pair,
    Point,
    Result,
    Stage,
    Strategy,
    StrategyVersion,
    Training,
)
from distill.svg import Bar, Line, intervals, lines, smooth, steps
from registry.measures import ArmResult, Baseline, Tally
from router.ledger import Usage, dollars, money, prices
from specialists.errors import Damaged


def measured(right: int, n: int = 600, **counts: int) -> ArmResult:
    half, got = n // 2, right // 2
    labels = {"fits NO": (got, half), "fits YES": (right - got, n - half)}
    easy = (min(right, n // 3), n // 3)
    rest = n - right - sum(counts.values())
    return ArmResult(
        n, right, labels, wrong=rest, **counts, seconds=300.0, tokens=n * 260,
        difficulties={"easy": easy, "medium": (right - easy[0], n - easy[1])}, kinds={"fits": (right, n)},
    )  # fmt: skip


def sample(right: int = 596) -> Result:
    """What a run over half-hour questions could give."""
    arms = {
        "specialist seed 0": Arm(
            measured(right), "LoRA on 100 worked examples", "p" * 64, "a" * 64, 600 * 130
        ),
        "specialist seed 1": Arm(measured(591), "LoRA on 100 worked examples", "p" * 64, "b" * 64, 600 * 130),
        "answers-only": Arm(measured(351), "LoRA on the same examples without steps", tokens_in=600 * 130),
        "base": Arm(measured(2, unparsed=570), "the base under the same prompt", tokens_in=600 * 130),
        "teacher": Arm(measured(480, errored=3), "the teacher without a strategy", tokens_in=600 * 140),
        "teacher-strategy": Arm(measured(560), "the teacher under the frozen strategy", tokens_in=600 * 400),
    }
    loss = tuple(2.0 * 0.99**step + 0.0005 for step in range(800))
    dev = tuple((step, min(32, step // 22), 32) for step in range(100, 801, 100))
    return Result(
        domain="scheduling:half-hour",
        split="test",
        n=600,
        teacher="claude-haiku-5-5",
        base="Qwen/Qwen2.5-Coder-0.5B-Instruct@1d9614638d18024d",
        command="router distill run scheduling:half-hour --teacher claude --out my-run",
        hashes={"examples": "e" * 64, "strategy": "s" * 64},
        environment={"python": "3.11.7", "torch": "2.13.0", "cpu": "some", "cores": 2},
        arms=arms,
        pairs=tuple(Pair("specialist seed 0", name, 40, 2) for name in list(arms)[1:]),
        majority=Baseline("most common answer", Tally(600, 312, {"fits YES": (312, 312)}), {"": "YES"}),
        heuristic=Baseline("total hours against rooms", Tally(600, 455, {"fits YES": (455, 600)})),
        confusion={"NO": {"NO": 285, "YES": 3}, "YES": {"YES": 311, "truncated": 1}},
        learning=tuple(
            Point(n, seed, right - 100 + n // 2, 600, 0.9, 8, ("q_proj", "v_proj"), 8_841_928)
            for n, seed in ((25, 0), (50, 0), (100, 0), (100, 1))
        ),
        sizes=(
            Point(100, 0, 590, 600, 0.98, 8, ("all",), 8_800_000),
            Point(100, 0, 588, 600, 0.98, 4, ("all",), 4_400_000),
            Point(100, 0, 402, 600, 0.67, 8, ("q_proj", "v_proj"), 1_100_000),
        ),
        training=(
            Training("specialist seed 0", 0, 100, 8, 5e-4, 8, loss, dev, 700, 1700.0, 151.0, ("Step 40: back.",)),
            Training("answers-only", 0, 100, 8, 5e-4, 8, loss[::2], (), 800, 600.0, 160.0),
        ),
        examples=Examples(100, {"wrong": 14, "wrong step": 3}, {"fits NO": 50, "fits YES": 50}, ("Q\n\nA", "B")),
        strategy=Strategy(
            "1. Copy.\n2. Sweep.",
            (
                StrategyVersion(0, None, True, 20, 30, "none yet", ""),
                StrategyVersion(1, 0, False, 18, 30, "does not help", "--- v0\n+++ v1\n+Guess."),
                StrategyVersion(2, 0, True, 27, 30, "helps", "--- v0\n+++ v2\n+Sweep."),
            ),
        ),
        stages=(
            Stage("1-teacher", 61.0, 600, 84_000, 156_000, 0.0864),
            Stage("4-examples", 20.0, 117, 46_800, 30_420, 0.0199),
            Stage("5-train", 5100.0, 0, 0, 0, 0.0),
        ),
        errors=[{"question": "Do 2 rooms?", "gold": "YES", "got": "NO", "verdict": "wrong"}],
    )  # fmt: skip


class Checked(HTMLParser):
    """Whether every tag that opens closes, in order."""

    EMPTY = {"meta", "circle", "polyline", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def sound(result: Result) -> None:
    checked = Checked()
    checked.feed(report.html(result))
    assert checked.open == []
    for table in re.findall(r"(?:^\|.*\n)+", report.markdown(result), re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(widths) == 1, table


def test_the_page_is_whole_and_says_everything(tmp_path: Path) -> None:
    result = sample()
    sound(result)
    page, text = report.html(result), report.markdown(result)
    for words in ("596/600", "Learning curve", "my-run", "Sweep", "fits NO", "McNemar", "claude-opus-5-5"):
        assert words in page
    for words in ("596/600", "wrong step | 3", "total hours", "8.8", "Guess."):
        assert words in text
    assert page.count("<svg") == 6 and "<script" not in page and "http" not in page.replace("http-equiv", "")
    report.write(result, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json", "report.md", "report.html"}


def test_the_verdict_is_honest_both_ways() -> None:
    good, bad = report.verdict(sample()), report.verdict(sample(460))
    assert "lower end is above the majority answer at 52.0 %, the best shortcut" in good and "NOT" not in good
    assert "better than answers-only (only it right 40, only the other 2" in good
    assert "NOT above the best shortcut (total hours against rooms) at 75.8 %" in bad
    even = replace(sample(), pairs=(Pair("specialist seed 0", "answers-only", 3, 4),))
    assert "not known to differ from answers-only" in report.verdict(even)
    worse = replace(sample(), pairs=(Pair("specialist seed 0", "answers-only", 1, 40),))
    assert "It is worse than answers-only" in report.verdict(worse)


def test_figures_follow_the_counts() -> None:
    assert report.markdown(sample(590)) != report.markdown(sample(591))
    dear = replace(sample(), stages=(Stage("1-teacher", 1.0, 1, 1, 1, 50.0),))
    usage = Usage(130, 260)
    for model in prices()["models"]:
        price = dollars(model, usage)
        assert f"| {model} | {money(price)} | {50 / price:,.0f} questions |" in report.markdown(dear)
    free = replace(sample(), stages=())
    assert "nothing was paid" in report.markdown(free)


def test_the_smallest_adapter_that_holds_the_best_is_named() -> None:
    held = smallest(sample().sizes)
    assert held and held.rank == 4 and "rank 4 on all, 4.4 MB" in report.html(sample())
    assert smallest([]) is None


def test_what_is_not_there_leaves_no_heading() -> None:
    bare = replace(
        sample(), pairs=(), heuristic=None, confusion={}, learning=(), sizes=(), training=(), strategy=None, errors=()
    )  # fmt: skip
    checked = Checked()
    checked.feed(report.html(bare))
    assert checked.headings == ["Arms", "By difficulty", "Examples", "What it took", "How to make it again"]
    sound(bare)


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "a|b", "`` ``` ````", "x\n\n# y\n|", "😀 \u202e", "&lt;"]
)
def test_hostile_text_stays_text(hostile: str) -> None:
    base = sample()
    arms = {hostile: base.arms["specialist seed 0"], "base": base.arms["base"]}
    dirty = replace(
        base,
        command=hostile,
        domain=hostile,
        arms=arms,
        pairs=(Pair(hostile, "base", 1, 1),),
        errors=[{"question": hostile, "gold": hostile, "got": hostile, "verdict": hostile}],
        confusion={hostile: {hostile: 1}, "b": {"c": 2}},
        strategy=Strategy(hostile, (StrategyVersion(0, None, True, 1, 1, hostile, hostile),)),
        examples=Examples(1, {hostile: 1}, {hostile: 1}, (hostile,)),
    )
    sound(dirty)
    assert "<script>" not in report.html(dirty)


counts = st.integers(0, 40)


@settings(max_examples=40, deadline=None)
@given(
    right=counts,
    more=counts,
    loss=st.lists(st.floats(0, 20), max_size=50),
    spent=st.floats(0, 1e6),
    checks=st.lists(st.tuples(st.integers(1, 999), counts), max_size=4),
)
def test_any_result_goes_round_and_renders(
    right: int, more: int, loss: list[float], spent: float, checks: list[tuple[int, int]]
) -> None:
    n = right + more + 1
    one = ArmResult(n, right, {"x": (right, n)}, wrong=n - right, difficulties={"easy": (right, n)})
    dev = tuple((step, hit, 40) for step, hit in sorted(checks))
    result = replace(
        sample(),
        n=n,
        arms={"specialist": Arm(one, "x")},
        pairs=(),
        learning=(Point(5, 0, right, n, 0.5), Point(5, 1, 0, n, 0.5), Point(7, 0, right, n, 0.5)),
        training=(Training("specialist", 0, 5, 1, 1e-4, 8, tuple(loss), dev, 1, 1.0, 1.0),),
        stages=(Stage("x", spent, 1, 1, 1, spent),),
    )
    assert Result.from_dict(result.to_dict()) == Result.from_dict(
        Result.from_dict(result.to_dict()).to_dict()
    )
    assert Result.from_dict(result.to_dict()).training == result.training
    sound(result)
    assert "nan" not in report.html(result).lower().replace("nano", "")


def test_what_is_no_result_says_so() -> None:
    data = sample().to_dict()
    assert Result.from_dict(data).to_dict() == data
    for part in ("arms", "majority", "stages", "examples"):
        with pytest.raises(Damaged, match="not the result of a run"):
            Result.from_dict({name: value for name, value in data.items() if name != part})
    with pytest.raises(Damaged):
        Result.from_dict({**data, "pairs": 7})


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_hold_the_range(low: float, width: float) -> None:
    found = steps(low, low + width)
    assert 2 <= len(found) <= 8 and found == sorted(found)
    assert found[0] <= low + 1e-3 * width and found[-1] >= low + width - 1e-3 * width


def test_charts_of_nothing_and_of_one_point() -> None:
    assert lines("t", [], "x", "y") == "" and intervals("t", []) == ""
    one = lines("t", [Line("a", [(1.0, 0.5)], [(0.4, 0.6)])], "x", "y", percent=True)
    assert one.count("<circle") == 1 and "nan" not in one
    assert "0.0 %" not in intervals("t", [Bar("a", 0.5, 0.4, 0.6)])
    assert smooth([1.0, 2.0, 3.0], 2) == [(1.0, 1.5), (2.5, 3.0)] and smooth([]) == []
