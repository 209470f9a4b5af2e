"""A server that runs on this machine (`router serve`), as the router and the engine of `ask` and `chat`."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from specialists.errors import BadInput, Refused, RouterError, Unavailable

from .decision import Decision, Nearest
from .engine.request import Generation, Request
from .serving.announce import read
from .settings import setting

AT_ONCE = 16  # questions of a batch that are asked together
_LOOK = 0.5  # seconds in which a server has to say that it is there
_ANSWER = 600.0  # seconds without a byte after which it is given up


def find() -> Server | None:
    """The server of this user that runs on this machine and answers now; None when there is none.

    A server that wants a key is used where the setting api_key (ROUTER_API_KEY) has one.
    """
    found = read()
    if found is None:
        return None
    key = setting("api_key")
    if found["needs_key"] and not key:
        return None
    server = Server(found["url"], key)
    return server if server.ready() else None


class Server:
    """Routes and generates over HTTP. Stands in for Router (route_many) and Engine (generate)."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        self._key = key

    def ready(self) -> bool:
        """Whether it can answer now."""
        try:
            with self._answer("GET", "/readyz", timeout=_LOOK) as response:
                return response.status == 200
        except RouterError:
            return False

    def route_many(self, questions: Sequence[str]) -> list[Decision]:
        """The decisions on questions, as Router gives them. Raises Unavailable when the server has gone."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(self._route, questions))

    def _route(self, question: str) -> Decision:
        with self._answer("POST", "/route", {"question": question}) as response:
            return decision_from(_json(response))

    def generate(
        self, requests: Sequence[Request], on_token: Callable[[int, str], None] | None = None
    ) -> list[Generation]:
        """Answer requests, in the order given. A specialist's prompt and hints are the server's own."""
        if len(requests) == 1:
            return [self._generate(0, requests[0], on_token)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda at: self._generate(at, requests[at], on_token), range(len(requests))))

    def _generate(
        self, index: int, request: Request, on_token: Callable[[int, str], None] | None
    ) -> Generation:
        messages = list(request.messages) if request.adapter is None else [request.messages[-1]]
        body = {
            "model": request.adapter or "base",
            "messages": messages,
            "max_tokens": request.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        last: dict[str, Any] = {}
        read = 0
        with self._answer("POST", "/v1/chat/completions", body) as response:
            if response.status != 200:
                raise _error(response)
            for chunk in _events(response):
                if "error" in chunk:
                    raise Unavailable(f"{self.url}: {chunk['error']['message']}")
                for choice in chunk["choices"]:
                    if (piece := choice["delta"].get("content")) and on_token:
                        on_token(index, piece)
                    if choice["finish_reason"]:
                        last = chunk
                read = (chunk.get("usage") or {}).get("prompt_tokens", read)
        if not last:
            raise Unavailable(f"{self.url} stopped in the middle of an answer; ask again.")
        said = last["router"]
        return Generation(
            said["text"],
            said["tokens"],
            last["choices"][0]["finish_reason"] == "length",
            said["seconds"],
            said["first_token_seconds"],
            said["waited_seconds"],
            prompt_tokens=read,
        )

    @contextmanager
    def _answer(
        self, method: str, path: str, body: Any = None, timeout: float = _ANSWER
    ) -> Iterator[http.client.HTTPResponse]:
        """The response to a request. Leaving before its end closes the connection, which cancels it."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            yield connection.getresponse()
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            raise Unavailable(
                f"The server at {self.url} went away ({error or type(error).__name__}); ask again, or add --no-server."
            ) from error
        finally:
            connection.close()


def decision_from(found: dict[str, Any]) -> Decision:
    """A decision from the JSON object of `router route --json`."""
    runner_up = found["runner_up"]
    return Decision(
        found["question"],
        found["specialist"],
        found["version"],
        found["confidence"],
        found["threshold"],
        (runner_up["specialist"], runner_up["confidence"]) if runner_up else None,
        tuple(Nearest(one["text"], one["specialist"], one["similarity"]) for one in found["exemplars"]),
        found["reason"],
        tuple(found.get("scores", {}).items()),
    )


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    """The JSON of server-sent events, until the last."""
    for line in response:
        if line.startswith(b"data: "):
            data = line[6:].strip()
            if data == b"[DONE]":
                return
            yield json.loads(data)


def _json(response: http.client.HTTPResponse) -> dict[str, Any]:
    if response.status != 200:
        raise _error(response)
    found: dict[str, Any] = json.loads(response.read())
    return found


def _error(response: http.client.HTTPResponse) -> RouterError:
    """What a status other than 200 means here."""
    try:
        message = str(json.loads(response.read())["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"the server answered {response.status}"
    if response.status in (400, 404, 413):
        return BadInput(message)
    if response.status in (401, 403):
        return Refused(message)
    return Unavailable(message)
