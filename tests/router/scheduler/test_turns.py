"""Requests that join and leave between steps: right answers whoever else asks, and turns."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.engine.engine import Engine
from router.engine.loop import Cancelled
from router.engine.scheduler import Scheduler
from router.engine.ticket import Outcome, Ticket
from specialists.errors import BadInput

from .conftest import NAMES, QUESTIONS, WAIT, Gate, Make, ask

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
