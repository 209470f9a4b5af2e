"""Errors over HTTP: OpenAI's form, one clear sentence, and never a traceback."""

from __future__ import annotations

import math
from typing import Any

from starlette.responses import JSONResponse

from specialists.errors import BadInput, Refused, RouterError, Unavailable

from ..engine.loop import Late
from ..engine.scheduler import Busy
from .desk import NotAllowed, NotFound
from .keys import TooMany, Unauthorized

BUSY_SECONDS = 1  # after which a full queue is worth another try


class TooLarge(RouterError):
    """A body of more bytes than any request needs."""


class Forbidden(RouterError):
    """Not with this key, or not from this page."""


_KINDS: tuple[tuple[type[RouterError], int, str], ...] = (
    (Unauthorized, 401, "authentication_error"),
    (Forbidden, 403, "permission_error"),
    (NotAllowed, 403, "permission_error"),
    (NotFound, 404, "invalid_request_error"),
    (TooLarge, 413, "invalid_request_error"),
    (TooMany, 429, "rate_limit_error"),
    (Busy, 429, "rate_limit_error"),
    (Late, 504, "timeout_error"),
    (Unavailable, 503, "server_error"),
    (BadInput, 400, "invalid_request_error"),
    (Refused, 403, "permission_error"),
)


def status_of(error: RouterError) -> int:
    """The HTTP status of an error."""
    return _kind(error)[0]


def body_of(error: RouterError) -> dict[str, Any]:
    """OpenAI's error object."""
    status, kind = _kind(error)
    return body(str(error), kind, type(error).__name__.lower() if status != 500 else "server_error")


def body(message: str, kind: str, code: str) -> dict[str, Any]:
    """OpenAI's error object of a message."""
    return {"error": {"message": message, "type": kind, "code": code, "param": None}}


def answer_error(error: RouterError) -> JSONResponse:
    """An error as an answer; 401 says how to authenticate, 429 and 503 when to ask again."""
    headers: dict[str, str] = {}
    status = status_of(error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, TooMany):
        headers["Retry-After"] = str(max(1, math.ceil(error.seconds)))
    elif status in (429, 503):
        headers["Retry-After"] = str(BUSY_SECONDS)
    return JSONResponse(body_of(error), status, headers)


def answer_bug() -> JSONResponse:
    """The answer to what nobody foresaw."""
    message = "The server could not do this; its log says why."
    return JSONResponse(body(message, "server_error", "bug"), 500)


def _kind(error: RouterError) -> tuple[int, str]:
    for kind, status, name in _KINDS:
        if isinstance(error, kind):
            return status, name
    return 500, "server_error"
