"""What a scheduler refuses, cancels and ends: queue, deadlines, prompts, closing."""

from __future__ import annotations

import pytest

from router.engine.engine import Engine
from router.engine.loop import Cancelled, Late
from router.engine.scheduler import Busy, Closed, Scheduler
from router.engine.ticket import Outcome
from specialists.errors import BadInput

from .conftest import NAMES, WAIT, Gate, ask


def test_the_queue_is_bounded_and_says_so(scheduler: Scheduler, gate: Gate) -> None:
    scheduler.queue = 3
    first = scheduler.submit(ask())
    assert gate.entered.wait(WAIT)
    tickets = [scheduler.submit(ask("x", "one", 2)) for _ in range(3)]
    with pytest.raises(Busy, match="3 requests are waiting"):
        scheduler.submit(ask("x", "one", 2))
    tickets.pop().cancel()
    gate.open.set()
    assert first.result(WAIT).tokens == 8
    assert [ticket.result(WAIT).tokens for ticket in tickets] == [2, 2]
    assert scheduler.submit(ask("x", "one", 2)).result(WAIT).tokens == 2


def test_what_cannot_be_answered_is_refused_at_once(scheduler: Scheduler) -> None:
    with pytest.raises(BadInput, match="No adapter 'nobody'"):
        scheduler.submit(ask("hi", "nobody"))
    with pytest.raises(BadInput, match="reads at most 4096"):
        scheduler.submit(ask("x" * 5000))
    with pytest.raises(BadInput, match="at least 1"):
        scheduler.submit(ask("hi", None, 0))
    assert scheduler.waiting == scheduler.under_way == 0
    with pytest.raises(RuntimeError, match="scheduler"):
        scheduler.engine.generate([ask()])


def test_cancelling_frees_the_row_before_the_next_step(engine: Engine) -> None:
    with Scheduler(engine, rows=1) as scheduler:
        outcomes: list[Outcome] = []
        long = scheduler.submit(ask("hi", "one", 3000), on_done=outcomes.append)
        started = next(iter(long))
        steps: list[int] = []
        after = scheduler.submit(ask("x", None, 1), on_done=lambda _: steps.append(scheduler.steps))
        waiting = scheduler.submit(ask("x", None, 1))
        waiting.cancel()
        before = scheduler.steps
        long.cancel()
        assert after.result(WAIT).tokens == 1 and started
        assert steps[0] - before <= 2
        for ticket in (long, waiting):
            with pytest.raises(Cancelled):
                ticket.result(WAIT)
        assert isinstance(outcomes[0], Cancelled)
        long.cancel()  # again, without effect


def test_a_deadline_ends_what_is_begun_and_refuses_what_is_not(engine: Engine) -> None:
    with Scheduler(engine, rows=1) as scheduler:
        long = scheduler.submit(ask("hi", None, 4000, deadline=0.4))
        behind = scheduler.submit(ask("hi", None, 2, deadline=0.1))
        with pytest.raises(Late, match="not begun within"):
            behind.result(WAIT)
        said = long.result(WAIT)
        assert said.late and said.truncated and 0 < said.tokens < 4000 and said.seconds < 5
        assert not scheduler.submit(ask("hi", None, 2, deadline=WAIT)).result(WAIT).late


def test_closing_answers_or_cancels_what_is_there(engine: Engine) -> None:
    scheduler = Scheduler(engine, rows=2)
    tickets = [scheduler.submit(ask("hi", name, 5)) for name in NAMES * 3]
    scheduler.close()
    assert [ticket.result(0).tokens for ticket in tickets] == [5] * 9
    with pytest.raises(Closed):
        scheduler.submit(ask())
    scheduler = Scheduler(engine, rows=2)
    tickets = [scheduler.submit(ask("hi", name, 3000)) for name in NAMES * 3]
    scheduler.close(drain=False)
    for ticket in tickets:
        with pytest.raises(Cancelled):
            ticket.result(0)
    assert engine.generate([ask()])[0].tokens == 8  # its own again
    assert not any(record.used or record.held for record in engine.residency._records.values())
