"""Questions that fit no specialist, put to Claude: who is asked, what is printed where, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from click.testing import Result

from router import ask
from router.answer import Answer, Status
from router.ask import Asker
from router.ledger import Ledger, Usage, dollars, money
from specialists.errors import BadInput, Unavailable
from specialists.paths import home
from specialists.prompts import PROMPTS

from .messages_server import MessagesServer

Run = Callable[..., Result]

HAIKU, OPUS = "claude-haiku-5-5", "claude-opus-5-5"
COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"
PRICE = dollars(HAIKU, Usage(10, 5))
CLAUDE = ("ask", "--fallback", "claude")


@pytest.fixture
def server(served: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[MessagesServer]:
    with MessagesServer() as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
        yield server


def one(asker: Asker, question: str, **options: Any) -> Answer:
    (answer,) = asker.answer(asker.decide([question]), **options)
    return answer


@pytest.mark.parametrize(
    ("text", "stop", "status", "answer"),
    [
        (" A mathematician.\n", "end_turn", Status.HANDED_ON, "A mathematician."),
        ("", "end_turn", Status.HANDED_ON, None),
        ("She was", "max_tokens", Status.TRUNCATED, "She was"),
        ("She was", "model_context_window_exceeded", Status.TRUNCATED, "She was"),
        ("I must not", "refusal", Status.REFUSED, None),
    ],
)
def test_status_of_what_claude_says(
    text: str, stop: str, status: Status, answer: str | None, server: MessagesServer
) -> None:
    server.say(text, stop)
    found = one(Asker(fallback="claude"), OTHER)
    assert (found.status, found.answer, found.text) == (status, answer, text)
    assert (found.model, found.dollars, found.tokens) == (HAIKU, PRICE, 5)


def test_claude_gets_the_plain_prompt_and_the_question(server: MessagesServer) -> None:
    one(Asker(fallback="claude", max_new_tokens=77), f" {OTHER}")
    (request,) = server.requests
    assert (request["model"], request["max_tokens"]) == (HAIKU, 77)
    assert request["messages"] == [{"role": "user", "content": OTHER}]
    assert request["system"][0]["text"] == PROMPTS["plain"]
    assert Ledger().charges()[0][0].purpose == "ask"


def test_specialists_go_on_answering_here_for_nothing(server: MessagesServer, served: Any) -> None:
    server.say("first").say("second")
    served.queue("Answer: one", "Answer: two")
    asker = Asker(fallback="claude")
    asker.prepare()
    answers = asker.answer(asker.decide([OTHER, COLOUR, f"{OTHER} Really?", COLOUR]))
    assert [answer.answer for answer in answers] == ["first", "one", "second", "two"]
    assert [answer.model for answer in answers] == [HAIKU, None, HAIKU, None]
    assert [request.adapter for request in served.requests] == ["colours@1.0.0"] * 2


def test_no_base_is_opened_for_claude(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "open_engine", lambda *_: pytest.fail("the base was opened"))
    asker = Asker(fallback="claude")
    asker.prepare()
    assert one(asker, OTHER).status is Status.HANDED_ON


def test_the_base_asked_for_by_name_is_not_claude(server: MessagesServer, served: Any) -> None:
    served.queue("here")
    assert one(Asker(specialist="base", fallback="claude"), OTHER).answer == "here"
    assert server.requests == []


def test_the_model_is_an_option_or_a_setting(server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    home().mkdir(parents=True, exist_ok=True)
    (home() / "config.yaml").write_text("claude_model: claude-sonnet-5-5\n")
    assert Asker(fallback="claude").claude.model == "claude-sonnet-5-5"  # type: ignore[union-attr]
    monkeypatch.setenv("ROUTER_CLAUDE_MODEL", OPUS)
    assert Asker(fallback="claude").claude.model == OPUS  # type: ignore[union-attr]
    assert Asker(fallback="claude", claude_model=HAIKU).claude.model == HAIKU  # type: ignore[union-attr]
    with pytest.raises(BadInput, match="no price"):
        Asker(fallback="claude", claude_model="gpt")


@pytest.mark.parametrize("options", [{"claude_model": HAIKU}, {"budget": 0.0}])
def test_options_of_claude_without_claude_are_refused(options: dict[str, Any], served: Any) -> None:
    with pytest.raises(BadInput, match="--fallback claude"):
        Asker(**options)


def test_history_reaches_claude_without_what_nobody_answered(server: MessagesServer) -> None:
    turns = [("a?", "b."), ("refused?", " ")]
    one(Asker(fallback="claude"), OTHER, history=turns)
    said = [(turn["role"], turn["content"]) for turn in server.requests[0]["messages"]]
    assert said == [("user", "a?"), ("assistant", "b."), ("user", OTHER)]


def test_over_budget_refuses_one_question_and_not_the_next(server: MessagesServer) -> None:
    """A kept answer is still free."""
    one(Asker(fallback="claude"), OTHER)
    asker = Asker(fallback="claude", budget=0.0)
    refused, free = asker.answer(asker.decide(["Who else?", OTHER]))
    assert (refused.status, refused.model) == (Status.REFUSED, None)
    assert "budget of $0.00" in refused.decision.reason
    assert (free.status, free.answer, free.dollars) == (Status.HANDED_ON, "ok", 0.0)
    assert len(server.requests) == 1


def test_claude_is_asked_before_anything_is_generated(server: MessagesServer, served: Any) -> None:
    server.fail(401)
    asker = Asker(fallback="claude")
    with pytest.raises(Unavailable):
        asker.answer(asker.decide([COLOUR, OTHER]))
    assert served.requests == []


def test_ask_prints_the_answer_alone_and_the_price_beside(run: Run, server: MessagesServer) -> None:
    server.say("A \x1bmathematician.")
    done = run(*CLAUDE, OTHER)
    assert (done.exit_code, done.stdout) == (0, "A mathematician.\n")
    assert done.stderr.splitlines() == [
        "router: no specialist reaches 0.50: asking claude-haiku-5-5.",
        f"router: claude-haiku-5-5 cost {money(PRICE)}.",
    ]
    done = run(*CLAUDE, OTHER)
    assert done.stdout == "A mathematician.\n" and len(server.requests) == 1
    assert "claude-haiku-5-5 cost nothing: its answer was kept." in done.stderr


def test_ask_json_names_model_and_dollars(run: Run, server: MessagesServer, served: Any) -> None:
    served.queue("Answer: yes")
    done = run(*CLAUDE, "--json", "--claude-model", OPUS, OTHER)
    found = json.loads(done.stdout)
    assert list(found)[-8:] == [
        *("reason", "answer", "text", "status", "tokens", "seconds", "model", "dollars"),
    ]
    assert (found["answer"], found["status"], found["model"]) == ("ok", "handed_on", OPUS)
    assert found["dollars"] == pytest.approx(dollars(OPUS, Usage(10, 5))) and OPUS in done.stderr
    assert "model" not in json.loads(run(*CLAUDE, "--json", COLOUR).stdout)


def test_ask_lines(run: Run, server: MessagesServer, served: Any) -> None:
    """A line beyond the budget is refused in its place; what was spent is told once, at the end."""
    server.say("first", output_tokens=1000).say("never")
    served.queue("Answer: yes")
    lines = [OTHER, "", COLOUR, "Who else?", OTHER]
    done = run(*CLAUDE, "--budget", "0.0008", "-", input="\n".join(lines).encode())
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["status"] for row in found] == ["handed_on", "refused", "answered", "refused", "handed_on"]
    assert [row["answer"] for row in found] == ["first", None, "yes", None, "first"]
    assert "budget of $0.0008" in found[3]["reason"] and found[4]["dollars"] == 0
    assert done.exit_code == 0 and len(server.requests) == 1
    assert done.stderr == "router: claude-haiku-5-5 cost $0.000501.\n"


@pytest.mark.parametrize("budget", ["nan", "inf", "-1", "much"])
def test_ask_with_a_budget_that_is_none(budget: str, run: Run, server: MessagesServer) -> None:
    done = run(*CLAUDE, "--budget", budget, OTHER)
    assert (done.exit_code, done.stdout, server.requests) == (2, "", [])


def test_ask_over_budget_is_3(run: Run, server: MessagesServer) -> None:
    done = run(*CLAUDE, "--budget", "0.0001", OTHER)
    assert (done.exit_code, done.stdout, server.requests) == (3, "", [])
    assert done.stderr.splitlines()[-1].endswith("raise --budget, or allow a shorter answer.")


def test_ask_declined_is_3_and_paid(run: Run, server: MessagesServer) -> None:
    server.say("", "refusal")
    done = run(*CLAUDE, OTHER)
    assert (done.exit_code, done.stdout) == (3, "")
    assert f"cost {money(PRICE)}" in done.stderr and "declined to answer; rephrase" in done.stderr


def test_ask_cut_short_is_1(run: Run, server: MessagesServer) -> None:
    server.say("She was", "max_tokens")
    done = run(*CLAUDE, OTHER)
    assert (done.exit_code, done.stdout) == (1, "She was\n")
    assert "cut after 5 tokens; raise --max-new-tokens" in done.stderr


def test_ask_without_a_key_is_5(run: Run, server: MessagesServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    done = run(*CLAUDE, OTHER)
    assert (done.exit_code, done.stdout, server.requests) == (5, "", [])
    assert "set ANTHROPIC_API_KEY" in done.stderr and "Traceback" not in done.stderr


def test_chat_goes_on_where_claude_does_not_answer(run: Run, server: MessagesServer) -> None:
    server.say("", "refusal").fail(401).say("In 1815.")
    done = run("chat", "--fallback", "claude", input="What?\nHow?\nWhen?\n")
    assert (done.exit_code, done.stdout) == (0, "In 1815.\n")
    assert "declined" in done.stderr and "does not accept the key" in done.stderr
    assert server.requests[-1]["messages"] == [{"role": "user", "content": "When?"}]
