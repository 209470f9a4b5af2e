"""Adapters in memory: a byte budget, the last used first, read once and beside the others' answers, known by bytes."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine import residency as module
from router.engine.base import find_base
from router.engine.engine import Engine, Request
from router.engine.loop import Loop
from router.engine.residency import Residency
from router.engine.scheduler import Scheduler
from specialists.errors import BadInput, Damaged

SIZE = (
    4 * 4 * 2 * 512
)  # bytes in memory of a tiny adapter of rank 4: float32, two layers, 512 inputs and outputs each
WAIT = 120.0  # seconds after which a test fails instead of hanging

Make = Callable[..., Path]


class Reads:
    """Readings of adapters by folder name; those of a gated one wait until its gate is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.gates: dict[str, threading.Event] = {}
        self._load = module._load
        monkeypatch.setattr(module, "_load", self)

    def __call__(self, folder: Path, *rest: Any) -> Any:
        self.names.append(folder.name)
        if gate := self.gates.get(folder.name):
            assert gate.wait(WAIT)
        return self._load(folder, *rest)

    def gate(self, name: str) -> threading.Event:
        """Have readings of a folder of that name wait for this."""
        return self.gates.setdefault(name, threading.Event())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture(scope="module")
def opened(tiny_base: Path) -> Engine:
    return Engine(find_base(str(tiny_base)), dtype="float32")


@pytest.fixture
def residency(opened: Engine) -> Residency:
    """With room for three tiny adapters."""
    return Residency(opened.residency.shapes, opened.model.dtype, 3 * SIZE)


@pytest.fixture
def engine(tiny_base: Path) -> Engine:
    """With room for three tiny adapters."""
    return Engine(find_base(str(tiny_base)), dtype="float32", adapter_bytes=3 * SIZE)


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    with Scheduler(engine, rows=16) as scheduler:
        yield scheduler


def ask(adapter: str | None, most: int = 4, text: str = "hi") -> Request:
    return Request([{"role": "user", "content": text}], adapter, most)


def resident(residency: Residency) -> list[str]:
    """Names of what is in memory, the least recently used first."""
    named = {key: name for name, key in residency.names.items()}
    return [named[key] for key in residency.resident]


def use(residency: Residency, name: str) -> None:
    """As a row does that begins and ends at once."""
    key = residency.hold(name)
    residency.want([key])
    residency.wait(key)
    assert residency.use(key)
    residency.release(key)
    residency.let_go(key)


def settled(residency: Residency) -> None:
    """Nobody uses anything, and the bytes are those of what is there."""
    assert residency.bytes == sum(adapter.bytes for adapter in residency.resident.values())
    assert not any(record.used or record.held or record.loading for record in residency._records.values())
    assert set(residency.resident) <= set(residency._records) == set(residency.names.values())


# By itself: what stays and what goes.


def test_the_least_recently_used_goes_and_the_pinned_stays(residency: Residency, tiny_adapter: Make) -> None:
    for name in "abcd":
        residency.add(name, tiny_adapter(name), pinned=name == "b")
    assert resident(residency) == ["a", "b", "c"] and residency.loads == 3 and residency.bytes == 3 * SIZE
    use(residency, "a")
    use(residency, "d")
    assert resident(residency) == ["b", "a", "d"]
    for name in "cadc":
        use(residency, name)
    assert resident(residency) == ["b", "d", "c"] and residency.bytes == 3 * SIZE
    residency.add("e", tiny_adapter("e"), pinned=True)
    assert resident(residency) == ["b", "c", "e"]
    residency.add("e", tiny_adapter("e"), pinned=True)  # is there already: nothing makes room for it
    assert resident(residency) == ["b", "c", "e"]
    residency.add("b", tiny_adapter("b"))  # pinned no more
    for name in "adc":
        use(residency, name)
    assert resident(residency) == ["e", "d", "c"]
    settled(residency)


@pytest.fixture
def six(tiny_adapter: Make) -> list[Path]:
    return [tiny_adapter(f"adapter-{index}") for index in range(6)]


@given(st.lists(st.tuples(st.sampled_from(["use", "add", "pin", "remove"]), st.integers(0, 5)), max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_budget_holds_whatever_happens(
    opened: Engine, six: list[Path], steps: list[tuple[str, int]]
) -> None:
    residency = Residency(opened.residency.shapes, opened.model.dtype, 3 * SIZE)
    pinned: set[int] = set()
    for step, index in steps:
        name = str(index)
        if step == "remove":
            residency.remove(name)
            pinned.discard(index)
        elif step != "use":
            residency.add(name, six[index], pinned=step == "pin")
            (pinned.add if step == "pin" else pinned.discard)(index)
        elif name in residency.names:
            use(residency, name)
            assert resident(residency)[-1] == name
        settled(residency)
        assert residency.bytes <= max(3 * SIZE, (len(pinned) + 1) * SIZE)
        assert {str(index) for index in pinned} <= set(resident(residency))


def test_what_is_used_or_next_is_not_dropped(residency: Residency, tiny_adapter: Make) -> None:
    keys = {name: residency.add(name, tiny_adapter(name)) for name in "abcde"}
    for key in keys.values():
        residency.hold(next(name for name in keys if keys[name] == key))
    assert residency.use(keys["a"]) and residency.use(keys["b"])
    assert residency.want([keys["d"], keys["c"], keys["e"]]) == {keys["c"], keys["e"]} - set(
        residency.resident
    )
    residency.wait(keys["d"])
    assert set(resident(residency)) == {"a", "b", "d"} and not residency.use(keys["e"])
    residency.release(keys["a"])
    assert residency.want([keys["d"], keys["e"]]) == set()
    residency.wait(keys["e"])
    assert set(resident(residency)) == {"b", "d", "e"} and residency.use(keys["e"])


def test_many_threads_at_once_leave_nothing_uncounted(residency: Residency, six: list[Path]) -> None:
    faults: list[BaseException] = []
    answered: Counter[str] = Counter()

    def work(seed: int) -> None:
        rng = random.Random(seed)
        try:
            for _ in range(60):
                name = rng.choice("abcd")
                what = rng.random()
                if what < 0.25:
                    residency.add(name, six[rng.randrange(6)], pinned=rng.random() < 0.2)
                elif what < 0.35:
                    residency.remove(name)
                else:
                    answered[serve(name)] += 1
                with residency._lock:
                    counted = [
                        r for k, r in residency._records.items() if r.loading or k in residency.resident
                    ]
                    assert residency.bytes == sum(record.bytes for record in counted)
        except BaseException as fault:
            faults.append(fault)

    def serve(name: str) -> str:
        try:
            key = residency.hold(name)
        except BadInput:
            return "unknown"
        end = time.monotonic() + WAIT
        while not residency.use(key):
            assert time.monotonic() < end, "never read"
            residency.want([key])
            residency.wait(key)
        assert key in residency.resident
        time.sleep(0.001)
        assert key in residency.resident
        residency.release(key)
        residency.let_go(key)
        return "answered"

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert not faults and answered["answered"] > 50
    settled(residency)
    for name in "abcd":
        residency.remove(name)
    assert residency.bytes == 0 and not residency.resident and not residency._records and not residency.names
    dropped, forgotten = residency.swept()
    assert set(dropped) <= set(forgotten) and residency.swept() == ([], [])


# Under a scheduler: whose requests wait, and whose fail.


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


def spoil(folder: Path, how: str) -> None:
    """Change or remove the weights of an adapter that was added."""
    if how == "removed":
        shutil.rmtree(folder)
    elif how == "cut":
        path = folder / module.WEIGHTS
        path.write_bytes(path.read_bytes()[:-100])
    else:
        weights = bytearray((folder / module.WEIGHTS).read_bytes())
        weights[-1] ^= 1
        (folder / module.WEIGHTS).write_bytes(weights)


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


def test_one_being_read_again_from_elsewhere_does_not_fail(
    residency: Residency, reads: Reads, tiny_adapter: Make
) -> None:
    """The folder that it was read from goes, while the same bytes are added from another."""
    for name in "abc":
        residency.add(name, tiny_adapter(name))
    key = residency.add("first", tiny_adapter("gone"))
    shutil.copytree(tiny_adapter("gone"), tiny_adapter("gone").with_name("copy"))
    gate = reads.gate("gone")
    residency.hold("first")
    residency.want([key])
    spoil(tiny_adapter("gone"), "removed")
    adding = threading.Thread(target=residency.add, args=("second", tiny_adapter("gone").with_name("copy")))
    adding.start()
    while "second" not in residency.names:
        time.sleep(0.001)
    gate.set()
    adding.join(WAIT)
    assert residency.use(key)


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


def test_other_scales_are_another_adapter(residency: Residency, tiny_adapter: Make) -> None:
    folder = tiny_adapter("a")
    key = residency.add("a", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 3}))
    assert residency.add("a", folder) != key


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
