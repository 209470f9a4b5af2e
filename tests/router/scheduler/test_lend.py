"""A scheduler's thread, lent to others while there is nothing to do."""

from __future__ import annotations

import threading

from router.engine.scheduler import Scheduler

from .conftest import WAIT, Gate, ask


def test_its_thread_is_lent_while_there_is_nothing_to_do(scheduler: Scheduler, gate: Gate) -> None:
    lent = scheduler.lend(threading.current_thread)
    assert lent is not None and lent.result(WAIT).name == "scheduler"
    ticket = scheduler.submit(ask())
    assert gate.entered.wait(WAIT)
    assert scheduler.lend(lambda: 1) is None  # it is at work
    gate.open.set()
    ticket.result(WAIT)
    failing = scheduler.lend(lambda: 1 // 0)
    assert failing is not None and isinstance(failing.exception(WAIT), ZeroDivisionError)
    assert scheduler.submit(ask()).result(WAIT).tokens


def test_one_borrows_at_a_time_and_a_request_comes_right_after(scheduler: Scheduler) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> bool:
        inside.set()
        return leave.wait(WAIT)

    first = scheduler.lend(hold)
    assert first is not None and inside.wait(WAIT)
    second = scheduler.lend(lambda: 2)
    assert second is not None and scheduler.lend(lambda: 3) is None
    second.cancel()
    ticket = scheduler.submit(ask())
    assert not ticket.done
    leave.set()
    assert first.result(WAIT) and ticket.result(WAIT).tokens
    scheduler.close()
    assert scheduler.lend(lambda: 4) is None
