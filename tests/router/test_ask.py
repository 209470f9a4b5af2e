"""From a question to an answer: who is asked what, how the text is read, and what each status means."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.register import register
from router import ask, prompting
from router.ask import Answer, Asker, Status, clean, later
from specialists.errors import BadInput, Damaged
from specialists.prompts import PROMPTS

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"


def one(asker: Asker, question: str, **options: Any) -> Answer:
    (answer,) = asker.answer(asker.decide([question]), **options)
    return answer


@pytest.mark.parametrize(
    ("text", "status", "answer"),
    [
        ("It is warm.\nAnswer: yes", Status.ANSWERED, "yes"),
        ("It is warm.\nAnswer: yes, so...", Status.ANSWERED, "yes, so"),
        ("It is warm.", Status.UNPARSED, None),
        ("It is warm and it is...", Status.TRUNCATED, None),
        ("", Status.UNPARSED, None),
    ],
)
def test_status_of_a_specialists_text(text: str, status: Status, answer: str | None, served: Any) -> None:
    served.queue(text)
    found = one(Asker(), COLOUR)
    assert (found.status, found.text) == (status, text)
    assert (found.answer or "").rstrip(".") == (answer or "")


def test_specialist_gets_its_prompt_adapter_and_length(served: Any) -> None:
    served.queue("Answer: yes")
    one(Asker(), f"  {COLOUR} ")
    (request,) = served.requests
    assert request.adapter == "colours@1.0.0" and request.max_new_tokens == 512
    assert [message["content"] for message in request.messages] == [PROMPTS["plain"], COLOUR]
    assert served.added["colours@1.0.0"].name == "1.0.0"


def test_base_answers_what_fits_nobody(served: Any) -> None:
    served.queue(" A mathematician.\n")
    found = one(Asker(max_new_tokens=9), OTHER)
    assert (found.status, found.answer) == (Status.HANDED_ON, "A mathematician.")
    assert served.requests[0].adapter is None and served.requests[0].max_new_tokens == 9


def test_base_cut_short_is_truncated(served: Any) -> None:
    served.queue("She was...")
    assert one(Asker(), OTHER).status is Status.TRUNCATED


def test_without_fallback_nobody_answers_and_no_base_is_opened(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask, "open_engine", lambda *_: pytest.fail("the base was opened"))
    asker = Asker(fallback="none")
    asker.prepare()
    found = one(asker, OTHER)
    assert (found.status, found.answer, found.text) == (Status.REFUSED, None, "")


def test_mixed_batch_keeps_its_order(served: Any) -> None:
    served.queue("Answer: one", "two")
    heard: list[tuple[int, str]] = []
    asker = Asker(fallback="none")
    answers = asker.answer(
        asker.decide([OTHER, COLOUR, OTHER, COLOUR]), lambda i, piece: heard.append((i, piece))
    )
    assert [str(answer.status) for answer in answers] == ["refused", "answered", "refused", "unparsed"]
    assert heard == [(1, "Answer:"), (1, " one"), (3, "two")]


def test_named_specialist_needs_no_router(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "open_router", lambda store, **_: pytest.fail("the encoder was loaded"))
    served.queue("Answer: 1", "hello")
    found = one(Asker(specialist="colours@1.0.0"), OTHER)
    assert (found.status, found.decision.specialist) == (Status.ANSWERED, "colours")
    found = one(Asker(specialist="base", fallback="none"), COLOUR)
    assert (found.status, found.decision.specialist) == (Status.HANDED_ON, None)


def test_unknown_specialist_is_refused_before_anything_loads(served: Any) -> None:
    with pytest.raises(BadInput, match="colours"):
        Asker(specialist="colour")
    with pytest.raises(BadInput, match=r"9\.9\.9"):
        Asker(specialist="colours@9.9.9")


def test_adapter_is_loaded_once(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    added: list[str] = []
    monkeypatch.setattr(
        served, "add", lambda name, folder: (added.append(name), served.added.update({name: folder}))
    )
    served.queue("Answer: 1", "Answer: 2", "Answer: 3")
    asker = Asker()
    asker.answer(asker.decide([COLOUR, COLOUR]))
    one(asker, COLOUR)
    assert added == ["colours@1.0.0"]


def test_note_on_other_weights_and_refusal_of_another_base(served: Any) -> None:
    served.base.weights = "1" * 64
    served.queue("Answer: 1")
    (note,) = one(Asker(), COLOUR).notes
    assert "answers may differ" in note
    served.base.id = "other/model"
    with pytest.raises(Damaged, match="other/model"):
        one(Asker(), COLOUR)


def test_changed_weights_are_not_used(served: Any) -> None:
    asker = Asker()
    decisions = asker.decide([COLOUR])
    weights = asker.store.resolve("colours").path / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(Damaged):
        asker.answer(decisions)
    assert not served.added


def test_history_reaches_the_base_only(served: Any) -> None:
    served.queue("She wrote programs.", "Answer: yes")
    turns = [(f"question {i}", f"answer {i}") for i in range(prompting.HISTORY + 2)]
    one(Asker(), OTHER, history=turns)
    one(Asker(), COLOUR, history=turns)
    base, specialist = ([message["content"] for message in request.messages] for request in served.requests)
    recent = [text for turn in turns[-prompting.HISTORY :] for text in turn]
    assert base == [PROMPTS["plain"], *recent, OTHER]
    assert specialist == [PROMPTS["plain"], COLOUR]


def test_json_is_stable(served: Any) -> None:
    served.queue("Answer: yes")
    found = one(Asker(), COLOUR).to_json()
    assert list(found) == [
        *("question", "specialist", "version", "confidence", "threshold", "runner_up", "exemplars", "reason"),
        *("answer", "text", "status", "tokens", "seconds"),
    ]
    assert (found["answer"], found["status"], found["tokens"], found["seconds"]) == (
        "yes",
        "answered",
        2,
        0.5,
    )


@pytest.mark.parametrize("question", ["", "  \n\t ", "\ufeff", "\0\0", "x" * 50_000])
def test_what_is_no_question(question: str) -> None:
    with pytest.raises(BadInput):
        clean(question)


def test_bytes_that_are_no_text_become_marks() -> None:
    assert clean("caf\udce9?") == "caf\ufffd?"
    assert clean("\ufeff\ud83d\ude00 ok\0") == "\U0001f600 ok"


def test_later_brings_the_error_and_holds_up_nothing() -> None:
    before = threading.enumerate()  # other tests' pools among them
    future = later(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        future.result(timeout=5)
    later(lambda: time.sleep(30))
    new = [thread for thread in threading.enumerate() if thread not in before]
    assert new and all(thread.daemon for thread in new)


def test_open_router_knows_what_is_registered(
    tiny_adapter: Callable[..., Path], fake_encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.embed.load_encoder", lambda **_: fake_encoder)
    store = ask.Store(tmp_path / "own", tmp_path / "nothing-bundled")
    exemplars = tmp_path / "colours.txt"
    exemplars.write_text("Which colours are warm?\n")
    register(store, tiny_adapter("colours"), "colours", exemplars, "plain")
    (entry,) = ask.open_router(store).entries
    assert (entry.name, entry.version, entry.exemplars) == ("colours", "1.0.0", ("Which colours are warm?",))


@pytest.mark.slow
def test_the_real_base_answers() -> None:
    """No specialist named: the base itself, through the real engine."""
    found = one(Asker(specialist="base", max_new_tokens=30), "What is the capital of France? One word.")
    assert "Paris" in found.text and found.tokens > 0
