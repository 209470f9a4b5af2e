"""What every request passes before it is looked at: its id, who asks, how large it is; and one line of log after."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from specialists.errors import RouterError

from .assets import assets
from .errors import Forbidden, TooLarge, answer_bug, answer_error
from .keys import ANYONE, Keys, Tenant

MAX_BODY = 1 << 20  # bytes
OPEN = {"/healthz", "/readyz", *assets()}  # without a key
_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SECURE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
}

log = logging.getLogger("router.requests")


class Gate:
    """ASGI middleware, so that streams pass through untouched.

    hosts: names under which the server is reached, None for any. A server without keys is open to every page that a
    browser on this machine shows; it answers only to its own names (against DNS rebinding) and only its own pages.
    """

    def __init__(self, app: ASGIApp, keys: Keys, hosts: frozenset[str] | None) -> None:
        self.app, self.keys, self.hosts = app, keys, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        state: dict[str, Any] = scope.setdefault("state", {})
        state["id"] = given if _ID.fullmatch(given) else uuid4().hex
        state["tenant"], state["log"] = ANYONE, {}
        begun, status = time.perf_counter(), 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                found = MutableHeaders(scope=message)
                found["X-Request-ID"] = state["id"]
                for name, value in _SECURE.items():
                    found.setdefault(name, value)
            await send(message)

        try:
            try:
                self._check(scope, headers, state)
            except RouterError as error:
                return await answer_error(error)(scope, receive, sending)
            await self.app(scope, _limited(receive), sending)
        except Exception as error:  # a client gets no traceback; the log has it
            log.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if not status:
                await answer_bug()(scope, receive, sending)
        finally:
            _write(scope, state, status, time.perf_counter() - begun)

    def _check(self, scope: Scope, headers: Headers, state: dict[str, Any]) -> None:
        host = _name(headers.get("host", ""))
        if self.hosts is not None and host not in self.hosts:
            raise Forbidden(f"This server does not answer to the name {host[:100]!r}.")
        origin = headers.get("origin")
        if origin is not None and _name(origin.partition("//")[2]) != host:
            raise Forbidden("This server answers no pages but its own.")
        if (length := headers.get("content-length", "0")).isdigit() and int(length) > MAX_BODY:
            raise TooLarge(f"The request has more than {MAX_BODY:,} bytes; shorten it.")
        if scope["path"] not in OPEN:
            kind, _, key = headers.get("authorization", "").partition(" ")
            state["tenant"] = self.keys.tenant(key.strip() if kind.lower() == "bearer" else None)


def tenant_of(scope: Scope) -> Tenant:
    """Who asks."""
    tenant: Tenant = scope["state"]["tenant"]
    return tenant


def _name(host: str) -> str:
    """A host without its port, as it is in a header."""
    return re.sub(r":\d+$", "", host).strip("[]").lower()


def _limited(receive: Receive) -> Receive:
    """Reading a body that says nothing of its length ends where it is too long."""
    seen = 0

    async def receiving() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_BODY:
            raise TooLarge(f"The request has more than {MAX_BODY:,} bytes; shorten it.")
        return message

    return receiving


def _write(scope: Scope, state: dict[str, Any], status: int, seconds: float) -> None:
    log.info(
        json.dumps(
            {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "id": state["id"],
                "tenant": state["tenant"].name,
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status or 499,  # the client was gone before there was an answer
                "ms": round(1000 * seconds, 1),
                **state["log"],
            }
        )
    )
