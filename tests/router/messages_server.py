"""Anthropic's Messages API on loopback, enough for the real SDK: it plays a queue of replies and keeps the requests."""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

from .loopback import Handler, Loopback

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


class MessagesServer(Loopback):
    """with MessagesServer() as server: server.say("Hello."); then point ANTHROPIC_BASE_URL at server.url.

    Replies come in the order they were queued; without one the server answers "ok".
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []  # seconds of the monotonic clock at which each request came
        self._replies: deque[dict[str, Any]] = deque()
        super().__init__(self._handler())

    def say(
        self, text: str = "ok", stop: str = "end_turn", delay: float = 0.0, **usage: int
    ) -> MessagesServer:
        """Queue an answer; `usage` in place of 10 tokens in and 5 out, delay in seconds."""
        body = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude",
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 5} | usage,
        }
        return self.send(200, json.dumps(body).encode(), delay=delay)

    def fail(self, status: int, text: str = "no", **headers: str) -> MessagesServer:
        """Queue an error as the API words it."""
        error = {"type": "error", "error": {"type": KINDS.get(status, "api_error"), "message": text}}
        return self.send(status, json.dumps(error).encode(), headers=headers)

    def cut(self, after: int = 0) -> MessagesServer:
        """Queue a connection that breaks: before the response, or after so many bytes of its body."""
        return self.send(200, b"x" * after, cut=True)

    def send(self, status: int, body: bytes, **options: Any) -> MessagesServer:
        """Queue a response of any bytes."""
        self._replies.append({"status": status, "body": body, **options})
        return self

    def _handler(server) -> type[Handler]:  # noqa: N805 - `self` is the request's below
        class Answers(Handler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                server.times.append(time.monotonic())
                server.requests.append(json.loads(data))
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                if not server._replies:
                    server.say()
                reply = server._replies.popleft()
                time.sleep(reply.get("delay", 0.0))
                self.close_connection = bool(reply.get("cut"))
                if self.close_connection and not reply["body"]:
                    return
                self.send_response(reply["status"])
                missing = 100 if self.close_connection else 0
                headers = {"Content-Type": "application/json", **reply.get("headers", {})}
                for name, value in {"Content-Length": str(len(reply["body"]) + missing), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(reply["body"])

        return Answers
