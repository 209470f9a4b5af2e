"""Adapters read beside the others' answers: whose requests wait, whose fail, and no cliff beyond the budget."""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.loop import Loop
from router.engine.scheduler import Scheduler
from specialists.errors import BadInput, Damaged

from .readings import SIZE, WAIT, Make, Reads, ask, resident, settled, spoil


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def engine(tiny_base: Path) -> Engine:
    """With room for three tiny adapters."""
    return Engine(find_base(str(tiny_base)), dtype="float32", adapter_bytes=3 * SIZE)


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    with Scheduler(engine, rows=16) as scheduler:
        yield scheduler


def test_others_are_answered_while_one_is_read(
    scheduler: Scheduler, reads: Reads, tiny_adapter: Make
) -> None:
    for name in ("a", "b", "c", "slow"):
        scheduler.engine.add(name, tiny_adapter(name))
    assert reads.names == ["a", "b", "c"]  # no room for the last
    gate = reads.gate("slow")
    scheduler.submit(ask("c")).result(WAIT)
    talking = scheduler.submit(ask("a", 100))
    slow = [scheduler.submit(ask("slow")) for _ in range(10)]
    for name in ("a", "c", None) * 3:
        assert scheduler.submit(ask(name)).result(WAIT).tokens == 4
    assert talking.result(WAIT).tokens == 100 and not any(ticket.done for ticket in slow)
    gate.set()
    assert [ticket.result(WAIT).tokens for ticket in slow] == [4] * 10
    assert reads.names == ["a", "b", "c", "slow"]  # once for all ten
    assert set(resident(scheduler.engine.residency)) == {"a", "c", "slow"}


def test_one_larger_than_the_budget_answers_when_it_is_alone(engine: Engine, tiny_adapter: Make) -> None:
    folders = {"small": tiny_adapter("small", scale=0.6), "large": tiny_adapter("large", rank=16, scale=0.4)}
    plenty = Engine(engine.base, dtype="float32")
    for name, folder in folders.items():
        engine.add(name, folder)
        plenty.add(name, folder)
    assert resident(engine.residency) == ["small"]
    asked = [ask(name, 6) for name in ("small", "large", "small", None, "large")]
    expected = [said.text for said in plenty.generate(asked)]
    with Scheduler(engine, rows=4) as scheduler:
        tickets = [scheduler.submit(one) for one in asked]
        assert [ticket.result(WAIT).text for ticket in tickets] == expected
        settled(engine.residency)
    assert [said.text for said in engine.generate(asked)] == expected


def test_a_row_that_ended_does_not_need_its_adapter(engine: Engine, tiny_adapter: Make) -> None:
    """A row that is done stays in the batch for a while, when its adapter may be dropped for another."""
    for name in "cabd":
        engine.add(name, tiny_adapter(name, scale=0.6), pinned=name == "c")
    expected = engine.generate([ask("a", 60)])[0].text
    with Scheduler(engine, rows=32) as scheduler:
        long = [scheduler.submit(ask("a", 60, "hi")) for _ in range(20)]
        next(iter(long[-1]))
        for name in "bd":
            assert scheduler.submit(ask(name, 2)).result(WAIT).tokens == 2
        assert [ticket.result(WAIT).text for ticket in long] == [expected] * 20
        assert "b" not in resident(engine.residency)


def test_a_name_with_other_bytes_is_another_adapter_in_memory_or_not(
    scheduler: Scheduler, reads: Reads, tiny_adapter: Make
) -> None:
    engine = scheduler.engine
    for name in ("a", "b", "c"):
        engine.add(name, tiny_adapter(name))
    old_folder = tiny_adapter("old", scale=0.9)
    engine.add("name", old_folder)
    gate = reads.gate("old")
    before = [scheduler.submit(ask("name", 8)) for _ in range(3)]  # wait for what is not in memory yet
    engine.add("name", tiny_adapter("new", scale=0.9))
    after = scheduler.submit(ask("name", 8))
    gate.set()
    plenty = Engine(engine.base, dtype="float32")
    for name in ("old", "new"):
        plenty.add(name, old_folder.with_name(name))
    old, new = (said.text for said in plenty.generate([ask("old", 8), ask("new", 8)]))
    assert [ticket.result(WAIT).text for ticket in before] == [old] * 3 and after.result(
        WAIT
    ).text == new != old


@pytest.mark.parametrize("how", ["removed", "cut", "changed"])
def test_a_file_spoilt_after_it_was_added_fails_its_own_requests_only(
    scheduler: Scheduler, tiny_adapter: Make, how: str
) -> None:
    engine = scheduler.engine
    for name in ("a", "b", "c", "gone"):
        engine.add(name, tiny_adapter(name))
    spoil(engine.residency._records[engine.adapters["gone"]].folder, how)
    for _ in range(2):  # it is tried again when it is asked for again
        talking = scheduler.submit(ask("a", 50))
        tickets = [scheduler.submit(ask(name)) for name in ("gone", "a", "gone", "b", None)]
        for place in (0, 2):
            with pytest.raises(Damaged, match="was changed or removed after it was added; add it again"):
                tickets[place].result(WAIT)
        assert [tickets[place].result(WAIT).tokens for place in (1, 3, 4)] == [4, 4, 4]
        assert talking.result(WAIT).tokens == 50
    with pytest.raises(Damaged) as caught:
        scheduler.submit(ask("gone")).result(WAIT)
    assert "\n" not in str(caught.value)
    engine.add("gone", tiny_adapter("gone"))
    assert scheduler.submit(ask("gone")).result(WAIT).tokens == 4


def test_an_adapter_that_cannot_be_read_says_so_to_generate(engine: Engine, tiny_adapter: Make) -> None:
    for name in ("a", "b", "c", "gone"):
        engine.add(name, tiny_adapter(name))
    spoil(engine.residency._records[engine.adapters["gone"]].folder, "removed")
    with pytest.raises(Damaged, match="add it again"):
        engine.generate([ask("a"), ask("gone"), ask("b")])
    settled(engine.residency)
    assert [said.tokens for said in engine.generate([ask("a"), ask("b")])] == [4, 4]


def test_the_same_bytes_elsewhere_mend_what_was_lost(engine: Engine, tiny_adapter: Make) -> None:
    for name in ("a", "b", "c", "gone"):
        engine.add(name, tiny_adapter(name))
    folder = tiny_adapter("gone")
    shutil.copytree(folder, folder.with_name("copy"))
    spoil(folder, "removed")
    engine.add("again", folder.with_name("copy"))
    assert engine.adapters["again"] == engine.adapters["gone"]
    assert engine.generate([ask("gone")])[0].tokens == 4  # it was never gone from what is registered


def test_removed_while_it_answers_or_waits(scheduler: Scheduler, reads: Reads, tiny_adapter: Make) -> None:
    engine = scheduler.engine
    for name in ("a", "b", "c", "late"):
        engine.add(name, tiny_adapter(name))
    gate = reads.gate("late")
    talking, waiting = scheduler.submit(ask("a", 60)), scheduler.submit(ask("late"))
    next(iter(talking))
    for name in ("a", "late"):
        engine.remove(name)
        with pytest.raises(BadInput, match="No adapter"):
            scheduler.submit(ask(name))
    gate.set()
    assert talking.result(WAIT).tokens == 60 and waiting.result(WAIT).tokens == 4
    scheduler.close()
    settled(engine.residency)
    assert set(engine.adapters) == {"b", "c"}


# Two hundred adapters where there is memory for twenty.


def crowd(tiny_base: Path, tiny_adapter: Make, count: int, room: int) -> Engine:
    """An engine that knows so many adapters and keeps so many of them in memory."""
    engine = Engine(find_base(str(tiny_base)), dtype="float32", adapter_bytes=room * SIZE)
    for index in range(count):
        engine.add(str(index), tiny_adapter(f"adapter-{index}"))
    return engine


def turns(engine: Engine, names: list[str], clients: int) -> list[int]:
    """Turns of the loop that each request took, asked by so many clients one after another.

    What is being read is there in the next turn, so that nothing depends on how fast that is.
    """
    loop: Loop = engine.loop(clients, 512)
    begun: dict[Any, int] = {}
    took: list[int] = []
    left = iter(names)
    now = 0
    while True:
        while len(begun) < clients and (name := next(left, None)) is not None:
            row = engine.row(ask(name, 8))
            loop.waiting.add(row)
            begun[row] = now
        if not begun:
            return took
        for row in loop.turn():
            if row.done:
                assert row.error is None
                took.append(now + 1 - begun.pop(row))
        now += 1
        assert now < 100 * len(names)
        engine.residency._reader.submit(lambda: None).result(WAIT)


def test_no_request_waits_long_where_the_working_set_exceeds_the_budget(
    tiny_base: Path, tiny_adapter: Make
) -> None:
    engine = crowd(tiny_base, tiny_adapter, 40, 4)
    rng = random.Random(5)
    names = [str(rng.randrange(40)) for _ in range(100)]
    loads = engine.residency.loads
    took = turns(engine, names, 3)
    assert len(took) == 100 and max(took) <= 3 * median(took), Counter(took)
    assert engine.residency.loads - loads <= 100 and engine.residency.bytes <= 4 * SIZE
    took = turns(engine, names, 8)  # twice as many clients as there is memory for
    assert len(took) == 100 and max(took) <= 5 * median(took), Counter(took)


def seconds(engine: Engine, count: int, clients: int, each: int) -> list[float]:
    """Seconds that each request took, of so many clients who ask random adapters of `count`, one after another."""
    found: list[float] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(each):
            begun = time.perf_counter()
            scheduler.submit(ask(str(rng.randrange(count)), 8)).result(WAIT)
            found.append(time.perf_counter() - begun)

    with Scheduler(engine) as scheduler:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    return found


@pytest.mark.slow
def test_two_hundred_adapters_over_memory_for_twenty(tiny_base: Path, tiny_adapter: Make) -> None:
    """Nobody waits for more than three times the median, in the best of three runs on a machine that others use."""
    engine = crowd(tiny_base, tiny_adapter, 200, 20)
    runs = [seconds(engine, 200, 8, 25) for _ in range(3)]
    assert all(len(run) == 200 for run in runs) and engine.residency.bytes <= 20 * SIZE
    assert min(max(run) / median(run) for run in runs) <= 3
