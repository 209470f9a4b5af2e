"""Requests that join and leave between steps: right answers, turns, limits, and faults that stay with one request."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.loop import Cancelled, Failed, Late
from router.engine.request import Request
from router.engine.scheduler import Busy, Closed, Outcome, Scheduler, Ticket
from specialists.errors import BadInput

QUESTIONS = ["hi", "a somewhat longer question, is it not?", "x", "What is it that they all begin with? " * 3]
NAMES = ["one", "two", None]
WAIT = 120.0  # seconds after which a test fails instead of hanging

Make = Callable[..., Path]


def ask(text: str = "hi", adapter: str | None = None, most: int = 8, **more: Any) -> Request:
    return Request([{"role": "user", "content": text}], adapter, most, **more)


@pytest.fixture
def engine(tiny_base: Path, tiny_adapter: Make) -> Engine:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.add("one", tiny_adapter("one", scale=0.6))
    engine.add("two", tiny_adapter("two", rank=2, scale=0.9))
    return engine


@pytest.fixture
def scheduler(engine: Engine) -> Iterator[Scheduler]:
    with Scheduler(engine, rows=4) as scheduler:
        yield scheduler


class Gate:
    """A model's logits that wait for `open`, or fail as often as told."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.faults: list[Callable[[Any], bool]] = []  # each fails the first call that it is true of
        self._logits = engine.model.logits
        monkeypatch.setattr(engine.model, "logits", self)

    def __call__(self, ids: Any, *rest: Any) -> Any:
        self.entered.set()
        assert self.open.wait(WAIT)
        for fault in self.faults:
            if fault(ids):
                self.faults.remove(fault)
                raise RuntimeError("no memory")
        return self._logits(ids, *rest)


@pytest.fixture
def gate(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(engine, monkeypatch)


JOINS = st.lists(
    st.tuples(
        st.sampled_from(QUESTIONS),
        st.sampled_from(NAMES),
        st.sampled_from([1, 4, 9]),
        st.integers(0, 5),  # pieces of the request before after which it is asked
        st.sampled_from([None, None, 0, 2]),  # pieces after which it is cancelled
    ),
    min_size=1,
    max_size=9,
)


@given(JOINS, st.integers(1, 5), st.sampled_from([7, 64, 512]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whoever_joins_or_leaves_every_answer_is_as_if_alone(
    engine: Engine, joins: list[Any], rows: int, chunk: int
) -> None:
    alone = [engine.generate([ask(q, name, most)])[0] for q, name, most, _, _ in joins]
    tickets: list[Ticket] = []
    texts = [""] * len(joins)
    with Scheduler(engine, rows=rows, chunk=chunk) as scheduler:

        def submit() -> None:
            place = len(tickets)
            question, name, most, _, leave = joins[place]
            pieces = 0

            def next_joins() -> None:
                while (
                    len(tickets) < len(joins) and len(tickets) == place + 1 and pieces >= joins[place + 1][3]
                ):
                    submit()

            def on_text(text: str) -> None:
                nonlocal pieces
                pieces += 1
                texts[place] += text
                if leave is not None and pieces > leave:
                    tickets[place].cancel()
                next_joins()

            def on_done(outcome: Outcome) -> None:
                nonlocal pieces
                pieces = 99
                next_joins()

            tickets.append(None)  # type: ignore[arg-type]  # the callbacks may come before the ticket
            tickets[place] = scheduler.submit(ask(question, name, most), on_text, on_done)

        submit()
        for place in range(len(joins)):
            while place >= len(tickets) or tickets[place] is None:
                threading.Event().wait(0.001)
            try:
                said = tickets[place].result(WAIT)
            except Cancelled:
                assert joins[place][4] is not None and alone[place].text.startswith(
                    texts[place].rstrip("\ufffd")
                )
            else:
                assert (said.text, said.tokens, said.truncated) == (
                    alone[place].text,
                    alone[place].tokens,
                    alone[place].truncated,
                )
                assert texts[place] == said.text


@pytest.mark.parametrize(("rows", "bound"), [(4, 12), (8, 3)])  # of eight rows one is kept for newcomers
def test_a_flood_for_one_specialist_delays_another_by_a_row_at_most(
    engine: Engine, rows: int, bound: int
) -> None:
    waited: dict[str | None, int] = {}
    with Scheduler(engine, rows=rows) as scheduler:
        flood = [scheduler.submit(ask("x", "one", 10)) for _ in range(40)]
        flood[0].result(WAIT)  # all rows are taken
        asked = scheduler.steps
        for name in ("two", None):

            def note(_: Outcome, name: str | None = name) -> None:
                waited[name] = scheduler.steps - asked

            scheduler.submit(ask("hi", name, 1), on_done=note)
    assert all(ticket.result(0).tokens == 10 for ticket in flood)
    assert waited.keys() == {"two", None} and max(waited.values()) <= bound, waited


def test_adapters_in_demand_share_the_rows(scheduler: Scheduler) -> None:
    ended: list[str] = []
    for name in ("one", "two"):
        for _ in range(12):
            scheduler.submit(ask("x", name, 5), on_done=lambda _, name=name: ended.append(name))
    scheduler.close()
    assert abs(ended[:12].count("one") - 6) <= 3


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


def test_the_text_comes_in_pieces(scheduler: Scheduler) -> None:
    pieces: list[str] = []
    ticket = scheduler.submit(ask("hi", "one", 20), on_text=pieces.append)
    assert "".join(ticket) == "".join(pieces) == ticket.result(0).text
    assert list(ticket) == [] and len(pieces) > 2
    ended = scheduler.submit(ask("hi", "one", 20))
    assert ended.result(WAIT).waited_seconds >= 0
    assert list(ended) == [ended.result().text]
    with pytest.raises(TimeoutError):
        scheduler.submit(ask("hi", "one", 500)).result(0)


def test_many_threads_ask_at_once(engine: Engine) -> None:
    asks = [ask(q, name, most) for q in QUESTIONS for name in NAMES for most in (1, 6)]
    alone = [said.text for said in engine.generate(asks)]
    with Scheduler(engine) as scheduler, ThreadPoolExecutor(16) as pool:
        for _ in range(3):
            assert [s.text for s in pool.map(lambda one: scheduler.submit(one).result(WAIT), asks)] == alone


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


def test_a_row_finishes_with_the_weights_it_was_promised(
    engine: Engine, tiny_adapter: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = engine.generate([ask("hi", "one", 12)])[0].text
    fresh = tiny_adapter("fresh", scale=0.6)
    gate = Gate(engine, monkeypatch)
    with Scheduler(engine, rows=1) as scheduler:
        tickets = [scheduler.submit(ask("hi", "one", 12)) for _ in range(2)]  # under way, and waiting
        assert gate.entered.wait(WAIT)
        engine.add("one", fresh)
        new = scheduler.submit(ask("hi", "one", 12))
        engine.remove("one")
        with pytest.raises(BadInput, match="No adapter 'one'"):
            scheduler.submit(ask("hi", "one", 12))
        gate.open.set()
        assert [ticket.result(WAIT).text for ticket in tickets] == [old, old]
        assert new.result(WAIT).text != old
    assert len(engine.residency.resident) == 1  # of "two": nobody waits for the others any more
    engine.add("one", fresh)
    assert engine.generate([ask("hi", "one", 12)])[0].text == new.result().text


def test_a_long_prompt_does_not_stop_the_others(engine: Engine) -> None:
    with Scheduler(engine, rows=4, chunk=64) as scheduler:
        talker = scheduler.submit(ask("hi", "one", 4000))
        next(iter(talker))
        before = scheduler.steps
        long, ended = scheduler.submit(ask("x" * 3000, "two", 1)), []
        short = scheduler.submit(ask("x", None, 1), on_done=lambda _: ended.append(long.done))
        assert long.result(WAIT).tokens == 1
        assert scheduler.steps - before >= 3000 // 64 and short.result(WAIT) and ended == [False]
        talker.cancel()


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
