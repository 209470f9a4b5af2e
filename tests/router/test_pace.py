"""How many threads multiply while others want the processors too; by clocks of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.pace import LONGEST, Pace
from router.engine.request import Request
from router.engine.scheduler import Scheduler


@dataclass
class Machine:
    """Processors that `others` programs want too, all the time."""

    processors: int = 2
    others: float = 0.0
    wall: float = 0.0
    own: float = 0.0
    idle: float = 0.0
    set: list[int] = field(default_factory=list)

    def pace(self) -> Pace:
        return Pace(self.processors, lambda: self.wall, lambda: self.own, lambda: self.idle, self.set.append)

    def run(self, pace: Pace, seconds: float, wanted: float | None = None) -> None:
        """Steps of 0.1 s. Who wants more than there is gets a share."""
        for _ in range(round(seconds * 10)):
            pace.look()
            asked = pace.threads if wanted is None else wanted
            got = min(asked, self.processors * asked / max(self.processors, asked + self.others))
            busy = min(self.processors, got + self.others)
            self.wall += 0.1
            self.own += 0.1 * got
            self.idle += 0.1 * (self.processors - busy)


@pytest.mark.parametrize(
    ("processors", "others", "threads"), [(2, 1, 1), (2, 2, 1), (4, 1, 3), (8, 4, 4), (2, 0, 2)]
)
def test_threads_are_what_the_others_leave(processors: int, others: float, threads: int) -> None:
    machine = Machine(processors, others)
    pace = machine.pace()
    machine.run(pace, 1.9)
    assert pace.threads == threads


def test_a_quiet_machine_is_left_alone() -> None:
    machine = Machine()
    machine.run(machine.pace(), 60)
    assert machine.set == []


def test_threads_come_back_when_the_others_are_done() -> None:
    machine = Machine(others=1)
    pace = machine.pace()
    machine.run(pace, 2)
    machine.others = 0
    machine.run(pace, 4)
    assert machine.set == [1, 2]


def test_who_comes_and_goes_is_not_followed_every_time() -> None:
    machine = Machine()
    pace = machine.pace()
    for _ in range(60):
        machine.others = 0
        machine.run(pace, 3)
        machine.others = 1
        machine.run(pace, 1)
    assert len(machine.set) < 30
    machine.others = 0
    machine.run(pace, 2 * LONGEST)
    assert pace.threads == 2


def test_who_computes_little_is_no_sign_of_others() -> None:
    machine = Machine()
    machine.run(machine.pace(), 60, wanted=0.7)
    assert machine.set == []


def test_a_rest_is_not_counted() -> None:
    machine = Machine()
    pace = machine.pace()
    machine.run(pace, 1)
    pace.rest()
    machine.wall += 100  # nothing was multiplied, and others had it all
    machine.run(pace, 2)
    assert machine.set == []


def test_what_is_given_back_is_taken_up_where_it_was_left() -> None:
    machine = Machine(others=1)
    pace = machine.pace()
    machine.run(pace, 2)
    pace.give_back()
    pace.give_back()
    assert machine.set[-1] == 2
    machine.run(pace, 1)
    assert machine.set == [1, 2, 1] and pace.threads == 1


def test_all_threads_given_back_are_no_change() -> None:
    machine = Machine()
    pace = machine.pace()
    machine.run(pace, 2)
    pace.give_back()
    machine.run(pace, 2)
    assert machine.set == []


@given(
    st.integers(1, 16),
    st.lists(st.tuples(st.floats(0, 20), st.floats(0, 5), st.floats(0.01, 20)), max_size=40),
)
def test_there_is_always_one_and_never_more_than_at_first(
    processors: int, turns: list[tuple[float, float, float]]
) -> None:
    machine = Machine(processors)
    pace = machine.pace()
    for others, seconds, wanted in turns:
        machine.others = others
        machine.run(pace, seconds, min(wanted, pace.threads))
    assert all(1 <= threads <= processors for threads in machine.set) and 1 <= pace.threads <= processors
    if processors == 1:
        assert machine.set == []


@pytest.fixture
def crowded(tiny_base: Path) -> Iterator[Engine]:
    """An engine of two threads where others want all processors: it goes on with one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    machine = Machine(others=9)
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.pace = Pace(2, lambda: machine.wall, lambda: machine.own, lambda: machine.idle)
    machine.run(engine.pace, 2)
    yield engine
    torch.set_num_threads(before)


@pytest.mark.parametrize("scheduled", [False, True])
def test_an_engine_that_is_done_leaves_all_threads_to_the_next(crowded: Engine, scheduled: bool) -> None:
    """A training after it would else go on with one thread, slower, and round otherwise than alone."""
    request, seen = Request([{"role": "user", "content": "hi"}], None, 8), []
    if scheduled:
        with Scheduler(crowded) as scheduler:
            scheduler.submit(request, lambda _: seen.append(torch.get_num_threads())).result()
    else:
        crowded.generate([request], lambda *_: seen.append(torch.get_num_threads()))
        assert torch.get_num_threads() == 2
    assert set(seen) == {1}
    with ThreadPoolExecutor(1) as new:
        assert new.submit(torch.get_num_threads).result() == 2
