"""What it costs to have hundreds of adapters and memory for twenty.

Random adapters of one rank on every linear layer of the base; answers of equal length, with no token that ends them.

    switch     the next step is another resident adapter's, alone or for one of 16 rows: what that takes beside a step
    from disk  an adapter that is not in memory is asked for while 8 rows of others are answered: until it is there,
               and the longest step of those rows meanwhile beside their median one. Its file is put out of the
               system's cache before, where the system can be told to (from_disk_ms), and is left there (from_cache_ms)
    crowd      clients who ask a random adapter of 200 (memory for 20) one request after another, beside the same with
               20 (all stay in memory): seconds of each request, the greatest over the median

    python benchmarks/residency.py --json reports/residency.json
"""

from __future__ import annotations

import json
import os
import random
import resource
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
from engine_parts import adapter_folders, endless, guesses, open_engine

from registry.report import environment
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from router.engine.base import Base
    from router.engine.batch import Row
    from router.engine.engine import Engine
    from router.engine.loop import Loop
    from router.engine.request import Request

ASKED = {  # at most
    "switch_over_step": 1.0,
    "switch_of_16_over_step": 1.0,
    "from_disk_ms": 50.0,
    "crowd_max_over_median": 3.0,
}
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere

Figures = dict[str, float]


def many_folders(base: Base, folder: Path, count: int, rank: int) -> list[Path]:
    """So many adapters: one of random weights, and others of which every B is that one's by a factor of their own."""
    import shutil

    from safetensors.torch import load_file, save_file

    (one,) = adapter_folders(base, folder, 1, rank)
    tensors = load_file(one / "adapter_model.safetensors")
    found = [one]
    for index in range(1, count):
        path = folder / f"adapter-{index}"
        path.mkdir()
        shutil.copy(one / "adapter_config.json", path)
        scaled = {k: t * (1 + index / 64) if "lora_B" in k else t for k, t in tensors.items()}
        save_file(scaled, path / "adapter_model.safetensors")
        found.append(path)
    return found


def asker(engine: Engine) -> Callable[[str | None, int], Request]:
    """Makes requests of an adapter and a length, no question twice."""
    from router.engine.request import Request
    from specialists.domain import load

    domain, index = load("dates"), iter(range(10**9))

    def ask(adapter: str | None, tokens: int) -> Request:
        question = domain.task("train", next(index)).question
        return Request([{"role": "user", "content": question}], adapter, tokens)

    return ask


def talking(engine: Engine, requests: Sequence[Request]) -> Loop:
    """A loop in which all of these are being answered."""
    loop = engine.loop(64, 4096)
    rows = [engine.row(request) for request in requests]
    for row in rows:
        loop.waiting.add(row)
    while not all(len(row.written) > 2 for row in rows):
        loop.turn()
    return loop


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def end(loop: Loop) -> None:
    """End whatever is under way."""
    from router.engine.loop import Cancelled

    loop.abandon(Cancelled("measured"))


def switching(engine: Engine, rows: int, repeats: int) -> Figures:
    """Milliseconds of a step of so many rows, each of its own adapter, and of giving one row another one."""
    ask = asker(engine)
    loop = talking(engine, [ask(str(index), 1000) for index in range(rows)])
    keys: list[str | None] = [engine.adapters[str(index)] for index in range(rows + 2)]
    steps, switches = [], []
    with guesses(0):
        for turn in range(repeats):
            loop.turn()
            steps.append(timed(loop.turn))
            changed = keys[:rows]
            changed[turn % rows] = keys[rows + turn % 2]
            switches.append(timed(lambda changed=changed: loop._mix(changed)))  # type: ignore[misc]
    end(loop)
    return {"step_ms": 1000 * median(steps), "switch_ms": 1000 * median(switches)}


def put_out(folder: Path) -> None:
    """Have the system forget what it holds of an adapter's file, where it can be told to."""
    handle = os.open(folder / "adapter_model.safetensors", os.O_RDONLY)
    try:
        os.fsync(handle)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def fetching(engine: Engine, folders: Sequence[Path], resident: int, repeats: int, cold: bool) -> Figures:
    """One adapter after another that is not in memory, asked for beside 8 rows: milliseconds, and of their steps."""
    ask = asker(engine)
    loop = talking(engine, [ask(str(index), 2000) for index in range(8)])
    quiet = [timed(loop.turn) for _ in range(2 * repeats)]
    reading, beside = [], []
    arrived: list[float] = []
    engine.residency.on_change = lambda: arrived.append(time.perf_counter())
    known = {key: index for index, key in enumerate(engine.adapters.values())}
    for index in range(resident, resident + repeats):
        if cold:
            put_out(folders[index])
        arrived.clear()
        row: Row = engine.row(ask(str(index), 1))
        assert known[str(row.adapter)] == index and row.adapter not in engine.residency.resident
        loop.waiting.add(row)
        begun = time.perf_counter()
        while not arrived:
            seconds = timed(loop.turn)
            if not row.started:  # else this turn computed its prompt too
                beside.append(seconds)
        reading.append(arrived[0] - begun)
        while not row.done:
            loop.turn()
    engine.residency.on_change = lambda: None
    end(loop)
    return {
        "ms": 1000 * median(reading),
        "longest_ms": 1000 * max(reading),
        "step_ms": 1000 * median(quiet),
        "longest_step_ms": 1000 * max(quiet),
        "longest_step_meanwhile_ms": 1000 * max(beside),
    }


def crowd(engine: Engine, distinct: int, clients: int, each: int, tokens: int) -> Figures:
    """Seconds of requests for random adapters of `distinct`, asked by clients one after another."""
    from router.engine.scheduler import Scheduler

    ask = asker(engine)
    seconds: list[float] = []
    loads = engine.residency.loads

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(each):
            request = ask(str(rng.randrange(distinct)), tokens)
            begun = time.perf_counter()
            scheduler.submit(request).result()
            seconds.append(time.perf_counter() - begun)

    with Scheduler(engine) as scheduler:
        threads = [threading.Thread(target=client, args=(seed,)) for seed in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if len(seconds) != clients * each:
        raise RuntimeError("a client failed")
    return {
        "median_seconds": median(seconds),
        "longest_seconds": max(seconds),
        "read_from_disk": float(engine.residency.loads - loads),
        "requests": float(len(seconds)),
    }


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """The object of the report."""
    import torch

    from router.engine.base import find_base

    torch.set_num_threads(settings["threads"])
    count, room, quick = settings["adapters"], settings["room"], settings["quick"]
    repeats, each = (4, 4) if quick else (30, 50)
    found = find_base()
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        folder = Path(name)
        click.echo(f"writing {count} adapters", err=True)
        folders = many_folders(found, folder, count, settings["rank"])
        engine = open_engine(endless(found, folder / "endless"), settings["precision"])
        engine.add("0", folders[0])
        size = engine.residency.bytes
        engine.residency.budget = room * size
        click.echo(f"adding them, of {size / 2**20:.1f} MiB each", err=True)
        adding = [timed(lambda i=i: engine.add(str(i), folders[i])) for i in range(1, count)]  # type: ignore[misc]
        figures: dict[str, Figures] = {"add": {"ms": 1000 * median(adding)}}

        def part(name: str, made: Figures) -> Figures:
            figures[name] = {key: round(value, 3) for key, value in made.items()}
            click.echo(f"{name}: {figures[name]}", err=True)
            return made

        alone = part("switch", switching(engine, 1, repeats))
        of_16 = part("switch_of_16", switching(engine, 16, repeats))
        disk = part("from_disk", fetching(engine, folders, room, repeats, True))
        cached = part("from_cache", fetching(engine, folders, room + repeats, repeats, False))
        ask = asker(engine)
        engine.generate([ask(str(index), 1) for index in range(room)])  # so that these are in memory
        within = part("within", crowd(engine, room, 4, each, settings["tokens"]))
        beyond = part("crowd", crowd(engine, count, 4, each, settings["tokens"]))
        held = engine.residency.bytes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 2**20
    return {
        "switch_over_step": round(alone["switch_ms"] / alone["step_ms"], 4),
        "switch_of_16_over_step": round(of_16["switch_ms"] / of_16["step_ms"], 4),
        "from_disk_ms": round(disk["ms"], 2),
        "from_cache_ms": round(cached["ms"], 2),
        "longest_step_meanwhile_over_median": round(disk["longest_step_meanwhile_ms"] / disk["step_ms"], 3),
        "longest_step_before_over_median": round(disk["longest_step_ms"] / disk["step_ms"], 3),
        "crowd_max_over_median": round(beyond["longest_seconds"] / beyond["median_seconds"], 3),
        "within_max_over_median": round(within["longest_seconds"] / within["median_seconds"], 3),
        "crowd_over_within": round(beyond["median_seconds"] / within["median_seconds"], 3),
        "peak_mib": round(peak),
        "adapters_mib": round(held / 2**20, 1),
        "asked_at_most": ASKED,
        "figures": figures,
        "settings": settings | {"precision": engine.precision},
        "command": shlex.join(["python", "benchmarks/residency.py", *sys.argv[1:]]),
        "environment": environment(),
    }


@click.command(help=__doc__)
@click.option("--adapters", type=click.IntRange(2), default=200, show_default=True)
@click.option("--room", type=click.IntRange(18), default=20, show_default=True, help="So many fit in memory.")
@click.option("--rank", type=click.IntRange(1), default=8, show_default=True, help="Of every adapter.")
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=24,
    show_default=True,
    help="Written for each client's request.",
)
@click.option(
    "--precision",
    type=click.Choice(["bf16", "int8", "int4"]),
    default="bf16",
    show_default=True,
    help="Of our base.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=lambda: environment()["cores"], help="All, unless given."
)
@click.option("--quick", is_flag=True, help="40 adapters, few repeats: does it work?")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(quick: bool, adapters: int, out: Path | None, **settings: Any) -> None:
    """Measure, print and write."""
    if not quick and adapters < settings["room"] + 60:
        raise click.UsageError("There must be 60 adapters more than fit in memory.")
    made = measure({"adapters": 40 if quick else adapters, "quick": quick, **settings})
    if out:
        write_atomic(out, (json.dumps(made, indent=1) + "\n").encode())
    for key, value in made.items():
        if isinstance(value, int | float):
            most = (
                f"  (asked at most {ASKED[key]:g}: {'yes' if value <= ASKED[key] else 'no'})"
                if key in ASKED
                else ""
            )
            click.echo(f"{key:36} {value:9.3f}{most}")


if __name__ == "__main__":
    main()
