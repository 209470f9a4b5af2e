"""A scheduler's thread, lent to others between the layers of a step."""

from __future__ import annotations

import threading

from router.engine.scheduler import Scheduler

from .conftest import WAIT, Gate, ask


def test_its_thread_is_lent_at_once_or_in_the_middle_of_a_step(scheduler: Scheduler, gate: Gate) -> None:
    lent = scheduler.lend(threading.current_thread)
    assert lent is not None and lent.result(WAIT).name == "scheduler"
    ticket = scheduler.submit(ask(most=2))
    assert gate.entered.wait(WAIT)  # its prompt is computed, and a step follows
    during = scheduler.lend(lambda: (ticket.done, scheduler.steps, threading.current_thread().name))
    assert during is not None and not during.done()
    gate.open.set()
    assert during.result(WAIT) == (False, 0, "scheduler")
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


def test_who_borrows_and_asks_next_is_answered_within_the_others_step(scheduler: Scheduler) -> None:
    """And so on, while others want to borrow all the time: they all get on."""
    talker = scheduler.submit(ask(most=4000))
    next(iter(talker))
    asked, spent = [], threading.Event()

    def flood() -> None:
        while not spent.is_set():
            if again := scheduler.lend(lambda: None):
                again.result(WAIT)

    thread = threading.Thread(target=flood)
    thread.start()
    for _ in range(5):
        if lent := scheduler.lend(lambda: scheduler.steps):
            lent.result(WAIT)
            asked.append(scheduler.submit(ask("x", "one", 2)))
    assert all(ticket.result(WAIT).tokens == 2 for ticket in asked)
    before = scheduler.steps
    threading.Event().wait(0.3)
    assert (
        scheduler.steps > before and not talker.done
    )  # a step goes on, however often its thread is borrowed
    spent.set()
    thread.join()
    talker.cancel()
