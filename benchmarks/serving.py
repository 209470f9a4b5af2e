"""What `router serve` adds to the engine, and how it holds under load.

The server of this process with the real base, encoder and bundled specialists, over loopback.

    overhead     a question to `auto` over HTTP beside the same specialist's request given to the scheduler directly,
                 8 tokens, each twice in the orders ABBA and BAAB: milliseconds of difference, routing included; and
                 outside_engine_ms, what of the former the engine does not count as its own
    load         questions of the specialists' own test splits from a Poisson process at 80 % of what 32 clients, one
                 question after another, get answered a second: seconds to the first token, waiting included, of all
                 and of each specialist's (a first token takes as long as its prompt, and theirs differ in length)
    idle         the same questions to a server that has nothing else to do, one after another, 8 tokens: seconds to the
                 first token, which is what the load's are to be compared with
    connections  so many streams at once: how many end with a whole answer

    python benchmarks/serving.py --json reports/serving/serving.json
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import click

from registry.report import environment
from specialists.domain import items, load
from specialists.paths import write_atomic

if TYPE_CHECKING:
    import httpx2

    from router.serving.desk import Desk

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as `router serve` does, before NumPy is loaded
ASKED = {"overhead_ms": 15.0, "first_token_p99_over_median": 2.0}  # at most
NAMES = ("scheduling", "dates", "cron")
CLIENTS = 32


def questions(seed: int) -> list[tuple[str, str]]:
    """Test questions of all specialists, each with whose it is, in an order of their own."""
    found = [(name, task.question) for name in NAMES for task in items(load(name), "test", 200)]
    random.Random(seed).shuffle(found)
    return found


@asynccontextmanager
async def running(precision: str) -> AsyncIterator[tuple[httpx2.AsyncClient, Desk]]:
    """A server on loopback, in a thread with an event loop of its own, and a client of it."""
    import httpx2
    from uvicorn import Config, Server

    from router.serving.app import Options, make_app
    from router.serving.desk import Desk
    from router.serving.keys import Keys
    from router.serving.local import Local

    desk = Desk(Local(precision=precision, queue=1024))
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # asyncio sends at once on these only
    listening.bind(("127.0.0.1", 0))
    server = Server(Config(make_app(desk, Keys(), Options(deadline=600)), log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        await asyncio.sleep(0.1)
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        yield client, desk
    server.should_exit = True
    await asyncio.to_thread(thread.join)


async def ask(client: httpx2.AsyncClient, question: str, **more: Any) -> tuple[float, float, int]:
    """A question as a stream: seconds to the first text, seconds to its end, tokens. Raises when it has no end."""
    body = {"model": "auto", "messages": [{"role": "user", "content": question}], "stream": True, **more}
    begun, first, last = time.perf_counter(), 0.0, {}
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line[6:])
                if not first and chunk["choices"][0]["delta"].get("content"):
                    first = time.perf_counter() - begun
                last = chunk
    return first, time.perf_counter() - begun, last["router"]["tokens"]


async def overhead(client: httpx2.AsyncClient, desk: Desk, pairs: int) -> dict[str, Any]:
    """Milliseconds that a request takes beyond the engine's own, over HTTP and routed. 8 tokens each."""
    from router.prompting import ask_specialist
    from router.serving.local import Local

    assert isinstance(desk.backend, Local) and desk.backend.scheduler is not None
    scheduler = desk.backend.scheduler

    address = client.base_url
    line = http.client.HTTPConnection(address.host, address.port)  # a client that itself takes little

    async def over_http(question: str, _: str) -> float | None:
        """Seconds that the engine says it took."""
        body = {"model": "auto", "messages": [{"role": "user", "content": question}], "max_tokens": 8}
        return await asyncio.to_thread(send, json.dumps(body))

    def send(body: str) -> float:
        line.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        return float(json.loads(line.getresponse().read())["router"]["seconds"])

    async def direct(question: str, name: str) -> float | None:
        request = ask_specialist(desk.versions[name], question, 8)
        await asyncio.to_thread(scheduler.submit(request).result)
        return None

    beyond: dict[str, list[float]] = {name: [] for name in NAMES}
    alone, outside = [], []
    for index, (_, question) in enumerate(questions(1)[:pairs]):
        if (name := await desk_decides(client, question)) not in NAMES:
            continue
        for _ in range(2):
            await direct(question, name)  # what is computed once of a prompt is computed now
        seconds = {direct: 0.0, over_http: 0.0}
        turns = [direct, over_http, over_http, direct]
        for way in turns if index % 2 else reversed(turns):
            begun = time.perf_counter()
            inside = await way(question, name)
            seconds[way] += (time.perf_counter() - begun) / 2
            if inside is not None:
                outside.append(1000 * (time.perf_counter() - begun - inside))
        beyond[name].append(1000 * (seconds[over_http] - seconds[direct]))
        alone.append(1000 * seconds[direct])
    every = [value for found in beyond.values() for value in found]
    return {
        "overhead_ms": round(median(every), 2),
        "overhead_ms_interval": interval(every),
        "overhead_questions": len(every),
        "overhead_ms_of": {name: round(median(found), 2) for name, found in beyond.items() if found},
        "outside_engine_ms": round(median(outside), 2),
        "engine_alone_ms": round(median(alone), 1),
    }


async def desk_decides(client: httpx2.AsyncClient, question: str) -> str | None:
    """Who would answer."""
    found = (await client.post("/route", json={"question": question})).json()
    name: str | None = found["specialist"]
    return name


def interval(values: list[float], level: float = 0.95) -> list[float]:
    """Bootstrap interval of a median (1000 samples, percentiles)."""
    rng = random.Random(0)
    found = sorted(median(rng.choices(values, k=len(values))) for _ in range(1000))
    tail = round(1000 * (1 - level) / 2)
    return [round(found[tail], 2), round(found[-tail - 1], 2)]


async def capacity(client: httpx2.AsyncClient, count: int) -> float:
    """Questions answered a second when so many clients ask so many of them one after another."""
    stream, begun = iter(questions(2)[:count]), time.perf_counter()

    async def one() -> None:
        for _, question in stream:
            await ask(client, question)

    await asyncio.gather(*(one() for _ in range(CLIENTS)))
    return count / (time.perf_counter() - begun)


async def under_load(client: httpx2.AsyncClient, rate: float, seconds: float) -> dict[str, Any]:
    """Seconds to the first token of questions that come at random times, so many a second."""
    rng, stream = random.Random(3), iter(questions(3) * 50)
    names: list[str] = []
    tasks: list[asyncio.Task[tuple[float, float, int]]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        await asyncio.sleep(rng.expovariate(rate))
        name, question = next(stream)
        names.append(name)
        tasks.append(asyncio.create_task(ask(client, question)))
    found = await asyncio.gather(*tasks, return_exceptions=True)
    good = [one for one in found if not isinstance(one, BaseException)]
    first, whole = [one[0] for one in good], [one[1] for one in good]
    cuts = quantiles(first, n=100)
    of: dict[str, list[float]] = {name: [] for name in NAMES}
    for name, one in zip(names, found, strict=True):
        if not isinstance(one, BaseException):
            of[name].append(one[0])
    return {
        "load_rate": round(rate, 3),
        "load_seconds": seconds,
        "load_asked": len(found),
        "load_failed": len(found) - len(good),
        "first_token_median_s": round(median(first), 3),
        "first_token_p99_s": round(cuts[98], 3),
        "first_token_p99_over_median": round(cuts[98] / median(first), 3),
        "first_token_of": {
            name: {
                "n": len(some),
                "median_s": round(median(some), 3),
                "p99_s": round(quantiles(some, n=100)[98], 3),
            }
            for name, some in of.items()
            if len(some) > 1
        },
        "whole_median_s": round(median(whole), 3),
        "load_tokens_per_second": round(sum(one[2] for one in good) / seconds, 1),
    }


async def idle(client: httpx2.AsyncClient, count: int) -> dict[str, Any]:
    """Seconds to the first token of questions that come one after another."""
    first = [(await ask(client, question, max_tokens=8))[0] for _, question in questions(3)[:count]]
    p99 = quantiles(first, n=100)[98]
    return {
        "idle_asked": count,
        "idle_first_token_median_s": round(median(first), 3),
        "idle_first_token_p99_s": round(p99, 3),
        "idle_first_token_p99_over_median": round(p99 / median(first), 3),
    }


async def connected(client: httpx2.AsyncClient, count: int) -> dict[str, Any]:
    """So many streams at once, 16 tokens each."""
    asked = [question for _, question in questions(4) * 10][:count]
    begun = time.perf_counter()
    found = await asyncio.gather(*(ask(client, one, max_tokens=16) for one in asked), return_exceptions=True)
    return {
        "connections": count,
        "connections_failed": sum(isinstance(one, BaseException) for one in found),
        "connections_seconds": round(time.perf_counter() - begun, 1),
    }


async def measure(precision: str, pairs: int, minutes: float, connections: int) -> dict[str, Any]:
    """All figures, one after another."""
    async with running(precision) as (client, desk):
        for _, one in questions(0)[:4]:
            await ask(client, one, max_tokens=8)
        found = await overhead(client, desk, pairs)
        click.echo(f"overhead {found}", err=True)
        found |= await connected(client, connections)
        found |= await idle(client, 2 * pairs)
        most = await capacity(client, 3 * CLIENTS)
        click.echo(f"{most:.2f} questions a second at most; {minutes:g} minutes at 80 % of it", err=True)
        found |= {"capacity": round(most, 3)}
        return found | await under_load(client, 0.8 * most, 60 * minutes)


@click.command(help=__doc__)
@click.option("--precision", type=click.Choice(["auto", "bf16", "int8"]), default="auto", show_default=True)
@click.option(
    "--pairs", type=click.IntRange(8), default=60, show_default=True, help="Questions of the overhead."
)
@click.option("--minutes", type=click.FloatRange(0.05), default=10.0, show_default=True, help="Of load.")
@click.option("--connections", type=click.IntRange(1), default=500, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(out: Path | None, **settings: Any) -> None:
    """Measure, print and write."""
    found = asyncio.run(measure(**settings))
    command = " ".join(f"--{name} {value}" for name, value in settings.items())
    made = {**found, "command": f"python benchmarks/serving.py {command}", "environment": environment()}
    if out:
        write_atomic(out, (json.dumps(made, indent=1) + "\n").encode())
    for key, value in found.items():
        asked = (
            f"  (asked at most {ASKED[key]:g}: {'yes' if value <= ASKED[key] else 'no'})"
            if key in ASKED
            else ""
        )
        click.echo(f"{key:30} {value}{asked}")


if __name__ == "__main__":
    main()
