"""`router serve`."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import socket
import sys
from contextlib import suppress
from math import ceil
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from specialists.errors import BadInput, Unavailable

from ..commands import BASE_OPTION, CLAUDE_MODEL_OPTION, PRECISION_OPTION
from ..settings import setting

if TYPE_CHECKING:
    from fastapi import FastAPI

    from .announce import Announcement
    from .away import Away
    from .backend import Backend
    from .desk import Desk

COUNT = click.IntRange(1)
BACKLOG = 2048  # connections that may wait to be accepted


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Beyond this machine only with --keys.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one."
)
@click.option(
    "--keys", type=click.Path(path_type=Path), help="Who may ask what and how often; see docs/serving.md."
)
@click.option(
    "--fallback",
    type=click.Choice(["base", "none", "claude"]),
    default="base",
    show_default=True,
    help="Where no specialist fits: the base without adapter answers, or nobody, or Claude, who is sent the "
    "question and paid.",
)
@CLAUDE_MODEL_OPTION
@click.option(
    "--budget",
    type=click.FloatRange(0),
    metavar="DOLLARS",
    help="The most Claude may cost a day (UTC), on this port.  [default: 0.05]",
)
@click.option("--engine", type=click.Choice(["local", "vllm"]), default="local", show_default=True)
@click.option(
    "--engine-url", "urls", multiple=True, metavar="URL", help="A vLLM server; may be given several times."
)
@click.option(
    "--engine-adapters", "adapters", type=COUNT, default=8, show_default=True,
    help="Loaded on a vLLM server at once; at most its --max-cpu-loras.",
)  # fmt: skip
@click.option(
    "--engine-path", "paths", multiple=True, metavar="HERE=THERE",
    help="A folder of adapters here, and the same folder as the vLLM servers see it.",
)  # fmt: skip
@BASE_OPTION
@PRECISION_OPTION
@click.option(
    "--queue",
    type=COUNT,
    default=256,
    show_default=True,
    help="Requests that may wait: here, on every vLLM server, for Claude.",
)
@click.option("--rows", type=COUNT, default=64, show_default=True, help="Requests answered at once, here.")
@click.option(
    "--deadline", type=click.FloatRange(0, min_open=True), default=120.0, show_default=True,
    help="The most seconds that an answer may take.",
)  # fmt: skip
@click.option("--log-questions", is_flag=True, help="Write the questions into the log too.")
def serve(
    host: str,
    port: int,
    keys: Path | None,
    fallback: str,
    claude_model: str | None,
    budget: float | None,
    deadline: float,
    log_questions: bool,
    **options: Any,
) -> int:
    """Serve all specialists to a team.

    An OpenAI-compatible interface whose model `auto` is all of them, and a page where one sees who answers and why.
    A line of JSON for each request goes to stderr. Ctrl-C or SIGTERM answers what is under way, and ends.
    """
    # Before NumPy is loaded: OpenBLAS's second thread spins for 25 ms after each product of the encoder, on a core that
    # the base decodes on, and where it does not spin waking it takes longer than it saves.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if not _is_loopback(host) and keys is None:
        raise BadInput(
            f"On {host} others could ask too, so that needs --keys FILE; without it only 127.0.0.1 is served."
        )
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            f"Serving needs {error.name}; run: pip install 'specialist-router[serve]'."
        ) from error
    from .announce import Announcement
    from .app import Options, make_app
    from .desk import Desk
    from .keys import Keys

    known = Keys(keys)
    away = _away(fallback, claude_model, budget, port, options["queue"])
    backend = _backend(**options)
    listening = _listen(host, port)
    url = _url(listening)
    desk = Desk(backend, fallback=fallback, away=away)
    _log_to_stderr()
    hosts = frozenset({"127.0.0.1", "localhost", "::1", host}) if keys is None else None

    allow_connections()
    app = make_app(desk, known, Options(deadline, log_questions, hosts))
    asyncio.run(_serve(app, desk, listening, Announcement(url, keys is not None), deadline))
    return 0


async def _serve(
    app: FastAPI, desk: Desk, listening: socket.socket, announcement: Announcement, deadline: float
) -> None:
    """Open, say so, and serve until told to end. Raises RouterError when it cannot be opened."""
    from uvicorn import Config, Server

    from ..ledger import money

    class Draining(Server):
        """Says that it is stopping as soon as it is told to; told twice, it waits for nobody."""

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            desk.stop()
            if self.should_exit:
                self.force_exit = True
                logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what is cut off is no error
            self.should_exit = True

    click.echo("router: opening the base and the specialists ...", err=True)
    await desk.open()
    config = Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=ceil(deadline) + 5,
    )
    server = Draining(config)
    if desk.away:
        most = money(desk.away.budget)
        click.echo(f"router: what fits nobody goes to {desk.away.model}, for at most {most} a day.", err=True)
    with announcement:
        on_duty = ", ".join(sorted(desk.versions)) or "no specialist"
        click.echo(f"router: {on_duty} and the base at {announcement.url}; Ctrl-C ends it.", err=True)
        await server.serve(sockets=[listening])
    if server.force_exit:
        raise KeyboardInterrupt


def allow_connections() -> None:
    """Let this process have as many open connections as the system allows it to; half of them often is the default."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS says more than it allows
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _away(fallback: str, model: str | None, budget: float | None, port: int, queue: int) -> Away | None:
    from ..decision import CLAUDE
    from ..fallback import open_claude

    if fallback != CLAUDE:
        open_claude(fallback, model, budget)  # which says that they are of no use, if they are given
        return None
    from .away import Away

    return Away(model, budget, str(port), queue)


def _backend(
    engine: str,
    urls: tuple[str, ...],
    adapters: int,
    paths: tuple[str, ...],
    base: str | None,
    precision: str | None,
    queue: int,
    rows: int,
) -> Backend:
    if engine == "local":
        if urls or paths:
            raise BadInput(
                "--engine-url and --engine-path are of use with --engine vllm only; add that or drop them."
            )
        from .local import Local

        return Local(base, precision, queue, rows)
    if not urls:
        raise BadInput("--engine vllm needs --engine-url URL, once for every vLLM server.")
    if base or precision:
        raise BadInput(
            "With --engine vllm its servers choose base and precision; drop --base and --precision."
        )
    from ..cluster.vllm import Vllm

    return Vllm(urls, setting("engine_key"), adapters, queue, dict(map(_pair, paths)))


def _pair(path: str) -> tuple[str, str]:
    here, equals, there = path.partition("=")
    if not (here and equals and there):
        raise BadInput(f"--engine-path {path} is not HERE=THERE, such as /home/me/registry=/registry.")
    return here, there


def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises Unavailable when it cannot."""
    try:
        info = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, proto, _, address = info[0]
        listening = socket.socket(family, kind, proto)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise Unavailable(
            f"Could not listen on {host}:{port} ({error.strerror}); choose another with --port, or 0 for any."
        ) from error
    return listening


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _log_to_stderr() -> None:
    """One line a request, and what went wrong; everything else below stays silent."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    for name, level in (("router", logging.INFO), ("uvicorn", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.addHandler(handler)
        logger.setLevel(level)
        logger.propagate = False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
