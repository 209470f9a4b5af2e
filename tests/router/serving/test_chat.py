"""Conversations over HTTP, with OpenAI's own client and without."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from specialists.prompts import PROMPTS

from .conftest import FakeBackend

COLOUR = "Is red a colour?"
OTHER = "Who was Ada Lovelace?"


@pytest.fixture
def running(start: Any) -> Any:
    return start()


@pytest.fixture
def client(running: Any) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_auto_is_answered_by_the_specialist_that_fits(client: OpenAI, running: Any) -> None:
    raw = client.chat.completions.with_raw_response.create(model="auto", messages=user(COLOUR))
    found = raw.parse()
    assert found.choices[0].message.content == "It is warm.\nAnswer: yes"
    assert found.choices[0].finish_reason == "stop" and found.model == "colours@1.0.0"
    assert found.usage is not None
    assert (found.usage.prompt_tokens, found.usage.completion_tokens, found.usage.total_tokens) == (7, 4, 11)
    assert raw.headers["x-router-specialist"] == "colours" and raw.headers["x-router-version"] == "1.0.0"
    assert raw.headers["x-router-confidence"] == "0.9700"
    said = found.model_extra["router"]  # type: ignore[index]
    assert (said["answer"], said["status"], said["specialist"]) == ("yes", "answered", "colours")
    (asked,) = running.backend.asked
    assert asked.adapter == "colours@1.0.0"
    assert [message["content"] for message in asked.messages] == [PROMPTS["plain"], COLOUR]


def test_a_backend_that_has_nothing_to_do_lends_its_thread_to_the_decision(start: Any) -> None:
    running = start(backend=FakeBackend(lends=True))
    assert running.ask(COLOUR).json()["model"] == "colours@1.0.0" and running.backend.lent == 1
    assert running.ask(COLOUR, model="base").json()["model"] == "base" and running.backend.lent == 1


def test_who_was_unregistered_since_the_decision_does_not_answer(running: Any) -> None:
    running.desk.versions = {}
    found = running.ask(COLOUR).json()
    assert found["model"] == "base" and found["router"]["specialist"] is None
    assert found["router"]["reason"] == "colours fits, but was unregistered"


def test_a_stream_begins_with_the_decision_and_ends_with_the_answer(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="auto", messages=user(COLOUR), stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "It is warm.\nAnswer: yes"
    first, last = chunks[0].model_extra["router"], chunks[-2].model_extra["router"]  # type: ignore[index]
    assert first["specialist"] == "colours" and "answer" not in first
    assert last["answer"] == "yes" and chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 11


def test_a_stream_without_usage_has_none(running: Any) -> None:
    body = running.ask(stream=True).text
    assert "usage" not in body and body.endswith("data: [DONE]\n\n")
    assert [json.loads(line[6:])["object"] for line in body.split("\n\n")[:-2]] == [
        "chat.completion.chunk"
    ] * 6


def test_the_base_sees_the_whole_conversation(client: OpenAI, running: Any) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": [{"type": "text", "text": "Who was "}, {"type": "text", "text": "Ada?"}]},
    ]
    found = client.chat.completions.create(model="auto", messages=messages)
    assert found.model == "base" and found.choices[0].message.content == "A poet."
    assert running.backend.asked[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Who was Ada?"},
    ]


@pytest.mark.parametrize(
    ("model", "adapter"), [("base", None), ("colours", "colours@1.0.0"), ("colours@1.0.0", "colours@1.0.0")]
)
def test_a_model_by_name_is_not_routed(client: OpenAI, running: Any, model: str, adapter: str | None) -> None:
    for question in (COLOUR, OTHER):
        client.chat.completions.create(model=model, messages=user(question), max_tokens=9)
    assert [(one.adapter, one.max_new_tokens) for one in running.backend.asked] == [(adapter, 9)] * 2


def test_models_can_be_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["auto", "base", "colours"]
    assert client.models.retrieve("colours").id == "colours"
    with pytest.raises(NotFoundError):
        client.models.retrieve("sounds")


def test_text_that_was_cut_says_so(start: Any) -> None:
    running = start()
    running.backend.says = lambda request: "It is warm and..."
    found = running.ask().json()
    assert found["choices"][0]["finish_reason"] == "length" and found["router"]["status"] == "truncated"


def test_without_fallback_nobody_answers(start: Any) -> None:
    running = start(fallback="none")
    found = running.ask(OTHER).json()
    assert found["choices"][0]["message"]["content"] == "" and found["router"]["status"] == "refused"
    assert "no specialist reaches" in found["choices"][0]["message"]["refusal"]
    assert running.backend.asked == []
    assert '"refusal": "no specialist reaches' in running.ask(OTHER, stream=True).text


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": 2},
        {"tools": [{"type": "function"}]},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"stop": ["\n"]},
        {"max_tokens": 0},
        {"temperature": 3},
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "Hello!"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": "x" * 8001}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        {"model": ""},
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(client: OpenAI, running: Any, wrong: Any) -> None:
    with pytest.raises(BadRequestError) as error:
        client.chat.completions.create(**({"model": "auto", "messages": user(COLOUR)} | wrong))
    body: Any = error.value.body
    assert body["message"].endswith(".") and "\n" not in body["message"]
    assert running.backend.asked == []


@pytest.mark.parametrize("model", ["sounds", "colours@2.0.0", "../colours", "x" * 128])
def test_an_unknown_model_is_not_found(client: OpenAI, running: Any, model: str) -> None:
    with pytest.raises(NotFoundError, match=r"colours|sounds|name"):
        client.chat.completions.create(model=model, messages=user(COLOUR))
    assert running.backend.asked == []


def test_sampling_parameters_change_nothing(client: OpenAI) -> None:
    found = client.chat.completions.create(
        model="auto", messages=user(COLOUR), temperature=0.7, top_p=0.5, seed=3, n=1
    )
    assert found.choices[0].message.content == "It is warm.\nAnswer: yes"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff\xfe", b'{"messages": 3}', b'{"messages": [{"role": "user"}]}', b"null"]
)
def test_a_body_that_is_no_request(running: Any, body: bytes) -> None:
    found = running.client.post(
        "/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}
    )
    assert found.status_code == 400 and found.json()["error"]["type"] == "invalid_request_error"


def test_route_decides_and_answers_nothing(running: Any) -> None:
    found = running.client.post("/route", json={"question": COLOUR})
    assert found.json()["specialist"] == "colours" and found.headers["x-router-specialist"] == "colours"
    found = running.client.post("/route", json={"question": OTHER})
    assert found.json()["specialist"] is None and found.headers["x-router-specialist"] == "none"
    assert running.backend.asked == []
