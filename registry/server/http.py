"""Requests and answers over the standard library's HTTP server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO
from urllib.parse import parse_qs

BLOCK = 1 << 20
MAX_JSON = 64 << 20  # bytes of a body other than a large file
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,255}")


class Refused(Exception):
    """An answer that is an error: status, message, and the code that the Hub's client understands."""

    def __init__(
        self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code
        self.headers = dict(headers or {})


@dataclass
class Answer:
    """What goes back. `file`, if there is one, is sent from where it stands, `length` bytes of it.

    reason: what the status line says beside the number, by default what that number always means.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    file: BinaryIO | None = None
    length: int = 0
    reason: str | None = None


def as_json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer in JSON."""
    return Answer(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})


class Request:
    """A request: `path` still percent-encoded, `query` (name -> values), headers, and a body to be read once."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.method, self.headers = handler.command, handler.headers
        self.path, _, query = handler.path.partition("?")
        self.query = parse_qs(query)
        self.unread = handler.headers.get("Content-Length", "0") != "0" or self._is_chunked()
        self._file = handler.rfile

    @property
    def token(self) -> str | None:
        """The bearer token, if one came."""
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        return token.strip() if kind.lower() == "bearer" else None

    @property
    def root(self) -> str:
        """The address of this server as the client knows it."""
        host = self.headers.get("Host", "")
        scheme = "https" if self.headers.get("X-Forwarded-Proto") == "https" else "http"  # behind a proxy
        return f"{scheme}://{host if _HOST.fullmatch(host) else 'localhost'}"

    def first(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        return self.query.get(name, [default])[0]

    def flag(self, name: str) -> bool:
        return self.first(name).lower() in ("1", "true")

    def length(self, limit: int) -> int:
        """Bytes of the body, which have to be announced. Raises Refused for more than `limit`."""
        text = self.headers.get("Content-Length", "")
        if self._is_chunked() or not text:
            raise Refused(411, "Say in Content-Length how long the body is.")
        if not (text.isascii() and text.isdecimal() and len(text) < 16):
            raise Refused(400, "Content-Length is no number.")
        if int(text) > limit:
            raise Refused(413, f"{int(text)} bytes are more than the {limit} allowed.")
        return int(text)

    def blocks(self, limit: int) -> Iterator[bytes]:
        """The body in blocks. Raises Refused when it is too long, ConnectionError when it breaks off."""
        left = self.length(limit)
        while left:
            block = self._file.read(min(BLOCK, left))
            left -= self._arrived(block, left)
            yield block
        self.unread = False

    def lines(self, limit: int) -> Iterator[bytes]:
        """The body line by line. Raises as blocks() does."""
        left = self.length(limit)
        while left:
            line = self._file.readline(left)
            left -= self._arrived(line, left)
            yield line
        self.unread = False

    def body(self, limit: int = MAX_JSON) -> bytes:
        return b"".join(self.blocks(limit))

    def json(self, limit: int = MAX_JSON) -> dict[str, Any]:
        """The body as a JSON object. Raises Refused."""
        found = parse_json(self.body(limit))
        if not isinstance(found, dict):
            raise Refused(400, "The body is not a JSON object.")
        return found

    def form(self, body: bytes) -> dict[str, list[str]]:
        """What a form holds, name -> values."""
        try:
            return parse_qs(body.decode(), max_num_fields=10_000)
        except ValueError as error:
            raise Refused(400, "This is no form.") from error

    def drain(self) -> None:
        """Read on to the end of a body that nobody wants, within limits: a client that is cut off while it sends
        never sees its answer."""
        left = MAX_JSON
        while self.unread and left > 0 and (block := self._file.read1(min(BLOCK, left))):
            left -= len(block)

    def _is_chunked(self) -> bool:
        return "Transfer-Encoding" in self.headers

    def _arrived(self, block: bytes, left: int) -> int:
        if not block:
            raise ConnectionError(f"the body broke off {left} bytes before its end")
        return len(block)


def parse_json(text: bytes) -> Any:
    """JSON from a client. Raises Refused."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "This is not JSON.") from error


def send(handler: BaseHTTPRequestHandler, answer: Answer, half: bool = False) -> None:
    """Send an answer; of half of one, the headers and the first half of its body."""
    length = answer.length if answer.file else len(answer.body)
    handler.send_response(answer.status, answer.reason)
    for name, value in {**answer.headers, "Content-Length": str(length)}.items():
        handler.send_header(name, value)
    if handler.close_connection:
        handler.send_header("Connection", "close")
    handler.end_headers()
    if handler.command == "HEAD":
        return
    left = length // 2 if half else length
    if answer.file is None:
        handler.wfile.write(answer.body[:left])
        return
    while left and (block := answer.file.read(min(BLOCK, left))):
        handler.wfile.write(block)
        left -= len(block)
    if left and not half:
        handler.close_connection = True  # the file is shorter than was announced, and the client must see it
