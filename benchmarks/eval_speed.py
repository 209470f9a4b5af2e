"""Items a second of an evaluation, beside lm-evaluation-harness's transformers backend.

The first items of a domain's own test with its bundled specialist: the same prompts as token ids (this is checked),
greedy, the same most tokens and the same end of a turn. Both may put them in what order and batches they like.

    ours      one call of the engine in its default precision, the longest first, as `router eval` makes it
    bf16      the same in bf16, when the default is another
    lmeval    HFLM(peft=...).generate_until in bf16, in batches of --batch-size (--lmeval)

A round is of items of its own; the warm-up is of two. right is the share of items answered rightly: both did the work.

    python benchmarks/eval_speed.py --json reports/eval_speed.json --lmeval PYTHON
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from engine_parts import Arm, Figures, Ratios, open_engine, report, show, take_turns
from peers import Peer

from registry.report import environment

if TYPE_CHECKING:
    from registry.store import Version
    from router.engine.engine import Engine
    from specialists.domain import Domain, Task

ASKED = {"ours_over_lmeval": 2.0}
WARM = 2  # items of the warm-up


@dataclass(frozen=True)
class Test:
    """A domain's items round by round, the warm-up first, and who answers them."""

    domain: Domain
    version: Version
    rounds: list[list[Task]]
    tokens: int

    def turns(self, task: Task) -> list[dict[str, str]]:
        """What is asked, as chat messages."""
        from specialists.prompts import messages

        return messages(self.version.prompt_text(), task.question)

    def figures(self, tasks: list[Task], texts: list[str], tokens: int, seconds: float) -> Figures:
        """Of one run, in which so many tokens were written."""
        from specialists.domain import Verdict
        from specialists.parsers import PARSERS

        answers = [PARSERS[self.version.card.parser](text) for text in texts]
        right = [
            answer is not None and self.domain.verify(task, answer) is Verdict.RIGHT
            for task, answer in zip(tasks, answers, strict=True)
        ]
        return {
            "items_per_second": len(tasks) / seconds,
            "tokens_per_second": tokens / seconds,
            "tokens_an_item": tokens / len(tasks),
            "right": sum(right) / len(right),
        }


def open_test(name: str, n: int, rounds: int, most: int | None) -> Test:
    """The test of a bundled specialist. most: tokens of an answer, if fewer than its card says."""
    from registry.store import Store
    from specialists.domain import items, load

    domain, version = load(name), Store().resolve(name)
    tasks = list(items(domain, "test", WARM + n * rounds))
    split = [tasks[WARM + n * turn :][:n] for turn in range(rounds)]
    length = min(version.card.max_new_tokens, most or version.card.max_new_tokens)
    return Test(domain, version, [tasks[:WARM], *split], length)


def ours(engine: Engine, test: Test, turn: int) -> Figures:
    """A round by our engine."""
    from router.engine.request import Request

    tasks = sorted(test.rounds[turn], key=lambda task: -len(test.domain.worked(task)))
    requests = [Request(test.turns(task), test.version.ref, test.tokens) for task in tasks]
    begun = time.perf_counter()
    made = engine.generate(requests)
    seconds = time.perf_counter() - begun
    return test.figures(tasks, [one.text for one in made], sum(one.tokens for one in made), seconds)


def theirs(peer: Peer, engine: Engine, tokenizer: Any, batch: int, test: Test, turn: int) -> Figures:
    """A round by the harness. Raises RuntimeError when it read other prompts."""
    tasks = test.rounds[turn]
    prompts = [
        tokenizer.apply_chat_template(test.turns(task), tokenize=False, add_generation_prompt=True)
        for task in tasks
    ]
    made = peer.ask({"prompts": prompts, "tokens": test.tokens, "batch_size": batch})
    if made["prompts"] != [engine.chat.prompt_ids(test.turns(task)) for task in tasks]:
        raise RuntimeError("the harness was asked other tokens than the engine")
    tokens = sum(len(engine.chat.encode(text)) for text in made["texts"])
    return test.figures(tasks, made["texts"], tokens, made["seconds"])


def measure(settings: dict[str, Any], lmeval: str | None) -> dict[str, Any]:
    """The object of the report."""
    import torch

    from router.engine.base import find_base, load_tokenizer

    torch.set_num_threads(settings["threads"])
    found = find_base()
    test = open_test(settings["domain"], settings["n"], settings["rounds"], 24 if settings["quick"] else None)
    engines = {"ours": open_engine(found, "auto")}
    default = engines["ours"].precision
    if default != "bf16":
        engines["bf16"] = open_engine(found, "bf16")
    for engine in engines.values():
        engine.add(test.version.ref, test.version.path)
    arms: dict[str, Arm] = {name: partial(ours, engine, test) for name, engine in engines.items()}
    versions: dict[str, str | None] = {"lmeval": None}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        if lmeval is None:
            click.echo("lmeval: absent, no --lmeval was given", err=True)
        else:
            click.echo("loading lmeval", err=True)
            tokenizer: Any = load_tokenizer(found)
            setup = {
                "base": str(found.path),
                "adapter": str(test.version.path),
                "stop": tokenizer.eos_token,
                "threads": settings["threads"],
            }
            peer = stack.enter_context(Peer(lmeval, "lmeval", setup, Path(name) / "lmeval.log"))
            versions["lmeval"] = peer.version
            arms["lmeval"] = partial(theirs, peer, engines["ours"], tokenizer, settings["batch_size"], test)
        ratios = Ratios(take_turns(arms, settings["rounds"]))
    ratios.add("ours_over_lmeval", "ours", "lmeval", "items_per_second")
    ratios.add("ours_over_lmeval_tokens", "ours", "lmeval", "tokens_per_second")
    ratios.add("ours_bf16_over_lmeval", "ours" if default == "bf16" else "bf16", "lmeval", "items_per_second")
    settings = settings | {"precision": default, "specialist": test.version.ref, "tokens": test.tokens}
    return report("eval_speed.py", settings, ratios, peers=versions, asked=ASKED)


@click.command(help=__doc__)
@click.option("--domain", default="scheduling", show_default=True)
@click.option("-n", type=click.IntRange(1), default=48, show_default=True, help="Items of a round.")
@click.option("--rounds", type=click.IntRange(1), default=2, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True, help="Of the harness.")
@click.option(
    "--threads", type=click.IntRange(1), default=lambda: environment()["cores"], help="All, unless given."
)
@click.option("--lmeval", metavar="PYTHON", help="The interpreter of an environment with lm-eval.")
@click.option("--quick", is_flag=True, help="8 items, 24 tokens, one round: does it work?")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(n: int, rounds: int, quick: bool, lmeval: str | None, out: Path | None, **settings: Any) -> None:
    """Measure, print and write."""
    small = {"n": 8, "rounds": 1} if quick else {"n": n, "rounds": rounds}
    made = measure({**settings, **small, "quick": quick}, lmeval)
    show(made, ASKED, out)


if __name__ == "__main__":
    main()
