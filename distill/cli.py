"""`router distill`: make a new specialist."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specialists.errors import BadInput
from specialists.paths import write_atomic

from .options import AMONG, BASE, HYPERPARAMETERS, RETELL, TEACHER, config_of, notice, say
from .run_cli import run
from .studies.cli import seeds_command

if TYPE_CHECKING:
    from specialists.domain import Domain

    from .teacher import Teacher


@click.group(name="distill")
def cli() -> None:
    """Make a new specialist."""


@cli.group()
def study() -> None:
    """Do an earlier experiment again."""


study.add_command(seeds_command)
cli.add_command(run)


@cli.command()
@click.argument("domain")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder for the adapter.")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Train on a file that `distill examples` wrote."
)
@click.option(
    "--examples", "n", type=click.IntRange(1), default=100, show_default=True, help="Training examples."
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=0,
    help="Leave out the first so many examples, such as those --start was trained on.",
)
@AMONG
@RETELL
@click.option(
    "--checks",
    type=click.IntRange(0),
    default=0,
    help="Check training on so many dev items, keep the best, undo a collapse.",
)
@click.option(
    "--test",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Test items for the report; 0: none.",
)
@click.option(
    "--start", type=click.Path(path_type=Path), help="An adapter folder of the same shape to go on from."
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, help="Train so many, each in a folder OUT/seed-N."
)
@HYPERPARAMETERS
@BASE
def train(
    domain: str,
    out: Path,
    data: Path | None,
    n: int,
    skip: int,
    among: int | None,
    retell: int,
    checks: int,
    test: int,
    base: str | None,
    start: Path | None,
    seeds: int,
    **given: Any,
) -> None:
    """Train an adapter for DOMAIN.

    On examples from its own solver, or on --data; DOMAIN:VARIANT names a variant.
    OUT becomes a standard PEFT adapter folder with a card, which `router register OUT` adds. Stop with Ctrl-C
    and run the same command again to go on. Settings not given are those of distill.config.TrainConfig.
    """
    from router.engine.base import find_base
    from router.engine.engine import Engine
    from specialists.domain import items, load
    from specialists.prompts import PROMPTS

    from .arms import checker
    from .cards import card_of, write_card
    from .choose import covering
    from .examples import examples, read_jsonl, retold
    from .frozen import chosen
    from .train import train

    found = load(domain)
    config = config_of(given)
    rows = read_jsonl(data) if data else examples(found, max(among or n, n), skip=skip)
    if among and not data:
        rows = covering(rows, n)
    if retell > 1 and data:
        raise BadInput(
            "--retell tells problems of the domain again, and those of --data have a text of their own."
        )
    weights = find_base(base)
    check = None
    if checks:
        dev = items(found, "dev", checks)
        opened = lambda: Engine(weights, precision=chosen(config.precision))  # noqa: E731
        check = checker(opened, found, dev, PROMPTS[found.prompt], found.max_new_tokens)
    for seed in range(seeds):
        folder = out / f"seed-{seed}" if seeds > 1 else out
        told = retold(found, rows, retell, config.seed + seed) if retell > 1 else rows
        facts = train(told, weights, folder, replace(config, seed=config.seed + seed), start, check)
        card = card_of(found, weights, folder, facts)
        write_card(folder, card)
        if test:
            from router.evaluate import human, open_tools, run

            result = run([domain], test, adapter=folder, progress=sys.stderr.isatty(), tools=open_tools(base))
            click.echo(human(result), err=True, nl=False)
            (report,) = result["domains"].values()
            write_card(folder, replace(card, report=report))
        click.echo(str(folder))
        click.echo(
            f"router: trained {card.ref}; add it with `router register {shlex.quote(str(folder))}`.", err=True
        )


@cli.command()
@click.argument("domain")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder for its versions.")
@click.option("--problems", type=click.IntRange(1), default=100, show_default=True, help="Training problems.")
@click.option("--dev", type=click.IntRange(1), default=30, show_default=True, help="Problems that judge it.")
@TEACHER
def strategy(
    domain: str, out: Path, problems: int, dev: int, teacher: str, budget: float, batches: bool
) -> None:
    """Have a teacher learn a strategy for DOMAIN.

    It solves, keeps a journal and rewrites its strategy; kept is what helps on dev items.
    OUT/strategy.md is the best one, OUT/vNN.md every version. Run the same command again to go on.
    """
    from specialists.domain import items, load

    from .strategy import learn

    found = load(domain)
    who = _teacher(teacher, found, out, budget, batches)
    learnt = learn(who, found, items(found, "train", problems), items(found, "dev", dev), out, say)
    best = learnt.best
    click.echo(best.text)
    click.echo(
        f"router: v{best.version} of {len(learnt.versions)} solves {best.score} of {dev} dev items, "
        f"without a strategy {learnt.versions[0].score}; {out / 'strategy.md'}",
        err=True,
    )


@cli.command()
@click.argument("domain")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file, JSON lines.")
@click.option("--examples", "n", type=click.IntRange(1), default=100, show_default=True, help="How many.")
@AMONG
@click.option(
    "--strategy", "file", type=click.Path(path_type=Path), help="A text that the teacher is to follow."
)
@TEACHER
def examples(
    domain: str,
    out: Path,
    n: int,
    among: int | None,
    file: Path | None,
    teacher: str,
    budget: float,
    batches: bool,
) -> None:
    """Have a teacher write examples for DOMAIN.

    Kept is what the domain's checker passes.
    """
    from collections import Counter

    from specialists.domain import load

    from .examples import candidates, collect, write_jsonl

    found = load(domain)
    who = _teacher(teacher, found, out, budget, batches)
    try:
        text = file.read_text(encoding="utf-8") if file else ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Could not read the strategy {file} ({error}); give a text file.") from error
    dropped: Counter[str] = Counter()
    made = collect(who, found, n, text, candidates(found, n, among, dropped))
    write_atomic(out, write_jsonl(made.kept))
    click.echo(str(out))
    rejected = ", ".join(f"{count} {reason}" for reason, count in {**made.rejected, **dropped}.items())
    click.echo(
        f"router: kept {len(made.kept)} examples of {who.id}; passed over: {rejected or 'none'}.", err=True
    )


def _teacher(spec: str, domain: Domain, out: Path, budget: float, batches: bool) -> Teacher:
    from .teachers import open_teacher

    notice(spec)
    return open_teacher(spec, domain, f"distill {out.resolve()}", budget, batches)
