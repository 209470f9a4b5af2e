"""Prices, the budget, and a ledger that no crash and no second process can spoil."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router import ledger
from router.ledger import (
    Budget,
    Charge,
    Ledger,
    OverBudget,
    Totals,
    Usage,
    cheapest,
    dollars,
    money,
    prices,
)
from specialists.errors import BadInput, Unavailable

HAIKU, SONNET, OPUS = "claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"
COUNT = st.integers(0, 10**9)
USAGES = st.builds(Usage, COUNT, COUNT, COUNT, COUNT)
WORDS = st.text(max_size=30)
CHARGES = st.builds(Charge, WORDS, WORDS, WORDS, WORDS, USAGES, st.floats(0, 1e6))
LINE = Charge("2026-11-01T00:00:00+00:00", "r", HAIKU, "ask", Usage(10, 5), 0.25).line()
SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def appender(path: Path, run: str, count: int) -> subprocess.Popen[bytes]:
    """Another process that appends charges one after another."""
    code = (
        "import sys; from pathlib import Path; from router.ledger import Charge, Ledger, Usage\n"
        "ledger, run = Ledger(Path(sys.argv[1])), sys.argv[2]\n"
        "for i in range(int(sys.argv[3])):\n"
        f"    ledger.add(Charge.now(run, {HAIKU!r}, 'x' * 200, Usage(input=i)))\n"
        "    print(i, flush=True)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), run, str(count)],
        stdout=subprocess.PIPE,
        cwd=Path(ledger.__file__).parent.parent,
    )


@pytest.mark.parametrize(
    ("model", "usage", "cost"),
    [
        (HAIKU, Usage(input=1_000_000), 0.10),
        (HAIKU, Usage(output=1_000_000), 0.50),
        (SONNET, Usage(1_000_000, 1_000_000), 12.0),
        (OPUS, Usage(cache_write=1_000_000), 5.0),
        (OPUS, Usage(cache_read=1_000_000), 0.4),
        (SONNET, Usage(), 0.0),
    ],
)
def test_dollars(model: str, usage: Usage, cost: float) -> None:
    assert dollars(model, usage) == pytest.approx(cost)
    assert dollars(model, usage, batch=True) == pytest.approx(cost / 2)


def test_a_model_without_a_price_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"'claude-3-5-haiku'.*claude-haiku-5-5"):
        dollars("claude-3-5-haiku", Usage())


def test_the_table_is_whole() -> None:
    assert cheapest() == HAIKU
    assert all(set(price) == {"input", "output"} for price in prices()["models"].values())
    assert set(prices()["factors"]) == {"batch", "cache_read", "cache_write"}


@given(USAGES, USAGES, st.sampled_from([HAIKU, SONNET, OPUS]))
def test_dollars_add_up(one: Usage, other: Usage, model: str) -> None:
    assert dollars(model, one + other) == pytest.approx(dollars(model, one) + dollars(model, other))


@pytest.mark.parametrize(
    ("amount", "shown"), [(0, "$0.00"), (1e-9, "$0.000001"), (0.05, "$0.05"), (0.0001234, "$0.000123"),
                          (1, "$1.00"), (1234.5, "$1,234.50")]
)  # fmt: skip
def test_money(amount: float, shown: str) -> None:
    assert money(amount) == shown


@pytest.mark.parametrize("limit", [math.nan, math.inf, -0.01])
def test_a_budget_is_a_sum_of_money(limit: float) -> None:
    with pytest.raises(BadInput, match="dollars"):
        Budget(limit)


def test_a_budget_holds_the_worst_and_settles_for_the_price() -> None:
    budget = Budget(1.0, spent=0.5)
    budget.hold(0.4)
    with pytest.raises(OverBudget, match=r"\$0\.20 and \$0\.90 of the budget of \$1\.00"):
        budget.hold(0.2)
    budget.settle(0.4, 0.1)
    budget.hold(0.4)
    assert (budget.spent, budget.held) == (0.6, 0.4)


def test_threads_cannot_overdraw_a_budget() -> None:
    budget, refused = Budget(10.0), []

    def spend() -> None:
        for _ in range(100):
            try:
                budget.hold(0.125)
                budget.settle(0.125, 0.125)
            except OverBudget:
                refused.append(1)

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (budget.spent, budget.held, len(refused)) == (10.0, 0.0, 800 - 80)


@SHARED
@given(st.lists(CHARGES, max_size=8))
def test_what_is_added_is_found(tmp_path: Path, charges: list[Charge]) -> None:
    """In order, whatever the words are; half surrogates and line ends included."""
    book = Ledger(tmp_path / "ledger.jsonl")
    book.path.unlink(missing_ok=True)
    for charge in charges:
        book.add(charge)
    assert book.charges() == (charges, 0)
    assert book.totals().dollars == pytest.approx(sum(charge.dollars for charge in charges))


@SHARED
@given(st.binary(max_size=80))
def test_a_damaged_line_spoils_no_other(tmp_path: Path, garbage: bytes) -> None:
    book = Ledger(tmp_path / "ledger.jsonl")
    book.path.write_bytes(LINE + garbage)
    book.add(Charge.parse(LINE))  # type: ignore[arg-type]
    found = book.totals()
    damaged = sum(bool(line.strip()) for line in garbage.split(b"\n"))
    assert (found.calls, found.dollars, found.damaged) == (2, 0.5, damaged)


@pytest.mark.parametrize(
    "change",
    [{"input": -1}, {"input": 1.5}, {"output": True}, {"dollars": -1}, {"dollars": math.nan}, {"dollars": "1"},
     {"dollars": 10**400}, {"dollars": math.inf}, {"model": None}, {"run": 3}],
)  # fmt: skip
def test_wrong_values_are_damage(change: dict[str, object]) -> None:
    assert Charge.parse(LINE) is not None
    assert Charge.parse(json.dumps(json.loads(LINE) | change).encode()) is None


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"null", b"{}", LINE[:-20], b"[" * 100_000, b"\xff\xfe", b"9" * 9999]
)
def test_other_lines_are_damage(line: bytes) -> None:
    assert Charge.parse(line) is None


def test_fields_of_later_versions_are_passed_over() -> None:
    assert Charge.parse(json.dumps(json.loads(LINE) | {"colour": "red"}).encode()) == Charge.parse(LINE)


def test_totals_of_one_run_and_of_nothing(tmp_path: Path) -> None:
    book = Ledger(tmp_path / "deep" / "ledger.jsonl")
    assert book.totals() == Totals(0, Usage(), 0.0, 0)
    for run in ("a", "b", "a"):
        book.add(Charge.now(run, SONNET, "teach", Usage(1000, 100)))
    assert book.totals("a") == Totals(2, Usage(2000, 200), pytest.approx(0.006), 0)
    assert book.totals().calls == 3


def test_the_ledger_is_in_the_home() -> None:
    assert Ledger().path == Path(os.environ["ROUTER_HOME"]) / "ledger.jsonl"


def test_a_ledger_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="ROUTER_HOME"):
        Ledger(tmp_path / "file" / "ledger.jsonl").ready()
    (tmp_path / "ledger.jsonl").mkdir()
    with pytest.raises(Unavailable, match="Could not read"):
        Ledger(tmp_path / "ledger.jsonl").totals()
    with pytest.raises(Unavailable, match="Could not write"):
        Ledger(tmp_path / "ledger.jsonl").add(Charge.now("r", HAIKU, "x", Usage()))


def test_two_processes_append(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    processes = [appender(path, run, 40) for run in ("a", "b")]
    assert [process.wait(120) for process in processes] == [0, 0]
    charges, damaged = Ledger(path).charges()
    assert damaged == 0
    for run in ("a", "b"):
        assert [charge.usage.input for charge in charges if charge.run == run] == list(range(40))


def test_a_killed_process_loses_nothing_it_reported_and_holds_nobody_up(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    process = appender(path, "killed", 100_000)
    assert process.stdout is not None
    reported = [int(process.stdout.readline()) for _ in range(20)][-1]
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    book = Ledger(path)
    book.add(Charge.now("after", HAIKU, "x", Usage()))
    charges, damaged = book.charges()
    assert damaged <= 1 and charges[-1].run == "after"
    assert [charge.usage.input for charge in charges[: reported + 1]] == list(range(reported + 1))
