"""Whether the engine, mixing all specialists in one batch, writes what PEFT would have written alone.

Every bundled specialist answers -n questions of its test split, all in one batch of mixed adapters. Then PEFT, on
transformers' model, with one adapter at a time, reads each prompt with its answer and says at every token of it which
one it would have written. An answer is the same when PEFT agrees with every token and with the end: then PEFT's own
greedy text is that text. Where it does not agree, `lead` is by how much its own choice scores above the engine's.

    python benchmarks/same_as_peft.py -n 300 --dtype float32 --json reports/engine/same_as_peft.json
"""

from __future__ import annotations

import json
import random
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

from registry.measures import wilson
from registry.report import environment
from registry.store import Store, Version
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from router.engine.batch import Row
    from router.engine.engine import Engine

POSITIONS = 2048  # of a forward of PEFT, padding included


def answered(engine: Engine, versions: Sequence[Version], n: int) -> dict[str, list[Row]]:
    """The finished rows of every specialist, all of which were answered in one mixed batch."""
    import torch

    from router.engine.engine import MAX_BATCH, PREFILL_TOKENS
    from router.engine.request import Request
    from specialists.domain import items, load
    from specialists.prompts import messages

    asked = []
    for version in versions:
        engine.add(version.card.name, version.path)
        for task in items(load(version.card.name), "test", n):
            said = messages(version.prompt_text(), task.question)
            request = Request(said, version.card.name, version.card.max_new_tokens)
            asked.append((version.card.name, engine.row(request)))
    random.Random(0).shuffle(asked)
    loop = engine.loop(MAX_BATCH, PREFILL_TOKENS, patient=True)
    for _, row in asked:
        loop.waiting.add(row)
    engine.pack()
    with torch.inference_mode(), tqdm(total=len(asked), desc="engine", unit="item") as bar:
        while bar.n < len(asked):
            bar.update(sum(row.done for row in loop.turn()))
    found: dict[str, list[Row]] = {version.card.name: [] for version in versions}
    for name, row in asked:
        if row.error:
            raise row.error
        found[name].append(row)
    return found


def compared(model: Any, rows: Sequence[Row], stop: int) -> dict[str, Any]:
    """How many answers are PEFT's too, and where the others part."""
    import torch

    same, tokens, leads = 0, 0, []
    ordered = sorted(rows, key=lambda row: len(row.prompt) + len(row.written))
    with tqdm(total=len(rows), desc="PEFT", unit="item") as bar:
        while ordered:
            width = len(ordered[-1].prompt) + len(ordered[-1].written)
            group = [ordered.pop() for _ in range(min(len(ordered), max(1, POSITIONS // width)))]
            ids = torch.zeros(len(group), width, dtype=torch.long)
            for place, row in enumerate(group):
                ids[place, : len(row.prompt) + len(row.written)] = torch.tensor(row.prompt + row.written)
            with torch.inference_mode():
                hidden = model.model.model(input_ids=ids, attention_mask=(ids > 0).long()).last_hidden_state
                for place, row in enumerate(group):
                    own = row.written if row.truncated else [*row.written, stop]
                    first = len(row.prompt) - 1
                    scores = model.model.lm_head(hidden[place, first : first + len(own)])
                    best, ours = scores.max(-1), scores.gather(1, torch.tensor(own)[:, None])[:, 0]
                    wrong = (best.indices != torch.tensor(own)).nonzero()
                    same += not len(wrong)
                    tokens += len(own)
                    if len(wrong):  # what follows the first is of another text
                        at = int(wrong[0])
                        leads.append(round(float(best.values[at] - ours[at]), 5))
            bar.update(len(group))
    return {
        "n": len(rows),
        "same": same,
        "interval": wilson(same, len(rows)),
        "tokens": tokens,
        "leads": leads,
    }


@click.command(help=__doc__)
@click.option(
    "-n", "n", type=click.IntRange(1), default=300, show_default=True, help="Questions a specialist."
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--json", "out", type=click.Path(path_type=Path), help="Write the report there.")
def main(n: int, dtype: str, out: Path | None) -> None:
    """Compare, print and write."""
    import torch
    from peft import PeftModel

    from router.engine.base import find_base, load_model
    from router.engine.engine import Engine

    base = find_base()
    engine = Engine(base, dtype)
    versions = [version for version in Store().list() if version.source == "bundled"]
    rows = answered(engine, versions, n)
    results = {}
    for version in versions:
        model: Any = PeftModel.from_pretrained(
            load_model(base, dtype=dtype), version.path, autocast_adapter_dtype=dtype == "float32"
        ).eval()
        model.to(getattr(torch, dtype))
        results[version.ref] = compared(model.base_model, rows[version.card.name], engine.chat.stop)
        click.echo(f"{version.ref}: {json.dumps(results[version.ref])}")
        report = {
            "dtype": dtype,
            "results": results,
            "command": shlex.join(["python", "benchmarks/same_as_peft.py", *sys.argv[1:]]),
            "environment": environment(),
        }
        if out:  # after each, so that hours are not lost with the last
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(out, (json.dumps(report, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
