"""A small Hub for a team without the internet: the Hub's own client and others publish to it and fetch from it."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from specialists.errors import BadInput, Unavailable

from .api import Api
from .git import require_git
from .http import Request, send

__all__ = ["HubServer", "read_tokens"]

ROLES = ("read", "write")


class HubServer:
    """Serves the repositories in `folder`, inside `with` or for good.

    tokens: token -> "read" or "write"; with tokens every request needs one. Without, everyone reads public
    repositories, and writes only if `writable`. url: where it listens; requests: (method, path) of each inside `with`,
    for tests. fault: called with the number, method and path of each request; it may answer "before" (the connection
    ends and nothing was done), "after" (it was done, and no answer comes) or "half" (half of the answer comes).
    Raises Unavailable without git, or where it cannot listen or write.
    """

    def __init__(
        self,
        folder: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Mapping[str, str] | None = None,
        writable: bool = False,
    ) -> None:
        require_git()
        if odd := sorted({role for role in (tokens or {}).values() if role not in ROLES}):
            raise BadInput(f"A token may read or write, and not {', '.join(odd)}.")
        try:
            self.api = Api(folder.absolute(), dict(tokens or {}), writable)
        except OSError as error:
            raise Unavailable(
                f"Could not keep a registry in {folder} ({error.strerror}); name a folder that can be written."
            ) from error
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[int, str, str], str | None] = lambda number, method, path: None
        self._recording = True
        self._counting = Lock()
        try:
            self._server = _Server(host, port, self._handler())
        except (OSError, OverflowError) as error:
            why = error.strerror if isinstance(error, OSError) else "no such port"
            raise Unavailable(f"Could not listen on {host}:{port} ({why}); choose another --port.") from error
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._server.server_port}"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self) -> None:
        """Serve until interrupted."""
        self._recording = False  # nobody would ever empty the list
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def _fault(self, method: str, path: str) -> str | None:
        """Note a request; what is to go wrong with it."""
        if not self._recording:
            return None
        with self._counting:
            number = len(self.requests)
            self.requests.append((method, path))
        return self.fault(number, method, path)

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version, sys_version = "specialist-router", ""
            error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"
            timeout = 60  # seconds that a client may be silent

            def handle_any(self) -> None:
                fault = hub._fault(self.command, self.path)
                if fault:
                    self.close_connection = True
                if fault == "before":
                    return
                request = Request(self)
                answer = hub.api.answer(request)
                try:
                    if request.unread:
                        self.close_connection = True  # the rest of that body is no next request
                    if fault != "after":
                        send(self, answer, half=fault == "half")
                        request.drain()
                finally:
                    if answer.file:
                        answer.file.close()

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), handler)

    def server_bind(self) -> None:
        """Without asking the name service who we are, which takes long where there is none."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to report."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


def read_tokens(path: Path) -> dict[str, str]:
    """Tokens of a file with lines `TOKEN read` or `TOKEN write`. Raises BadInput for anything else."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The tokens {path} cannot be read ({error}).") from error
    found = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        token, _, role = line.strip().partition(" ")
        if role not in ROLES:
            raise BadInput(f"Line {number} of {path} is not `TOKEN read` or `TOKEN write`.")
        found[token] = role
    if not found:
        raise BadInput(f"{path} has no token; write lines such as `TOKEN read`.")
    return found
