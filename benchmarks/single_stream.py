"""One question at a time with its specialist: our engine in 8 bits and in bf16 beside llama.cpp with 4-bit weights.

Questions of the bundled specialists' own tests, each with its adapter and prompt as `router ask` gives them, greedy,
answers that end by themselves. In each round every arm answers the same questions; no question comes twice.

    int8, bf16             our engine as it is: rows alone are decoded by guesses, from worked solutions of the domain
                           and from the question and the answer so far; what earlier questions left is forgotten
    ..._without_guesses    the same, one token a step
    llamacpp               llama.cpp's server, base in Q4_K_M, the adapter as GGUF in float16 (--llamacpp)
    memory                 the most bytes a second that are read from memory here

tokens_per_second is of decoding: from the first token on, the one that ends an answer included. share_of_bandwidth_...
is the bytes of weights that the engine reads for its tokens, without guesses, over `memory`; share_of_bandwidth is
that of the default precision.

    python benchmarks/single_stream.py --json reports/single_stream.json --llamacpp PYTHON
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from engine_parts import (
    Arm,
    Figures,
    Ratios,
    adapter_gguf,
    base_gguf,
    guesses,
    open_engine,
    read_bandwidth,
    report,
    show,
    take_turns,
    weight_bytes,
)
from peers import Peer

from registry.report import environment

if TYPE_CHECKING:
    from router.engine.engine import Engine
    from router.engine.request import Request

ASKED = {"ours_int8_over_llamacpp": 1.0}
DOMAINS = ("scheduling", "dates", "cron")


@dataclass(frozen=True)
class Question:
    """What is asked of the engine, the same as token ids, and which of DOMAINS it is of."""

    request: Request
    prompt: list[int]
    domain: int


def material(engine: Engine, rounds: int, each: int, most: int | None) -> list[list[Question]]:
    """The questions of every round, the warm-up included: so many of each domain."""
    from registry.store import Store
    from router.engine.request import Request
    from router.prompting import hints
    from specialists.domain import items, load
    from specialists.prompts import messages

    store = Store()
    found: list[list[Question]] = [[] for _ in range(rounds + 1)]
    for index, name in enumerate(DOMAINS):
        version = store.resolve(name)
        for place, task in enumerate(items(load(name), "test", (rounds + 1) * each)):
            turns = messages(version.prompt_text(), task.question)
            length = min(version.card.max_new_tokens, most or version.card.max_new_tokens)
            request = Request(turns, name, length, hints(name))
            found[place // each].append(Question(request, engine.chat.prompt_ids(turns), index))
    return found


def ours(
    engine: Engine, questions: list[list[Question]], guessed: int, bytes_a_token: int, turn: int
) -> Figures:
    """Our engine's answers to a round's questions, one by one."""
    steps, tokens, seconds = 0, 0, 0.0
    with guesses(guessed):
        for question in questions[turn]:
            engine._guesses.forget(engine.adapters[str(question.request.adapter)])
            (said,) = engine.generate([question.request])
            tokens += said.tokens
            steps += said.tokens - said.truncated  # the first came with the prompt; one more ended it
            seconds += said.seconds - said.first_token_seconds
    speed = steps / seconds
    return {"tokens_per_second": speed, "tokens": tokens, "bytes_per_second": speed * bytes_a_token}


def theirs(peer: Peer, questions: list[list[Question]], turn: int) -> Figures:
    """llama.cpp's answers to the same."""
    steps, seconds = 0, 0.0
    for question in questions[turn]:
        made = peer.ask(
            {
                "prompts": [question.prompt],
                "adapters": [question.domain],
                "tokens": question.request.max_new_tokens,
                "ignore_stop": False,
            }
        )
        steps += made["tokens"][0] - 1
        seconds += made["decode_seconds"]
    return {"tokens_per_second": steps / seconds, "tokens": steps}


def measure(settings: dict[str, Any], llamacpp: str | None) -> dict[str, Any]:
    """The object of the report."""
    import torch

    from registry.store import Store
    from router.engine.base import find_base
    from router.engine.lookup import GUESSED
    from router.engine.precision import can_multiply

    threads = settings["threads"]
    torch.set_num_threads(threads)
    found = find_base()
    default = "int8" if can_multiply() else "bf16"
    folders = [Store().resolve(name).path for name in DOMAINS]
    arms: dict[str, Arm] = {"memory": lambda turn: {"bytes_per_second": read_bandwidth()}}
    versions: dict[str, str | None] = {"llamacpp": None}
    questions: list[list[Question]] = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for precision in dict.fromkeys([default, "bf16"]):
            engine = open_engine(found, precision)
            for domain, folder in zip(DOMAINS, folders, strict=True):
                engine.add(domain, folder)
            questions = questions or material(
                engine, settings["rounds"], settings["each"], 24 if settings["quick"] else None
            )
            for arm, guessed in [(precision, GUESSED), (f"{precision}_without_guesses", 0)]:
                arms[arm] = partial(ours, engine, questions, guessed, weight_bytes(engine))
        if llamacpp is None:
            click.echo("llamacpp: absent, no --llamacpp was given", err=True)
        else:
            click.echo("loading llamacpp", err=True)
            setup = {
                "gguf": str(base_gguf(found, Path(name) / "base.gguf")),
                "adapters": [
                    str(adapter_gguf(folder, Path(name) / f"{domain}.gguf"))
                    for domain, folder in zip(DOMAINS, folders, strict=True)
                ],
                "batch": 1,
                "context": 2048,
                "threads": threads,
            }
            peer = stack.enter_context(Peer(llamacpp, "llamacpp", setup, Path(name) / "llamacpp.log"))
            versions["llamacpp"] = peer.version
            arms["llamacpp"] = partial(theirs, peer, questions)
        ratios = Ratios(take_turns(arms, settings["rounds"]))
    for precision in ("int8", "bf16"):
        for arm in (precision, f"{precision}_without_guesses"):
            ratios.add(f"ours_{arm}_over_llamacpp", arm, "llamacpp", "tokens_per_second")
        ratios.add(f"guesses_{precision}", precision, f"{precision}_without_guesses", "tokens_per_second")
        without = f"{precision}_without_guesses"
        ratios.add(f"share_of_bandwidth_{precision}", without, "memory", "bytes_per_second")
    ratios.add("share_of_bandwidth", f"{default}_without_guesses", "memory", "bytes_per_second")
    return report("single_stream.py", settings, ratios, peers=versions, asked=ASKED)


@click.command(help=__doc__)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--each", type=click.IntRange(1), default=2, show_default=True, help="Questions of each domain."
)
@click.option(
    "--threads", type=click.IntRange(1), default=lambda: environment()["cores"], help="All, unless given."
)
@click.option("--llamacpp", metavar="PYTHON", help="The interpreter of an environment with xllamacpp.")
@click.option(
    "--quick", is_flag=True, help="One question of each domain, 24 tokens, one round: does it work?"
)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(rounds: int, each: int, threads: int, llamacpp: str | None, quick: bool, out: Path | None) -> None:
    """Measure, print and write."""
    settings = {
        "rounds": 1 if quick else rounds,
        "each": 1 if quick else each,
        "threads": threads,
        "quick": quick,
    }
    made = measure(settings, llamacpp)
    show(made, ASKED, out)


if __name__ == "__main__":
    main()
