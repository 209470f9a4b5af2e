"""The HTTP interface of `router serve`: which path does what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from registry.store import Version
from specialists.errors import BadInput, RouterError

from ..decision import AUTO, BASE, CLAUDE
from .assets import assets
from .chat import Chat, decision_json, headers_of
from .desk import Desk, NotFound
from .errors import Forbidden, answer_error, body, status_of
from .gate import Gate, tenant_of
from .keys import Keys, Tenant
from .schema import ChatRequest, RegisterRequest, RouteRequest
from .traffic import Traffic

DEADLINE = 120.0  # seconds


@dataclass(frozen=True)
class Options:
    """How a server answers. hosts: names it answers to, None for any."""

    deadline: float = DEADLINE
    log_questions: bool = False
    hosts: frozenset[str] | None = None


def make_app(desk: Desk, keys: Keys, options: Options = Options()) -> FastAPI:  # noqa: B008 - it is frozen
    """The ASGI application. It opens the desk when it starts and closes it, everything answered, when it stops."""
    traffic = Traffic(desk.load)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await desk.open()
        try:
            yield
        finally:
            await desk.close()

    app = FastAPI(
        title="specialist-router",
        version=version_of("specialist-router"),
        summary="Every question to the specialist that fits it, or to the base.",
        lifespan=lifespan,
        docs_url=None,  # those pages load scripts from elsewhere
        redoc_url=None,
    )
    app.add_middleware(Gate, keys=keys, hosts=options.hosts)
    _add_errors(app, traffic)
    _add_answering(app, desk, keys, traffic, options)
    _add_specialists(app, desk, traffic)
    _add_health(app, desk, traffic)
    _add_page(app)
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # what is invalid gets 400, as at OpenAI
    return app


def _add_answering(app: FastAPI, desk: Desk, keys: Keys, traffic: Traffic, options: Options) -> None:
    chat = Chat(desk, keys, traffic, options.deadline, options.log_questions)

    written: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "The answer; a stream of events when asked for.",
            "content": {"text/event-stream": {}},
        }
    }

    @app.post("/v1/chat/completions", responses=written | _FAULTS)
    async def complete(request: Request, asked: ChatRequest) -> Response:
        """Answer a conversation with the specialist that fits it; see docs/serving.md."""
        return await chat(request, asked)

    @app.get("/v1/models", responses=_FAULTS)
    async def models(request: Request) -> dict[str, Any]:
        """What `model` can be."""
        names = [AUTO, BASE, *_seen(desk, tenant_of(request.scope))]
        return {"object": "list", "data": [_model(desk, name) for name in names]}

    @app.get("/v1/models/{name}", responses=_FAULTS)
    async def model(request: Request, name: str) -> dict[str, Any]:
        """One of them."""
        if name not in (AUTO, BASE) and name not in _seen(desk, tenant_of(request.scope)):
            raise NotFound(f"There is no model {name[:100]!r}.")
        return _model(desk, name)

    @app.post("/route", responses=_FAULTS)
    async def route(request: Request, asked: RouteRequest) -> Response:
        """Name the specialist for a question, without answering it."""
        tenant = tenant_of(request.scope)
        keys.spend(tenant)
        decision = await desk.decide(asked.question, tenant.allowed)
        request.state.log["specialist"] = decision.specialist
        return JSONResponse(decision_json(decision), headers=headers_of(decision))


def _add_specialists(app: FastAPI, desk: Desk, traffic: Traffic) -> None:
    def described(version: Version) -> dict[str, Any]:
        tally = traffic.tallies.get(version.card.name)
        return describe(version, desk.notes.get(version.ref), tally.requests if tally else 0)

    @app.get("/specialists", responses=_FAULTS)
    async def specialists(request: Request) -> list[dict[str, Any]]:
        """What is registered, with its measurements."""
        seen = _seen(desk, tenant_of(request.scope))
        return [described(desk.versions[name]) for name in seen]

    @app.post("/specialists", status_code=201, responses=_FAULTS)
    async def register(request: Request, asked: RegisterRequest) -> dict[str, Any]:
        """Register a specialist; needs an admin's key."""
        _require_admin(request)
        from registry.pull import add

        plain = {"name": asked.name} if asked.name else {}
        version = await asyncio.to_thread(add, desk.store, Path(asked.path), **plain)
        await desk.refresh()
        return described(version)

    @app.delete("/specialists/{ref}", responses=_FAULTS)
    async def unregister(request: Request, ref: str) -> dict[str, Any]:
        """Unregister a name or NAME@VERSION; needs an admin's key. What it is answering is finished."""
        _require_admin(request)
        try:
            await asyncio.to_thread(desk.store.unregister, ref)
        except BadInput as error:
            raise NotFound(str(error)) from error
        await desk.refresh()
        return {"unregistered": ref}


def _add_health(app: FastAPI, desk: Desk, traffic: Traffic) -> None:
    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "It cannot answer now; the body says why."}})
    async def readyz() -> Response:
        """It can answer now."""
        fault = desk.fault()
        return JSONResponse({"status": fault or "ok"}, 503 if fault else 200)

    @app.get("/metrics", responses=_FAULTS, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(traffic.metrics(), media_type="text/plain; version=0.0.4")

    @app.get("/stats", responses=_FAULTS)
    async def stats(request: Request) -> dict[str, Any]:
        """For the page: traffic since the start; fallback: who answers this key's questions that fit nobody."""
        fallback = desk.fallback_for(tenant_of(request.scope).allowed)
        if desk.away and fallback == CLAUDE:
            fallback = desk.away.model
        return traffic.stats() | {"base": desk.backend.base, "fallback": fallback, "problems": desk.problems}


def _add_page(app: FastAPI) -> None:
    for path, (content, kind) in assets().items():
        app.router.routes.append(Route(path, _file(content, kind)))


def _file(content: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    async def page(_: Request) -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return page


def _add_errors(app: FastAPI, traffic: Traffic) -> None:
    @app.exception_handler(RouterError)
    async def ours(_: Request, error: RouterError) -> Response:
        traffic.failed(status_of(error))
        return answer_error(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        traffic.failed(400)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        return JSONResponse(body(f"{where}: {first['msg']}.", "invalid_request_error", "invalid"), 400)

    @app.exception_handler(HTTPException)
    async def plain(_: Request, error: HTTPException) -> Response:
        traffic.failed(error.status_code)
        found = body(
            f"{error.detail}.", "invalid_request_error", "not_found" if error.status_code == 404 else "http"
        )
        return JSONResponse(found, error.status_code, headers=error.headers)


def describe(version: Version, note: str | None, served: int) -> dict[str, Any]:
    """A specialist for the page and for programs. Accuracies are shares of n questions."""
    card = version.card
    report = card.report or {}
    arms = report.get("arms", {})
    own, base = arms.get("specialist", {}), arms.get("base", {})
    found = {
        "base": base.get("accuracy"),
        "majority": report.get("majority"),
        "heuristic": report.get("heuristic"),
    }
    baselines = [{"name": name, "accuracy": value} for name, value in found.items() if value is not None]
    return {
        "name": card.name,
        "version": card.version,
        "channel": version.channel,
        "base": card.base,
        "description": card.description,
        "accuracy": own.get("accuracy"),
        "interval": own.get("interval"),
        "n": report.get("n"),
        "baselines": baselines,
        "exemplars": list(card.exemplars),
        "served": served,
        "note": note,
    }


def _seen(desk: Desk, tenant: Tenant) -> list[str]:
    return [name for name in sorted(desk.versions) if tenant.allowed is None or name in tenant.allowed]


def _model(desk: Desk, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "specialist-router"}


def _require_admin(request: Request) -> None:
    if not tenant_of(request.scope).admin:
        raise Forbidden(
            "This needs the key of an admin; start the server with --keys and one that has `admin: true`."
        )


_FAULTS: dict[int | str, dict[str, Any]] = {
    status: {"description": what}
    for status, what in (
        (400, "The request is wrong; the message says how."),
        (401, "A key is needed, or not known."),
        (403, "Not with this key."),
        (404, "No such thing."),
        (413, "The request is too large."),
        (429, "Too many requests; Retry-After says when to ask again."),
        (503, "It cannot answer now."),
        (504, "The deadline passed."),
    )
}
