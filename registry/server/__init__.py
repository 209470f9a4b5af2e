"""A small Hub for a team without the internet: the Hub's own client and others publish to it and fetch from it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from specialists.errors import BadInput, Unavailable

from .api import Api
from .git import require_git
from .http import Request, as_json, send

ROLES = ("read", "write")


class HubServer:
    """Serves the repositories in `folder`, inside `with` or for good.

    tokens: token -> "read" or "write"; with tokens every request needs one. Without, everyone reads public
    repositories, and writes only if `writable`. url: where it listens; requests: (method, path) of each, for tests.
    fault: called with the number, method and path of each request; it may answer "before" (the connection ends and
    nothing was done), "after" (it was done, and no answer comes) or "half" (half of the answer comes).
    Raises Unavailable without git, or where it cannot listen.
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
        folder.mkdir(parents=True, exist_ok=True)
        self.api = Api(folder, dict(tokens or {}), writable)
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[int, str, str], str | None] = lambda number, method, path: None
        self._counting = Lock()
        try:
            self._server = ThreadingHTTPServer((host, port), self._handler())
        except OSError as error:
            raise Unavailable(
                f"Could not listen on {host}:{port} ({error.strerror}); choose another --port."
            ) from error
        self._server.daemon_threads = True
        self.url = f"http://{host}:{self._server.server_port}"

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
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - `self` is the request's below
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60  # seconds that a client may be silent

            def handle_any(self) -> None:
                with hub._counting:
                    number = len(hub.requests)
                    hub.requests.append((self.command, self.path))
                fault = hub.fault(number, self.command, self.path)
                self.close_connection |= fault is not None
                if fault == "before":
                    return
                request = Request(self)
                try:
                    answer = hub.api.answer(request)
                except ConnectionError:
                    self.close_connection = True
                    return
                except Exception as error:  # a client gets no traceback; whoever serves sees what it was
                    print(f"router: {self.command} {self.path}: {error!r}", file=sys.stderr)
                    answer = as_json({"error": "The server could not do this; its log says why."}, 500)
                if request.unread and self.headers.get("Content-Length", "0") != "0":
                    self.close_connection = True  # the body that was not read is no next request
                try:
                    if fault != "after":
                        send(self, answer, half=fault == "half")
                except OSError:
                    self.close_connection = True
                finally:
                    if answer.file:
                        answer.file.close()

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


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
