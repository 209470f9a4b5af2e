"""A loopback server of chat completions in OpenAI's shape, whose answers a function gives."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

from ..router.loopback import Handler, Loopback

Respond = Callable[[dict[str, Any]], str]


class ChatServer(Loopback):
    """Answers POST /v1/chat/completions by `respond`; `trouble` queues statuses to fail with first, 0 to cut."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.trouble: deque[tuple[int, dict[str, str]]] = deque()
        self.finish = "stop"
        super().__init__(self._handler())

    def _handler(server) -> type[Handler]:  # noqa: N805 - `self` is the request's below
        class Answers(Handler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(request)
                server.keys.append(self.headers.get("Authorization"))
                status, headers = server.trouble.popleft() if server.trouble else (200, {})
                if status == 0:
                    self.close_connection = True
                    return
                choice = {"message": {"role": "assistant", "content": server.respond(request)}}
                body = {
                    "choices": [{**choice, "finish_reason": server.finish}],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 3},
                }
                data = json.dumps(body if status == 200 else {"error": "no"}).encode()
                self.send_response(status)
                for name, value in {"Content-Length": str(len(data)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        return Answers
