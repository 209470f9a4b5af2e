"""POST /v1/chat/completions: an answer whole, or as it is written."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from specialists.errors import BadInput, RouterError

from ..answer import Answer, Status
from ..decision import Decision
from ..engine.request import Generation
from .desk import Asked, Desk
from .errors import body_of, status_of
from .gate import tenant_of
from .keys import Keys
from .schema import ChatRequest
from .traffic import Traffic

DEADLINE_HEADER = "x-router-deadline"  # seconds

Events = AsyncGenerator[str | tuple[Answer, Generation], None]


@dataclass
class Chat:
    """Answers conversations. deadline: the most seconds that an answer may take, and what it takes unless told less."""

    desk: Desk
    keys: Keys
    traffic: Traffic
    deadline: float
    log_questions: bool = False

    async def __call__(self, request: Request, asked: ChatRequest) -> Response:
        tenant = tenant_of(request.scope)
        self.keys.spend(tenant)
        if asked.messages[-1].role != "user":
            raise BadInput("The last message must be the user's.")
        found = await self.desk.ask(
            asked.model,
            [message.plain() for message in asked.messages],
            asked.longest,
            self._deadline(request),
            tenant.allowed,
        )
        said = request.state.log
        said |= {"specialist": found.decision.specialist, "version": found.decision.version}
        if self.log_questions:
            said["question"] = found.decision.question
        one = Completion(found.by, found.decision)
        if asked.stream:
            usage = asked.stream_options is not None and asked.stream_options.include_usage
            events = self._written(found, said)
            return Streamed(
                self._stream(one, events, usage),
                media_type="text/event-stream",
                headers={
                    **headers_of(found.decision),
                    "Cache-Control": "no-store",
                    "X-Accel-Buffering": "no",
                },
            )
        return await self._whole(request, one, found, said)

    async def _whole(self, request: Request, one: Completion, found: Asked, said: dict[str, Any]) -> Response:
        """The answer when it is there; a client that goes away cancels it."""
        answering = asyncio.ensure_future(self._last(self._written(found, said)))
        leaving = asyncio.ensure_future(_gone(request.receive))
        await _first(answering, leaving)
        if answering.cancelled():
            return Response(status_code=499)
        answer, generation = answering.result()
        return JSONResponse(one.whole(answer, generation), headers=headers_of(found.decision))

    async def _last(self, events: Events) -> tuple[Answer, Generation]:
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, str):
                    return event
        raise RuntimeError("an answer ended without an end")

    async def _written(self, found: Asked, said: dict[str, Any]) -> Events:
        """What the desk gives, counted and noted in the log."""
        try:
            async with aclosing(self.desk.answer(found)) as events:
                async for event in events:
                    if not isinstance(event, str):
                        self.traffic.answered(*event)
                        said |= {"outcome": str(event[0].status), "tokens": event[1].tokens}
                        if event[0].model:
                            said |= {"model": event[0].model, "dollars": round(event[0].dollars, 9)}
                    yield event
        except RouterError as error:
            said["outcome"] = type(error).__name__.lower()
            raise
        finally:
            said.setdefault("outcome", "cancelled")
            if found.pieces is not None:
                await found.pieces.aclose()

    async def _stream(self, one: Completion, events: Events, usage: bool) -> AsyncIterator[str]:
        """Server-sent events. An error in the middle is an event too, since the status has been sent."""
        yield _event(one.first())
        try:
            async with aclosing(events):
                async for event in events:
                    if isinstance(event, str):
                        yield _event(one.piece(event))
                    else:
                        yield _event(one.last(*event))
                        if usage:
                            yield _event(one.usage(event[1]))
        except RouterError as error:
            self.traffic.failed(status_of(error))
            yield _event(body_of(error))
        yield "data: [DONE]\n\n"

    def _deadline(self, request: Request) -> float:
        given = request.headers.get(DEADLINE_HEADER)
        if given is None:
            return self.deadline
        try:
            seconds = float(given)
        except ValueError:
            seconds = -1
        if not 0 < seconds < float("inf"):
            raise BadInput(f"{DEADLINE_HEADER} is a number of seconds above 0.")
        return min(seconds, self.deadline)


class Streamed(StreamingResponse):
    """Ends as soon as the client leaves, and not only when there is something to send to it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        writing = asyncio.ensure_future(self.stream_response(send))
        await _first(writing, asyncio.ensure_future(_gone(receive)))
        if not writing.cancelled():
            writing.result()


async def _first(*tasks: asyncio.Future[Any]) -> None:
    """Wait until one of the tasks is done, and end the others."""
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@dataclass
class Completion:
    """OpenAI's objects of one answer. model: who gives it. The field `router` is ours: see docs/serving.md."""

    model: str
    decision: Decision
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: Answer, said: Generation) -> dict[str, Any]:
        """The answer in one object."""
        refusal = _refusal(answer)
        message = {"role": "assistant", "content": "" if refusal else answer.text, "refusal": refusal}
        choice = {"index": 0, "message": message, "finish_reason": _finish(said), "logprobs": None}
        return {
            **self._object("chat.completion"),
            "choices": [choice],
            "usage": _usage(said),
            "router": answer.to_json(),
        }

    def first(self) -> dict[str, Any]:
        """The first chunk: the decision."""
        return {**self._chunk({"role": "assistant", "content": ""}), "router": decision_json(self.decision)}

    def piece(self, text: str) -> dict[str, Any]:
        """A chunk of text."""
        return self._chunk({"content": text})

    def last(self, answer: Answer, said: Generation) -> dict[str, Any]:
        """The last chunk: how it ended, and what was read from it."""
        delta = {"refusal": refusal} if (refusal := _refusal(answer)) else {}
        more = {
            "first_token_seconds": round(said.first_token_seconds, 3),
            "waited_seconds": round(said.waited_seconds, 3),
        }
        return {**self._chunk(delta, _finish(said)), "router": answer.to_json() | more}

    def usage(self, said: Generation) -> dict[str, Any]:
        """The chunk that include_usage asks for."""
        return {**self._object("chat.completion.chunk"), "choices": [], "usage": _usage(said)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return {**self._object("chat.completion.chunk"), "choices": [choice]}

    def _object(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def decision_json(decision: Decision) -> dict[str, Any]:
    """The object of `router route --json`, and the confidence of every specialist."""
    scores = {name: round(value, 4) for name, value in decision.scores}
    return {**decision.to_json(), "scores": scores}


def headers_of(decision: Decision) -> dict[str, str]:
    """The decision for who reads no bodies."""
    found = {"X-Router-Specialist": decision.specialist or "none"}
    if decision.version:
        found["X-Router-Version"] = decision.version
    if decision.confidence is not None:
        found["X-Router-Confidence"] = f"{decision.confidence:.4f}"
    return found


def _finish(said: Generation) -> str:
    return "length" if said.truncated else "stop"


def _refusal(answer: Answer) -> str | None:
    return answer.decision.reason if answer.status is Status.REFUSED else None


def _usage(said: Generation) -> dict[str, int]:
    return {
        "prompt_tokens": said.prompt_tokens,
        "completion_tokens": said.tokens,
        "total_tokens": said.prompt_tokens + said.tokens,
    }


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value, allow_nan=False)}\n\n"


async def _gone(receive: Receive) -> None:
    """Returns when the client has."""
    while (await receive())["type"] != "http.disconnect":
        pass
