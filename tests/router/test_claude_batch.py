"""Message batches by the real SDK against a server on loopback: half the price, and nothing paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic
from hypothesis import given
from hypothesis import strategies as st

from router.claude import Claude
from router.claude_batch import ask_batch
from router.claude_requests import Request, Said, cache_note
from router.kept import Kept
from router.ledger import Ledger, OverBudget, Usage, dollars
from specialists.errors import BadInput, RouterError, Unavailable

from .claude_server import ClaudeServer

HAIKU = "claude-haiku-5-5"
CALL = dollars(HAIKU, Usage(10, 5))


def requests(n: int) -> list[Request]:
    return [Request([{"role": "user", "content": f"Question {i}"}], "Be brief.", 50) for i in range(n)]


def say(body: dict[str, Any]) -> str:
    text: str = body["messages"][0]["content"]
    return text.replace("Question", "Answer")


@pytest.fixture
def server() -> Iterator[ClaudeServer]:
    with ClaudeServer(say) as running:
        yield running


@pytest.fixture
def claude(server: ClaudeServer) -> Claude:
    return Claude(HAIKU, 1.0, Anthropic(api_key="k", base_url=server.url, max_retries=2), run="r")


def texts(said: list[Said]) -> list[str]:
    return [one.text for one in said]


def test_unordered_results_come_in_order_at_half_the_price(server: ClaudeServer, claude: Claude) -> None:
    looks: list[tuple[int, int]] = []
    said = ask_batch(claude, requests(5), "examples", lambda done, n: looks.append((done, n)), poll=0.01)
    assert texts(said) == [f"Answer {i}" for i in range(5)]
    assert looks == [(0, 5), (5, 5)] and server.seen["create"] == 1
    assert sum(one.dollars for one in said) == pytest.approx(5 * CALL / 2)
    totals = Ledger().totals("r")
    assert totals.calls == 5 and totals.dollars == pytest.approx(5 * CALL / 2)
    assert claude.budget.held == 0 and claude.budget.spent == pytest.approx(totals.dollars)
    again = ask_batch(claude, [*requests(5)[::-1], requests(1)[0]], "examples")
    assert texts(again)[:2] == ["Answer 4", "Answer 3"] and all(one.cached for one in again)
    assert server.seen["create"] == 1 and set(server.billed.values()) == {1}


def test_single_calls_and_batches_share_what_is_kept(server: ClaudeServer, claude: Claude) -> None:
    three = requests(3)
    assert claude.ask(three[1]).text == "Answer 1"
    ask_batch(claude, three, poll=0.01)
    assert texts(claude.ask_many(three)) == ["Answer 0", "Answer 1", "Answer 2"]
    assert set(server.billed.values()) == {1} and claude.estimate_many(three, batch=True) == 0


def test_many_single_calls_are_paid_once_each_and_come_in_order(server: ClaudeServer, claude: Claude) -> None:
    done: list[int] = []
    said = claude.ask_many([*requests(12), *requests(3)], "x", lambda: done.append(1))
    assert texts(said) == [f"Answer {i}" for i in [*range(12), *range(3)]] and len(done) == 12
    assert set(server.billed.values()) == {1} and Ledger().totals("r").calls == 12


def test_an_error_among_many_loses_nothing_that_came(server: ClaudeServer, claude: Claude) -> None:
    server.faults.extend([("message", 400)])
    with pytest.raises(BadInput, match="400"):
        claude.ask_many(requests(6), workers=1)
    claude.ask_many(requests(6))
    assert set(server.billed.values()) == {1}


def test_a_batch_that_could_cost_too_much_is_not_made(server: ClaudeServer) -> None:
    client = Anthropic(api_key="k", base_url=server.url)
    poor = Claude(HAIKU, 0.00005, client, run="poor")
    assert poor.estimate_many(requests(9)) == pytest.approx(2 * poor.estimate_many(requests(9), batch=True))
    with pytest.raises(OverBudget):
        ask_batch(poor, requests(9))
    assert not server.seen


@pytest.mark.parametrize("kind", ["expired", "canceled", "errored"])
def test_what_failed_goes_into_the_next_batch(kind: str, server: ClaudeServer, claude: Claude) -> None:
    failed: set[str] = set()

    def respond(body: dict[str, Any]) -> str:
        text = body["messages"][0]["content"]
        if text in ("Question 1", "Question 3") and text not in failed:
            failed.add(text)
            return f"!batch-{kind}"
        return say(body)

    server.respond = respond
    assert texts(ask_batch(claude, requests(4), poll=0.01)) == [f"Answer {i}" for i in range(4)]
    assert server.seen["create"] == 2 and set(server.billed.values()) == {1}


def test_what_fails_for_good_is_one_sentence(server: ClaudeServer, claude: Claude) -> None:
    server.respond = lambda body: "!batch-errored overloaded_error" if "2" in str(body) else say(body)
    with pytest.raises(
        Unavailable, match="1 of 4 requests failed in 3 batches .overloaded_error: no.; try again"
    ):
        ask_batch(claude, requests(4), poll=0.01)
    server.respond = lambda body: "!batch-errored invalid_request_error"
    with pytest.raises(BadInput, match="did not take a request of the batch"):
        ask_batch(claude, [Request([{"role": "user", "content": "New"}])], poll=0.01)
    server.respond = say
    assert texts(ask_batch(claude, requests(4), poll=0.01))[2] == "Answer 2"
    assert set(server.billed.values()) == {1}


@pytest.mark.parametrize("stop", ["refusal", "max_tokens"])
def test_refused_and_cut_answers_are_what_they_are(stop: str, server: ClaudeServer, claude: Claude) -> None:
    server.respond = lambda body: f"!{stop} Once"
    (said,) = ask_batch(claude, requests(1), poll=0.01)
    assert said.stop_reason == stop and said.text == "Once"


def test_a_paused_turn_goes_on_by_a_single_call(server: ClaudeServer, claude: Claude) -> None:
    server.respond = lambda body: "!pause_turn One" if len(body["messages"]) == 1 else " two"
    (said,) = ask_batch(claude, requests(1), poll=0.01)
    assert said.text == "One two" and said.stop_reason == "end_turn"


FAULTS = [
    (kind, fault) for kind in ("create", "retrieve", "results") for fault in (429, 500, "cut", "lost", 0.2)
]


@pytest.mark.parametrize(("kind", "fault"), FAULTS)
def test_a_fault_at_any_request_costs_nothing_twice(
    kind: str, fault: Any, server: ClaudeServer, claude: Claude
) -> None:
    server.headers = {"retry-after": "0"}
    server.faults.append((kind, fault))
    try:
        said = ask_batch(claude, requests(3), poll=0.01)
    except RouterError:  # what is not tried again at once is on the next start
        said = ask_batch(claude, requests(3), poll=0.01)
    assert texts(said) == [f"Answer {i}" for i in range(3)]
    assert set(server.billed.values()) == {1} and Ledger().totals("r").calls == 3
    assert not server.faults and not list(
        (Path(os.environ["ROUTER_HOME"]) / "claude/batches").glob("*/*.json")
    )


SCRIPT = """
import os, sys
from anthropic import Anthropic
from router.claude import Claude
from router.claude_batch import ask_batch
from router.claude_requests import Request
from router.kept import Kept
die = int(os.environ.get("DIE_AT_PUT", 0))
real, puts = Kept.put, 0
def put(self, request, reply):
    global puts
    real(self, request, reply)
    puts += 1
    if puts == die:
        os.kill(os.getpid(), 9)
Kept.put = put
claude = Claude("claude-haiku-5-5", 1.0, Anthropic(api_key="k", base_url=sys.argv[1]), run="killed")
requests = [Request([{"role": "user", "content": f"Question {i}"}], "Be brief.", 50) for i in range(6)]
if sys.argv[2] == "batch":
    said = ask_batch(claude, requests, "x", poll=0.05)
else:
    said = claude.ask_many(requests, "x", workers=1)
print("|".join(one.text for one in said))
"""


def start(server: ClaudeServer, how: str = "batch", **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=60)
    return out.strip()


WHOLE = "|".join(f"Answer {i}" for i in range(6))


@pytest.mark.parametrize(
    "moment",
    ["create", "create done", "retrieve", "retrieve done", "results", "results done", "put 1", "put 4"],
)
def test_killed_at_any_moment_a_batch_is_paid_once(moment: str, server: ClaudeServer) -> None:
    victim: list[subprocess.Popen[str]] = []
    ready = threading.Event()

    def hook(kind: str) -> None:
        if kind == moment:
            ready.wait(30)
            victim[0].send_signal(signal.SIGKILL)
            victim[0].wait()

    server.hook = hook
    env = {"DIE_AT_PUT": moment.split()[1]} if moment.startswith("put") else {}
    victim.append(start(server, **env))
    ready.set()
    assert finished(victim[0]) == "" and victim[0].returncode == -signal.SIGKILL
    server.hook = lambda kind: None
    assert finished(start(server)) == WHOLE
    assert set(server.billed.values()) == {1} and len(server.billed) == 6
    charges, damaged = Ledger().charges()
    assert len(charges) == 6 and damaged == 0 and len({charge.ref for charge in charges}) == 6
    assert sum(charge.dollars for charge in charges) == pytest.approx(6 * CALL / 2)


def test_killed_between_answer_and_charge_a_single_call_is_charged_once(server: ClaudeServer) -> None:
    victim = start(server, "single", DIE_AT_PUT="3")
    assert finished(victim) == "" and Ledger().totals("killed").calls == 2
    assert finished(start(server, "single")) == WHOLE
    assert set(server.billed.values()) == {1} and Ledger().totals("killed").calls == 6


def test_two_processes_of_one_run_do_not_make_two_batches(server: ClaudeServer, claude: Claude) -> None:
    server.looks = 6
    first = start(server)
    while not server.seen["retrieve"]:
        threading.Event().wait(0.02)
    same = Claude(HAIKU, 1.0, claude.open(), run="killed")
    with pytest.raises(BadInput, match="Another process of this run is waiting"):
        ask_batch(same, requests(6))
    assert finished(first) == WHOLE and server.seen["create"] == 1


def test_an_intent_that_cannot_be_read_is_not_passed_over(server: ClaudeServer, claude: Claude) -> None:
    with pytest.raises(OverBudget):
        ask_batch(Claude(HAIKU, 0.0, claude.open(), run="r"), requests(1))
    (folder,) = (Path(os.environ["ROUTER_HOME"]) / "claude" / "batches").iterdir()
    (folder / "1.json").write_text('{"time": ')
    with pytest.raises(Unavailable, match="cannot be read.*delete the file"):
        ask_batch(claude, requests(1))
    assert not server.seen


def test_the_prompt_cache_is_seen_by_its_counters() -> None:
    said = Said("", "end_turn", Usage(10, 5, 100, 0), 0.0, False)
    assert "none of 220 input tokens; the system prompt may be shorter" in cache_note([said, said])
    read = Said("", "end_turn", Usage(10, 5, 0, 100), 0.0, False)
    assert cache_note([said, read]) == "The prompt cache gave 100 of 220 input tokens."


def test_a_schema_is_sent_and_makes_another_request(server: ClaudeServer, claude: Claude) -> None:
    plain = Request([{"role": "user", "content": "Question 1"}])
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": False}
    claude.ask(plain)
    claude.ask(Request(plain.messages, schema=schema))
    assert server.bodies[1]["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert "output_config" not in server.bodies[0]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(request=st.dictionaries(st.text(max_size=6), JSON, max_size=4), cut=st.integers(0, 60))
def test_what_is_kept_comes_back_and_a_cut_file_is_nothing(
    request: dict[str, Any], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = Kept(tmp_path_factory.mktemp("kept"))
    assert kept.get(request) is None
    kept.put(request, {"text": "yes"})
    assert kept.get(request) == {"text": "yes"} and kept.get({**request, "one more": 1}) is None
    (file,) = kept.folder.glob("*/*.json")
    data = file.read_bytes()
    file.write_bytes(data[: min(cut, len(data) - 1)])
    assert kept.get(request) is None
