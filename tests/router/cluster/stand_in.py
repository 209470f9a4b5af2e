"""A vLLM server on loopback without a model: the endpoints we use, with switches for all that can go wrong.

Its tokens are bytes, so that a character may need several, and an answer depends on adapter and prompt alone. As with
vLLM, text comes with the token that makes it whole, and a stream may be continued from tokens.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from random import Random
from typing import Any

from ..loopback import Handler, Loopback

ASSISTANT = "<assistant>"
LETTERS = "abc defgh ijk\n0123éß漢字😀"


def render(messages: Sequence[dict[str, str]]) -> bytes:
    """What a chat template makes of messages."""
    return ("".join(f"<{one['role']}>{one['content']}" for one in messages) + ASSISTANT).encode()


def written(model: str, prompt: bytes) -> bytes:
    """All that a model writes after a prompt: 5 to 40 characters."""
    drawn = Random(f"{model}/{prompt!r}")
    return "".join(drawn.choices(LETTERS, k=drawn.randint(5, 40))).encode()


def pieces(whole: bytes, start: int, end: int, sizes: Iterator[int]) -> Iterator[tuple[str, list[int]]]:
    """What is written from byte `start` to `end`, so many tokens at a time: (text that is whole by now, tokens)."""
    said = place = start
    while place < end:
        upto = min(place + next(sizes), end)
        ready = upto
        while ready > said and ready < len(whole) and whole[ready] & 0xC0 == 0x80:
            ready -= 1  # back to where a character begins
        yield whole[said:ready].decode(), list(whole[place:upto])
        said, place = ready, upto


class StandIn(Loopback):
    """See the switches. asked: (path, model) of every request for text; loads, unloads: names of adapters."""

    def __init__(self, base: str = "tiny", longest: int = 4096) -> None:
        super().__init__(type("Bound", (_Handler,), {"vllm": self}))
        self.base, self.longest = base, longest
        self.adapters: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []
        self.bodies: list[dict[str, Any]] = []
        self.loads: list[str] = []
        self.unloads: list[str] = []
        self.answering = 0  # streams under way
        self.most_answering = 0
        self.aborted = 0  # streams whose reader went away
        self.lock = threading.Lock()
        # the switches
        self.down = False  # every connection is closed without a word
        self.health = 200
        self.status = 200  # of requests for text
        self.message = "no reason"
        self.refuse_load: int | None = None  # status
        self.load_seconds = 0.0
        self.token_seconds = 0.0
        self.die_after: int | None = (
            None  # tokens of a stream; then the connection breaks, and so do all others
        )
        self.once = False  # it dies in one stream only, and lives on
        self.error_after: int | None = None  # tokens; then the engine is dead, as vLLM tells it
        self.finish = "stop"  # what an answer that is not cut ends with
        self.tells_ids = True
        self.counts = True  # whether it tells how long a prompt is
        self.sizes = lambda: iter(lambda: 1, None)  # tokens of each piece
        self.words = ""  # what it writes instead
        self.key = ""

    def forget(self) -> None:
        """As after a restart."""
        self.adapters.clear()


class _Handler(Handler):
    vllm: StandIn

    def handle(self) -> None:
        with suppress(ConnectionError):  # clients go away in these tests
            super().handle()

    def do_GET(self) -> None:
        if self._hangs_up():
            return
        if self.path == "/health":
            return self._say(self.vllm.health, b"")
        if not self._may():
            return None
        bases = [{"id": self.vllm.base, "parent": None, "root": "/x", "max_model_len": self.vllm.longest}]
        adapters = [{"id": name, "parent": self.vllm.base} for name in self.vllm.adapters]
        return self._json(200, {"object": "list", "data": bases + adapters})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._hangs_up() or not self._may():
            return None
        if self.path == "/v1/load_lora_adapter":
            return self._load(body["lora_name"], body["lora_path"])
        if self.path == "/v1/unload_lora_adapter":
            self.vllm.unloads.append(body["lora_name"])
            there = self.vllm.adapters.pop(body["lora_name"], None)
            return self._say(200, b"Success") if there else self._error(404, "cannot be found")
        if self.path == "/tokenize":
            if not self.vllm.counts:
                return self._error(400, "no chat template")
            count = len(render(body["messages"]))
            return self._json(200, {"count": count, "max_model_len": self.vllm.longest, "tokens": []})
        return self._text(body)

    def _load(self, name: str, path: str) -> None:
        self.vllm.loads.append(name)
        time.sleep(self.vllm.load_seconds)
        if self.vllm.refuse_load:
            return self._error(self.vllm.refuse_load, f"Loading lora {name} failed")
        if name in self.vllm.adapters:
            return self._error(400, f"The lora adapter '{name}' has already been loaded.")
        self.vllm.adapters[name] = path
        return self._say(200, b"Success")

    def _text(self, body: dict[str, Any]) -> None:
        vllm = self.vllm
        vllm.asked.append((self.path, body["model"]))
        vllm.bodies.append(body)
        if vllm.status != 200:
            return self._error(vllm.status, vllm.message)
        if body["model"] != vllm.base and body["model"] not in vllm.adapters:
            return self._error(404, f"The model `{body['model']}` does not exist.")
        given = bytes(body["prompt"]) if "prompt" in body else render(body["messages"])
        if len(given) + body["max_tokens"] > vllm.longest:
            return self._error(400, "maximum context length")
        prompt, mark, begun = given.rpartition(ASSISTANT.encode())
        whole = vllm.words.encode() or written(body["model"], prompt + mark)
        if not vllm.words and not whole.startswith(begun):
            return self._error(500, f"{begun!r} is not what I wrote")
        with vllm.lock:
            vllm.answering += 1
            vllm.most_answering = max(vllm.most_answering, vllm.answering)
        try:
            self._stream(body, given, whole, len(begun))
        except OSError:
            vllm.aborted += 1
            self.close_connection = True
        finally:
            with vllm.lock:
                vllm.answering -= 1
        return None

    def _stream(self, body: dict[str, Any], given: bytes, whole: bytes, start: int) -> None:
        vllm, chat = self.vllm, "messages" in body
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        told = {"prompt_token_ids": list(given)} if vllm.tells_ids and body["return_token_ids"] else {}
        if chat:
            first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            self._event({"choices": [first], **told})
        end = min(start + body["max_tokens"], len(whole))
        count = 0
        for text, ids in pieces(whole, start, end, vllm.sizes()):
            if vllm.token_seconds:
                time.sleep(vllm.token_seconds)
            if vllm.die_after is not None and (vllm.down or count + len(ids) > vllm.die_after):
                vllm.down = not vllm.once
                vllm.die_after = None if vllm.once else vllm.die_after
                with suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if vllm.error_after is not None and count + len(ids) > vllm.error_after:
                vllm.down = True
                self._event({"error": {"message": "EngineCore encountered an issue.", "code": 500}})
                return self._done()
            count += len(ids)
            words = {"delta": {"content": text}} if chat else {"text": text}
            more = {"token_ids": ids} if vllm.tells_ids else {}
            last = start + count == end
            reason = ("length" if len(whole) > end else vllm.finish) if last else None
            self._event({"choices": [{"index": 0, **words, **more, "finish_reason": reason}]})
        usage = {"prompt_tokens": len(given), "completion_tokens": count}
        self._event({"choices": [], "usage": usage})
        return self._done()

    def _event(self, event: dict[str, Any]) -> None:
        self._part(f"data: {json.dumps(event)}\n\n".encode())

    def _done(self) -> None:
        self._part(b"data: [DONE]\n\n")
        self._part(b"")

    def _part(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _hangs_up(self) -> bool:
        self.close_connection = self.close_connection or self.vllm.down
        return self.vllm.down

    def _may(self) -> bool:
        right = not self.vllm.key or self.headers["Authorization"] == f"Bearer {self.vllm.key}"
        if not right:
            self._error(401, "Unauthorized")
        return right

    def _error(self, status: int, message: str) -> None:
        self._json(status, {"error": {"message": message, "type": "x", "param": None, "code": status}})

    def _json(self, status: int, body: Any) -> None:
        self._say(status, json.dumps(body).encode(), "application/json")

    def _say(self, status: int, body: bytes, kind: str = "text/plain") -> None:
        with suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
