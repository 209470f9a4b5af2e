"""Anthropic's Messages and Batches API on loopback, for the real SDK: a function answers, and bills are counted."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from router.kept import key_of

from .loopback import Handler, Loopback

Respond = Callable[[dict[str, Any]], str]
Hook = Callable[[str], object]


class ClaudeServer(Loopback):
    """`respond(body)` answers a request; one that starts with "!" is a stop reason or a batch error instead.

    billed: how often each request (by its key) was answered. looks: how often a batch is in progress before it has
    ended. faults: (kind of request, status or "cut" or "lost") to fail with, in order; "lost" does the work and cuts
    the connection. hook(kind) is called as a request comes, hook(kind + " done") before its response goes out. Kinds:
    message, create, list, retrieve, results.
    """

    def __init__(self, respond: Respond = lambda body: "ok") -> None:
        self.respond = respond
        self.billed: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.seen: Counter[str] = Counter()
        self.looks = 1
        self.faults: deque[tuple[str, Any]] = deque()
        self.headers: dict[str, str] = {}
        self.hook: Hook = lambda kind: None
        self.batches: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        super().__init__(self._handler())

    def message(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request, and bill it."""
        with self.lock:
            self.billed[key_of(body)] += 1
            self.bodies.append(body)
            text = self.respond(body)
        stop = "end_turn"
        if text.startswith("!"):
            stop, _, text = text[1:].partition(" ")
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": body["model"],
            "content": [{"type": "text", "text": text}] if text else [],
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": {"input_tokens": 10, "output_tokens": 5},
        }

    def create(self, requests: list[dict[str, Any]]) -> dict[str, Any]:
        """Make a batch; it is answered, and billed, at once."""
        id_ = f"msgbatch_{len(self.batches) + 1}"
        lines = []
        for one in requests:
            text = self.respond(one["params"])
            if text.startswith("!batch-"):
                kind, _, rest = text.removeprefix("!batch-").partition(" ")
                result: dict[str, Any] = {"type": kind}
                if kind == "errored":
                    error = {"type": rest or "api_error", "message": "no"}
                    result["error"] = {"type": "error", "error": error, "request_id": None}
            else:
                result = {"type": "succeeded", "message": self.message(one["params"])}
            lines.append({"custom_id": one["custom_id"], "result": result})
        batch = {
            "lines": lines[::-1],
            "looks": self.looks,
            "created": datetime.now(UTC).isoformat(),
            "id": id_,
        }
        self.batches[id_] = batch  # unordered: the last first
        return batch

    def shown(self, batch: dict[str, Any], look: bool = False) -> dict[str, Any]:
        ended = batch["looks"] <= 0
        batch["looks"] -= look
        kinds = Counter(line["result"]["type"] for line in batch["lines"]) if ended else Counter()
        counts = {kind: kinds[kind] for kind in ("succeeded", "errored", "canceled", "expired")}
        return {
            "id": batch["id"],
            "type": "message_batch",
            "processing_status": "ended" if ended else "in_progress",
            "request_counts": {"processing": 0 if ended else len(batch["lines"]), **counts},
            "ended_at": datetime.now(UTC).isoformat() if ended else None,
            "created_at": batch["created"],
            "expires_at": batch["created"],
            "archived_at": None,
            "cancel_initiated_at": None,
            "results_url": f"{self.url}/v1/messages/batches/{batch['id']}/results" if ended else None,
        }

    def _handler(server) -> type[Handler]:  # noqa: N805 - `self` is the request's below
        class Answers(Handler):
            def do_POST(self) -> None:
                self.work(self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                self.work(b"")

            def work(self, data: bytes) -> None:
                path = self.path.partition("?")[0]
                found = re.search(r"/batches/(msgbatch_\d+)(/results)?$", path)
                kind = "create" if data and path.endswith("/batches") else "message" if data else "list"
                if found:
                    kind = "results" if found[2] else "retrieve"
                server.seen[kind] += 1
                server.hook(kind)
                fault: Any = None
                if server.faults and server.faults[0][0] == kind:
                    fault = server.faults.popleft()[1]
                if isinstance(fault, float):
                    time.sleep(fault)
                if isinstance(fault, int):
                    error = {"type": "error", "error": {"type": "api_error", "message": "no"}}
                    return self.out(fault, json.dumps(error).encode())
                if fault == "cut":
                    self.close_connection = True
                    return None
                if kind == "message":
                    reply: Any = server.message(json.loads(data))
                elif kind == "create":
                    reply = server.shown(server.create(json.loads(data)["requests"]))
                elif kind == "list":
                    every = [server.shown(batch) for batch in reversed(list(server.batches.values()))]
                    reply = {"data": every, "has_more": False, "first_id": None, "last_id": None}
                elif kind == "retrieve":
                    assert found
                    reply = server.shown(server.batches[found[1]], look=True)
                else:
                    assert found
                    lines = server.batches[found[1]]["lines"]
                    body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
                    server.hook("results done")
                    if fault == "lost":
                        self.send_response(200)
                        self.send_header("Content-Length", str(len(body)))
                        self.end_headers()
                        self.wfile.write(body[: len(body) // 2])
                        self.close_connection = True
                        return None
                    return self.out(200, body)
                server.hook(f"{kind} done")
                if fault == "lost":
                    self.close_connection = True
                    return None
                return self.out(200, json.dumps(reply).encode())

            def out(self, status: int, body: bytes) -> None:
                self.send_response(status)
                headers = server.headers if status == 429 else {}
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        return Answers
