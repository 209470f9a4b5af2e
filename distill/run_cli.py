"""`router distill run`: the whole story from a teacher to a report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from specialists.errors import BadInput

from .options import AMONG, BASE, HYPERPARAMETERS, RETELL, TEACHER, config_of, notice, say


@click.command()
@click.argument("domain")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder of the run.")
@click.option("--examples", type=click.IntRange(1), default=100, show_default=True, help="Training examples.")
@AMONG
@RETELL
@click.option(
    "--problems",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Problems the strategy is learnt on.",
)
@click.option(
    "--dev", type=click.IntRange(1), default=30, show_default=True, help="Problems that judge a strategy."
)
@click.option(
    "--checks",
    type=click.IntRange(0),
    default=32,
    show_default=True,
    help="Dev items that training is checked on.",
)
@click.option("-n", type=click.IntRange(1), default=300, show_default=True, help="Test items of every arm.")
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Specialists trained, one a seed."
)
@click.option(
    "--ablation",
    "ablations",
    multiple=True,
    metavar="ARM",
    help="answers-only, no-strategy, strategy-prompt, nonsense-prompt; may be given again.",
)
@click.option(
    "--size",
    "sizes",
    multiple=True,
    metavar="RANK[:LAYERS]",
    help="One more adapter, of that rank and on those layers, such as 4 or 8:q_proj,v_proj; may be given again.",
)
@click.option("--json", "as_json", is_flag=True, help="The whole result as one JSON object.")
@click.option("--curve", metavar="N,N", help="Other numbers of examples to train on, such as 25,50,200.")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Trainings side by side."
)
@click.option("--dry-run", is_flag=True, help="Show what it would ask and cost at most, and stop.")
@TEACHER
@HYPERPARAMETERS
@BASE
def run(
    domain: str,
    out: Path,
    curve: str | None,
    workers: int,
    dry_run: bool,
    budget: float,
    batches: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Make a specialist from a teacher, with a report.

    Baselines, strategy, examples, training, all arms on the same items, and a report in OUT.
    Stop with Ctrl-C and run the same command again to go on: nothing is asked, paid or trained twice.
    """
    from .pipeline import Pipeline
    from .plan import Plan

    names = ("examples", "among", "retell", "problems", "dev", "checks", "n", "seeds", "teacher", "base")
    plan = Plan(
        domain,
        **{name: given.pop(name) for name in names},
        ablations=tuple(dict.fromkeys(given.pop("ablations"))),
        sizes=tuple(dict.fromkeys(given.pop("sizes"))),
        curve=_numbers(curve),
        batch=batches,
        config=config_of(given),
    )
    command = shlex.join(["router", *sys.argv[1:]])
    pipeline = Pipeline(plan, out, budget, workers, say, command, sys.stderr.isatty())
    if dry_run:
        _show_estimate(pipeline.estimate(), budget)
        return
    notice(plan.teacher)
    result = pipeline.run()
    click.echo(json.dumps(result.to_dict()) if as_json else str(out / "report.html"))
    for job in pipeline.jobs():
        if job.name.startswith("specialist"):
            folder = shlex.quote(str(pipeline.adapter(job)))
            say(f"add {job.name} with `router register {folder}`")


def _numbers(text: str | None) -> tuple[int, ...]:
    try:
        found = tuple(int(word) for word in (text or "").split(",") if word.strip())
        if any(number < 1 for number in found):
            raise ValueError
    except ValueError:
        raise BadInput(f"{text!r} is no list of numbers; write --curve 25,50,200.") from None
    return found


def _show_estimate(rows: Sequence[tuple[str, int, float]], budget: float) -> None:
    from router.ledger import money

    for name, calls, dollars in rows:
        click.echo(f"{name:28} {calls:6} calls  at most {money(dollars):>10}")
    total = sum(dollars for _, _, dollars in rows)
    click.echo(f"{'together':28} {sum(calls for _, calls, _ in rows):6} calls  at most {money(total):>10}")
    if total > budget:
        click.echo(
            f"router: that may exceed the budget of {money(budget)}; it stops before the call that would.",
            err=True,
        )
