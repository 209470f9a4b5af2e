"""Claude through the real SDK against a loopback Messages API: what is paid, kept, refused and reported."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic

from router.claude import Claude, worst
from router.ledger import Ledger, OverBudget, Usage, dollars
from specialists.errors import BadInput, RouterError, Unavailable

from .messages_server import MessagesServer

HAIKU, OPUS = "claude-haiku-5-5", "claude-opus-5-5"
HELLO = [{"role": "user", "content": "Hello?"}]
PRICE = dollars(HAIKU, Usage(10, 5))


@pytest.fixture
def server() -> Iterator[MessagesServer]:
    with MessagesServer() as server:
        yield server


def client(server: MessagesServer, retries: int = 2, timeout: float = 10.0) -> Anthropic:
    return Anthropic(api_key="k", base_url=server.url, max_retries=retries, timeout=timeout)


@pytest.fixture
def claude(server: MessagesServer) -> Claude:
    return Claude(client=client(server), budget=1.0)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries that do not wait, where the server names no time."""
    monkeypatch.setattr("anthropic._base_client.INITIAL_RETRY_DELAY", 0.01)


def test_an_answer_its_price_and_its_line_in_the_ledger(server: MessagesServer, claude: Claude) -> None:
    server.say("Hi.", cache_creation_input_tokens=100, cache_read_input_tokens=1000)
    said = claude.say(HELLO, "Be brief.", 50, "test")
    usage = Usage(10, 5, 100, 1000)
    assert (said.text, said.stop_reason, said.usage, said.cached) == ("Hi.", "end_turn", usage, False)
    assert said.dollars == dollars(HAIKU, usage) == claude.budget.spent and claude.budget.held == 0
    (charge,), damaged = Ledger().charges()
    assert (charge.run, charge.model, charge.purpose, charge.usage) == (claude.run, HAIKU, "test", usage)
    assert (charge.dollars, damaged) == (said.dollars, 0)


def test_what_is_sent(server: MessagesServer, claude: Claude) -> None:
    """The system prompt may be cached by the API; there is no temperature."""
    claude.say(HELLO, "Be brief.", 50)
    claude.say(HELLO, max_tokens=50)
    system = [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]
    plain = {"model": HAIKU, "max_tokens": 50, "messages": HELLO}
    assert server.requests == [plain | {"system": system}, plain]


def test_the_same_request_is_free_and_asks_nobody(server: MessagesServer, claude: Claude) -> None:
    first = claude.say(HELLO, "s", 50)
    again = Claude(budget=0.0).say(HELLO, "s", 50)  # no key, no money
    assert (again.text, again.usage, again.stop_reason) == (first.text, first.usage, first.stop_reason)
    assert (again.dollars, again.cached, len(server.requests)) == (0.0, True, 1)
    assert Ledger().totals().calls == 1


def test_another_request_is_another_answer(server: MessagesServer, claude: Claude) -> None:
    claude.say(HELLO, "s", 50)
    others = [
        lambda: claude.say(HELLO, "s", 51),
        lambda: claude.say(HELLO, "t", 50),
        lambda: claude.say([*HELLO, *HELLO], "s", 50),
        lambda: Claude(OPUS, 1.0, claude._client).say(HELLO, "s", 50),
    ]
    assert not any(other().cached for other in others) and len(server.requests) == 5


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"\xff", b'{"request": 1, "reply": 2}'])
def test_a_damaged_answer_is_asked_again(damage: bytes, server: MessagesServer, claude: Claude) -> None:
    claude.say(HELLO)
    (kept,) = (Path(os.environ["ROUTER_HOME"]) / "claude").glob("*/*.json")
    kept.write_bytes(damage)
    assert not claude.say(HELLO).cached
    assert claude.say(HELLO).cached and len(server.requests) == 2


def test_a_kept_answer_to_another_request_is_not_taken(server: MessagesServer, claude: Claude) -> None:
    claude.say(HELLO)
    (kept,) = (Path(os.environ["ROUTER_HOME"]) / "claude").glob("*/*.json")
    entry = json.loads(kept.read_text())
    entry["request"]["messages"][0]["content"] = "Other?"
    kept.write_text(json.dumps(entry))
    assert not claude.say(HELLO).cached


@pytest.mark.parametrize(("stop", "text"), [("max_tokens", "Once upon"), ("refusal", "")])
def test_a_cut_or_refused_answer_is_kept_as_what_it_is(
    stop: str, text: str, server: MessagesServer, claude: Claude
) -> None:
    server.say(text, stop)
    first, again = claude.say(HELLO), claude.say(HELLO)
    assert (first.text, first.stop_reason, first.dollars) == (text, stop, PRICE)
    assert (again.text, again.stop_reason, again.cached) == (text, stop, True)


def test_a_paused_turn_goes_on(server: MessagesServer, claude: Claude) -> None:
    server.say("One ", "pause_turn").say("two ", "pause_turn").say("three.")
    said = claude.say(HELLO, max_tokens=50)
    assert (said.text, said.stop_reason) == ("One two three.", "end_turn")
    assert (said.usage, said.dollars) == (Usage(30, 15), pytest.approx(3 * PRICE))
    turns = server.requests[2]["messages"]
    assert turns[0] == HELLO[0] and [block["text"] for block in turns[1]["content"]] == ["One ", "two "]
    again = claude.say(HELLO, max_tokens=50)
    assert (again.text, again.cached, len(server.requests)) == ("One two three.", True, 3)


def test_a_turn_paused_for_ever_ends(server: MessagesServer, claude: Claude) -> None:
    for _ in range(20):
        server.say("more ", "pause_turn")
    assert claude.say(HELLO).stop_reason == "pause_turn" and len(server.requests) == 8


def test_a_stopped_paused_turn_is_not_paid_twice(server: MessagesServer, claude: Claude) -> None:
    server.say("One ", "pause_turn").fail(400)
    with pytest.raises(BadInput):
        claude.say(HELLO)
    server.say("two.")
    said = claude.say(HELLO)
    assert (said.text, said.dollars, said.cached) == ("One two.", PRICE, False)
    assert len(server.requests) == 3


def test_the_budget_refuses_before_any_request(server: MessagesServer) -> None:
    poor = Claude(client=client(server), budget=0.0005)
    with pytest.raises(OverBudget, match=r"could cost \$0\.0005\d* and \$0\.00 of the budget of \$0\.0005 "):
        poor.say(HELLO, max_tokens=1000)
    assert server.requests == [] and not Ledger().path.exists()
    poor.say(HELLO, max_tokens=500)
    assert len(server.requests) == 1


def test_a_run_that_is_started_again_has_what_is_left(server: MessagesServer) -> None:
    server.say("Hi.", input_tokens=9000)
    Claude(client=client(server), budget=0.001, run="lesson").say(HELLO, max_tokens=50)
    later = Claude(client=client(server), budget=0.001, run="lesson")
    assert later.budget.spent == pytest.approx(0.0009025)
    with pytest.raises(OverBudget):
        later.say(HELLO, max_tokens=300)
    assert len(server.requests) == 1
    Claude(client=client(server), budget=0.001, run="other").say(HELLO, max_tokens=300)


def test_the_worst_case_bounds_the_price() -> None:
    """Every byte a token, everything written to the prompt cache."""
    request = {"model": HAIKU, "max_tokens": 100, "messages": [{"role": "user", "content": "ü" * 500}]}
    assert worst(request) >= dollars(HAIKU, Usage(cache_write=1000, output=100))


def test_an_estimate_asks_nobody_and_a_kept_answer_is_estimated_at_nothing(
    server: MessagesServer, claude: Claude
) -> None:
    estimate = claude.estimate(HELLO, "s", 50)
    assert server.requests == [] and estimate > dollars(HAIKU, Usage(output=50))
    assert claude.say(HELLO, "s", 50).dollars < estimate
    assert claude.estimate(HELLO, "s", 50) == 0.0


def test_a_rate_limit_is_waited_for_as_long_as_it_says(server: MessagesServer, claude: Claude) -> None:
    server.fail(429, retry_after="1").say("Hi.")
    assert claude.say(HELLO).text == "Hi."
    waited = server.times[1] - server.times[0]
    assert 0.95 <= waited < 10 and server.headers[1]["x-stainless-retry-count"] == "1"
    assert claude.budget.spent == PRICE and claude.budget.held == 0


@pytest.mark.parametrize(
    ("status", "tries", "kind", "words"),
    [
        (400, 1, BadInput, r"did not take the request \(400: the reason\)"),
        (401, 1, Unavailable, r"does not accept the key \(401: the reason\); set ANTHROPIC_API_KEY"),
        (403, 1, Unavailable, r"may not ask claude-haiku-5-5 \(403"),
        (404, 1, BadInput, "does not know claude-haiku-5-5"),
        (413, 1, BadInput, r"\(413: the reason\)"),
        (429, 3, Unavailable, "rate limit still held after 3 tries"),
        (500, 3, Unavailable, r"could not answer in 3 tries \(500: the reason\)"),
        (529, 3, Unavailable, r"\(529: the reason\)"),
    ],
)
def test_errors_of_the_api(
    status: int, tries: int, kind: type[RouterError], words: str,
    server: MessagesServer, claude: Claude, quick: None,
) -> None:  # fmt: skip
    for _ in range(tries):
        server.fail(status, "the\n\x1breason.")
    with pytest.raises(kind, match=words) as caught:
        claude.say(HELLO)
    assert "\n" not in str(caught.value) and str(caught.value).count(". ") == 0
    assert len(server.requests) == tries
    assert claude.budget.held == claude.budget.spent == 0
    assert Ledger().totals().calls == 0
    assert claude.say(HELLO).text == "ok"  # and nothing of it was kept


def test_a_5xx_that_passes(server: MessagesServer, claude: Claude, quick: None) -> None:
    server.fail(503).fail(500).say("Hi.")
    assert claude.say(HELLO).text == "Hi."


@pytest.mark.parametrize("after", [0, 10])
def test_a_lost_reply_counts_against_the_budget(
    after: int, server: MessagesServer, claude: Claude, quick: None
) -> None:
    """It may have been billed, so its worst stays held; the retry is paid as usual."""
    server.cut(after).say("Hi.")
    most = claude.estimate(HELLO)
    assert claude.say(HELLO).text == "Hi."
    assert (claude.budget.held, claude.budget.spent) == (pytest.approx(most), PRICE)


def test_retries_of_lost_replies_stay_within_the_budget(server: MessagesServer, quick: None) -> None:
    careful = Claude(client=client(server), budget=0.0008)
    for _ in range(3):
        server.cut()
    with pytest.raises(OverBudget):
        careful.say(HELLO, max_tokens=1000)
    assert len(server.requests) == 1


def test_a_connection_that_always_breaks(server: MessagesServer, claude: Claude, quick: None) -> None:
    for _ in range(3):
        server.cut()
    with pytest.raises(Unavailable, match="broke off in 3 tries"):
        claude.say(HELLO)


def test_a_slow_server(server: MessagesServer) -> None:
    server.say(delay=3)
    hasty = Claude(client=client(server, retries=0, timeout=0.3))
    with pytest.raises(Unavailable, match="no answer in time in 1 try"):
        hasty.say(HELLO)
    assert hasty.budget.held > 0


def test_no_connection(claude: Claude) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        alone = Claude(client=Anthropic(api_key="k", base_url=url, max_retries=0))
        with pytest.raises(Unavailable, match="could not be reached in 1 try; check the network"):
            alone.say(HELLO)
    assert alone.budget.held == 0


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{}", b"null", b"[1]", b'"text"', b'{"content": [], "stop_reason": null, "usage": null}',
     b'{"content": [], "stop_reason": "end_turn", "usage": {"input_tokens": -1, "output_tokens": 1}}',
     b'{"content": [{"type": "text"}], "stop_reason": "x", "usage": {"input_tokens": 1, "output_tokens": 1}}'],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["application/json", "text/html"])
def test_a_reply_that_is_no_message(body: bytes, kind: str, server: MessagesServer, claude: Claude) -> None:
    server.send(200, body, headers={"Content-Type": kind})
    with pytest.raises(Unavailable, match="is no answer of the Messages API; check ANTHROPIC_BASE_URL"):
        claude.say(HELLO)


def test_without_a_key_nothing_is_tried(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    with pytest.raises(Unavailable, match="ANTHROPIC_API_KEY"):
        Claude().say(HELLO)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "“k”")
    with pytest.raises(Unavailable, match="copy the key again"):
        Claude().say(HELLO)
    assert server.requests == []
    monkeypatch.setenv("ANTHROPIC_API_KEY", " k\n")
    assert Claude().say(HELLO).text == "ok"
    assert server.headers[0]["authorization"] == "Bearer k"


def test_a_long_answer_needs_no_streaming(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    assert Claude(budget=1.0).say(HELLO, max_tokens=32768).text == "ok"


def test_what_cannot_be_asked(server: MessagesServer, claude: Claude) -> None:
    with pytest.raises(BadInput, match="no price"):
        Claude("gpt")
    with pytest.raises(BadInput, match="surrogate"):
        claude.say([{"role": "user", "content": "\ud800"}])
    with pytest.raises(BadInput, match="at least one"):
        claude.say(HELLO, max_tokens=0)
    assert server.requests == []


def test_a_ledger_that_cannot_be_written_stops_the_call(server: MessagesServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="ledger"):
        Claude(client=client(server), ledger=Ledger(tmp_path / "file" / "l")).say(HELLO)
    assert server.requests == []


def test_an_answer_that_cannot_be_kept_is_charged_all_the_same(
    claude: Claude, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise Unavailable("disk full")

    monkeypatch.setattr("router.kept.write_atomic", full)
    with pytest.raises(Unavailable, match="disk full"):
        claude.say(HELLO)
    assert Ledger().totals().dollars == PRICE


def test_importing_it_does_not_import_the_sdk() -> None:
    code = "import sys, router.claude, router.fallback, router.ask; print('anthropic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr
