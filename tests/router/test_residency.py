"""Adapters in memory: a byte budget, the last used first, pinned ones for good, known by their bytes."""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.request import Request
from router.engine.residency import Residency
from specialists.errors import BadInput

from .readings import SIZE, WAIT, Make, Reads, resident, settled, spoil, use


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture(scope="module")
def opened(tiny_base: Path) -> Engine:
    return Engine(find_base(str(tiny_base)), dtype="float32")


@pytest.fixture
def residency(opened: Engine) -> Residency:
    """With room for three tiny adapters."""
    return Residency(opened.residency.shapes, opened.model.dtype, opened.residency.place, 3 * SIZE)


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


def test_pinned_no_more_is_within_the_budget_again(residency: Residency, tiny_adapter: Make) -> None:
    for name in "abcde":
        residency.add(name, tiny_adapter(name), pinned=True)
    assert residency.bytes == 5 * SIZE
    residency.add("a", tiny_adapter("a"))
    residency.remove("b")
    assert resident(residency) == ["c", "d", "e"] and residency.bytes == 3 * SIZE
    settled(residency)


@pytest.fixture
def six(tiny_adapter: Make) -> list[Path]:
    return [tiny_adapter(f"adapter-{index}") for index in range(6)]


@given(st.lists(st.tuples(st.sampled_from(["use", "add", "pin", "remove"]), st.integers(0, 5)), max_size=40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_budget_holds_whatever_happens(
    opened: Engine, six: list[Path], steps: list[tuple[str, int]]
) -> None:
    residency = Residency(opened.residency.shapes, opened.model.dtype, opened.residency.place, 3 * SIZE)
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


def test_other_scales_are_another_adapter(residency: Residency, tiny_adapter: Make) -> None:
    folder = tiny_adapter("a")
    key = residency.add("a", folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 3}))
    assert residency.add("a", folder) != key


def test_one_added_again_while_in_memory_is_later_read_from_where_it_is_now(
    tiny_base: Path, tiny_adapter: Callable[..., Path]
) -> None:
    one, other = tiny_adapter("one"), tiny_adapter("other")
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.add("one", one)
    engine.residency.budget = engine.residency.bytes  # room for one
    copy = one.with_name("copy")
    shutil.copytree(one, copy)
    shutil.rmtree(one)
    copy.rename(one)  # the same bytes in another file, as when a version is registered again
    engine.add("one", one)
    engine.add("other", other)
    messages = [{"role": "user", "content": "x"}]
    before, _, after = (
        engine.generate([Request(messages, name, 8)])[0].text for name in ("one", "other", "one")
    )
    assert before == after and engine.residency.loads >= 3
