"""One vLLM server over HTTP: what is asked of it, what it says, and the ways in which it does not."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

SHORT = httpx2.Timeout(5)  # seconds for what a server answers from memory
LOADING = httpx2.Timeout(120, connect=5)  # to read an adapter, perhaps from a network disk
# How long a token may take is for whoever asks to say: see Replica.within.
STREAM = httpx2.Timeout(None, connect=5)
SHOWN = 300  # characters of a server's own words


class Lost(Exception):
    """No answer or no whole one came from a server; another one may give it. Says why, without the server's name."""


class Down(Lost):
    """Nobody is at the other end."""


class Full(Lost):
    """The server has enough to do."""


class Failing(Lost):
    """The server answered that it failed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"failed ({status}: {message})")
        self.status, self.message = status, message


class Refused(Exception):
    """The server answered that it will not. The message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Models:
    """What a server has: the name of its base, and those of the adapters that are loaded."""

    base: str
    adapters: frozenset[str]


@dataclass(frozen=True)
class Chunk:
    """A piece of a stream. ids: the tokens that came with it, none where the server does not tell.

    prompt: the tokens of the prompt, with the first piece. finish: why it ended. usage: tokens of prompt and answer.
    """

    text: str = ""
    ids: tuple[int, ...] = ()
    prompt: tuple[int, ...] = ()
    finish: str | None = None
    usage: tuple[int, int] | None = None


class Worker:
    """A server. Every call raises Lost when it gave no sound answer, and Refused when it declined."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client, self.url = client, url

    async def healthy(self) -> None:
        """Returns when it is."""
        await self._call("GET", "/health")

    async def models(self) -> Models:
        """What it serves now."""
        try:
            listed = json.loads(await self._call("GET", "/v1/models"))["data"]
            # An adapter's parent is its base; a base that was not adapted has none.
            base = next(str(one["id"]) for one in listed if not one.get("parent"))
            return Models(base, frozenset(str(one["id"]) for one in listed if one.get("parent")))
        except (ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
            raise Lost("does not list its models as vLLM does") from error

    async def load(self, name: str, path: str) -> None:
        """Have an adapter ready under a name; without effect when it is."""
        try:
            await self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path}, LOADING)
        except Failing as failing:
            # vLLM answers 500 to an adapter that it cannot use, such as one of too high a rank.
            raise Refused(failing.status, failing.message) from failing
        except Refused as refusal:
            # Loading a name again is refused like anything else that is wrong with a request.
            if refusal.status != 400 or name not in (await self.models()).adapters:
                raise

    async def unload(self, name: str) -> None:
        """Let an adapter go."""
        await self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name}, LOADING)

    async def length(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, int]:
        """Tokens of a prompt, and the most that prompt and answer may have together."""
        said = await self._call("POST", "/tokenize", {"model": model, "messages": list(messages)})
        try:
            counted = json.loads(said)
            return int(counted["count"]), int(counted["max_model_len"])
        except (ValueError, LookupError, TypeError) as error:
            raise Lost("does not count tokens as vLLM does") from error

    async def chunks(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Chunk]:
        """The pieces of an answer. Closing the iterator closes the connection, and vLLM ends the request.

        Ends without an error only where the server said that it was done.
        """
        with _translated():
            async with self._client.stream("POST", self.url + path, json=body, timeout=STREAM) as response:
                if response.status_code != 200:
                    await response.aread()
                    _check(response)
                async for event in httpx2.EventSource(response):
                    if event.data == "[DONE]":
                        return
                    yield _chunk(event.data)
        raise Lost("broke off in the middle of an answer")

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout: httpx2.Timeout = SHORT,
    ) -> bytes:
        with _translated():
            response = await self._client.request(method, self.url + path, json=body, timeout=timeout)
        _check(response)
        return response.content


@contextmanager
def _translated() -> Iterator[None]:
    """What goes wrong on the way, as Lost."""
    try:
        yield
    except httpx2.ConnectError as error:
        raise Down(f"cannot be reached ({_line(str(error)) or type(error).__name__})") from error
    except httpx2.TimeoutException as error:
        raise Lost("does not answer in time") from error
    except (httpx2.TransportError, httpx2.DecodingError) as error:
        raise Lost(f"broke off ({_line(str(error)) or type(error).__name__})") from error


def _check(response: httpx2.Response) -> None:
    if response.status_code != 200:
        _refuse(response.status_code, _said(response.content))


def _refuse(status: int, message: str) -> None:
    if status in (429, 503):
        raise Full(f"is busy ({status}: {message})")
    if 400 <= status < 500:
        raise Refused(status, message)
    raise Failing(status, message)


def _said(content: bytes) -> str:
    """The message of an error, in whatever form it comes."""
    try:
        found = json.loads(content)
        message = found["error"]["message"] if isinstance(found["error"], dict) else found["error"]
    except (ValueError, LookupError, TypeError):
        message = content.decode(errors="replace")
    return _line(str(message)) or "no reason given"


def _line(text: str) -> str:
    """Words from elsewhere on one line, short, without what could steer a terminal."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."


def _chunk(data: str) -> Chunk:
    """A piece of a chat's or a completion's stream."""
    try:
        found = json.loads(data)
        if error := found.get("error"):  # the status was 200 when it happened
            _refuse(int(error.get("code") or 500), _line(str(error.get("message"))))
        usage = found.get("usage")
        choice = (found.get("choices") or [{}])[0]
        chunk = Chunk(
            choice.get("text") or choice.get("delta", {}).get("content") or "",
            tuple(choice.get("token_ids") or ()),
            tuple(found.get("prompt_token_ids") or ()),
            choice.get("finish_reason"),
            (int(usage["prompt_tokens"]), int(usage["completion_tokens"])) if usage else None,
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Lost("sent what is no piece of an answer") from error
    if chunk.finish not in (None, "stop", "length"):
        raise Lost(f"gave the answer up ({_line(str(chunk.finish))})")  # "abort" of a server that shuts down
    return chunk
