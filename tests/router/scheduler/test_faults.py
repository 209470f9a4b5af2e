"""Faults of a scheduler's forwards, readers and its own stay with the requests they hit."""

from __future__ import annotations

import pytest

from router.engine.loop import Cancelled, Failed
from router.engine.scheduler import Scheduler

from .conftest import WAIT, Gate, ask


def test_a_failed_step_fails_its_requests_and_no_others(scheduler: Scheduler, gate: Gate) -> None:
    gate.faults.append(lambda ids: ids.shape == (2, 1))
    under_way = [scheduler.submit(ask(q, "one", 6)) for q in ("hi", "ho")]
    gate.open.set()
    for ticket in under_way:
        with pytest.raises(Failed, match="no memory"):
            ticket.result(WAIT)
        with pytest.raises(Failed):
            list(ticket)
    assert scheduler.submit(ask("hi", "one", 6)).result(WAIT).tokens == 6


def test_a_failed_prompt_leaves_those_under_way_alone(scheduler: Scheduler, gate: Gate) -> None:
    alone = scheduler.submit(ask("hi", "one", 40))
    other = scheduler.submit(ask("a prompt that fails", "two", 6))
    longer = len(scheduler.engine.chat.prompt_ids(ask("hi").messages)) + 1
    gate.faults.append(lambda ids: ids.shape[1] >= longer)
    gate.open.set()
    with pytest.raises(Failed, match="no memory"):
        other.result(WAIT)
    assert alone.result(WAIT).tokens == 40
    assert scheduler.submit(ask("a prompt that fails", "two", 6)).result(WAIT).tokens == 6


def test_readers_that_fail_harm_nobody(scheduler: Scheduler) -> None:
    def fail(_: object) -> None:
        raise ValueError("the reader is gone")

    gone = scheduler.submit(ask("hi", "one", 2000), on_text=fail)
    told = scheduler.submit(ask("ho", "one", 3), on_done=fail)
    assert told.result(WAIT).tokens == 3
    with pytest.raises(Cancelled):
        gone.result(WAIT)
    assert scheduler.submit(ask("hi", "one", 3)).result(WAIT).tokens == 3


def test_a_fault_of_our_own_fails_what_is_there_and_goes_on(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler._loop, "_enter", lambda: 1 / 0)
    with pytest.raises(Failed, match="ZeroDivisionError"):
        scheduler.submit(ask("hi", "one", 3)).result(WAIT)
    assert scheduler.submit(ask("hi", "one", 3)).result(WAIT).tokens == 3
