"""Requests and answers over the standard library's HTTP server, and faults that tests put in between."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

BLOCK = 1 << 20
MAX_BODY = 256 << 20  # bytes of a JSON body; large files come on their own


class Refused(Exception):
    """An answer that is an error: status, message, and the code that the Hub's client understands."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Answer:
    """What goes back. `file`, if there is one, is sent from where it stands to its end."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    length: int | None = None


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class Request:
    """A request: `path` decoded once, `query` (name -> values), headers, and a body to be read once."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        self.method = handler.command
        self.path = unquote(parts.path)
        self.query = parse_qs(parts.query)
        self.headers = handler.headers
        self._handler = handler
        self.unread = True

    @property
    def token(self) -> str | None:
        """The bearer token, if one came."""
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None

    def blocks(self, limit: int) -> Iterator[bytes]:
        """The body in blocks. Raises Refused when it is longer than `limit` bytes or breaks off."""
        self.unread = False
        read = 0
        for block in self._chunks() if self._chunked() else self._sized(limit):
            read += len(block)
            if read > limit:
                raise Refused(413, f"This is more than the {limit} bytes allowed.")
            yield block

    def body(self) -> bytes:
        return b"".join(self.blocks(MAX_BODY))

    def json(self) -> Any:
        """The body as a JSON object; empty when there is none. Raises Refused."""
        try:
            found = json.loads(self.body() or b"{}")
        except (ValueError, RecursionError) as error:
            raise Refused(400, "The body is not JSON.") from error
        if not isinstance(found, dict):
            raise Refused(400, "The body is not a JSON object.")
        return found

    def _chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()

    def _sized(self, limit: int) -> Iterator[bytes]:
        try:
            left = int(self.headers.get("Content-Length", "0"))
        except ValueError as error:
            raise Refused(400, "Content-Length is no number.") from error
        if left > limit:
            self.unread = True
            raise Refused(413, f"{left} bytes are more than the {limit} allowed.")
        while left > 0:
            block = self._handler.rfile.read(min(BLOCK, left))
            if not block:
                raise ConnectionError("the body broke off")
            left -= len(block)
            yield block

    def _chunks(self) -> Iterator[bytes]:
        while True:
            line = self._handler.rfile.readline(64).split(b";")[0].strip()
            try:
                size = int(line, 16)
            except ValueError as error:
                raise ConnectionError("the body broke off") from error
            if size == 0:
                while self._handler.rfile.readline(1024).strip():
                    pass
                return
            yield self._handler.rfile.read(size)
            self._handler.rfile.read(2)


def send(handler: BaseHTTPRequestHandler, answer: Answer, half: bool = False) -> None:
    """Send an answer; of half of one, the headers and the first half of its body."""
    length = answer.length if answer.length is not None else len(answer.body)
    handler.send_response(answer.status)
    for name, value in {**answer.headers, "Content-Length": str(length)}.items():
        handler.send_header(name, value)
    handler.end_headers()
    if handler.command == "HEAD":
        return
    left = length // 2 if half else length
    if answer.file is None:
        handler.wfile.write(answer.body[:left])
        return
    while left > 0 and (block := answer.file.read(min(BLOCK, left))):
        handler.wfile.write(block)
        left -= len(block)
