"""`router distill`: make a new specialist."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specialists.errors import BadInput
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from registry.card import Card
    from router.engine.base import Base
    from specialists.domain import Domain


@click.group(name="distill")
def cli() -> None:
    """Make a new specialist."""


@cli.command()
@click.argument("domain")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder for the adapter.")
@click.option(
    "--examples", "n", type=click.IntRange(1), default=100, show_default=True, help="Training examples."
)
@click.option(
    "--skip",
    type=click.IntRange(0),
    default=0,
    help="Leave out the first so many examples, such as those --start was trained on.",
)
@click.option(
    "--among",
    type=click.IntRange(1),
    help="Choose the --examples out of so many that together show the most steps, short and long.",
)
@click.option(
    "--test",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Test items for the report; 0: none.",
)
@click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the examples.")
@click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate.")
@click.option("--rank", type=click.IntRange(1, 256), help="Rank of the adapter.")
@click.option("--alpha", type=click.FloatRange(0, min_open=True), help="Scale of the adapter, over its rank.")
@click.option("--targets", help="Layers to adapt, such as q_proj,v_proj; all linear layers unless given.")
@click.option("--batch-size", type=click.IntRange(1), help="Examples a step.")
@click.option(
    "--max-tokens", type=click.IntRange(1), help="An example longer than this is an error: nothing is cut."
)
@click.option(
    "--start", type=click.Path(path_type=Path), help="An adapter folder of the same shape to go on from."
)
@click.option("--seed", type=int, help="The same seed and data give the same adapter.")
@click.option("--base", metavar="SPEC", help="Base weights: a folder, or a Hub id with @REVISION.")
def train(
    domain: str,
    out: Path,
    n: int,
    skip: int,
    among: int | None,
    test: int,
    targets: str | None,
    base: str | None,
    start: Path | None,
    **given: Any,
) -> None:
    """Train an adapter for DOMAIN (or DOMAIN:VARIANT) on examples from its own solver.

    OUT becomes a standard PEFT adapter folder with a card, which `router register OUT` adds. Stop with Ctrl-C
    and run the same command again to go on. Settings not given are those of distill.train.TrainConfig.
    """
    from router.engine.base import find_base
    from specialists.domain import load

    from .examples import covering, examples
    from .train import TrainConfig, train

    chosen = {name: value for name, value in given.items() if value is not None}
    if targets is not None:
        chosen["targets"] = tuple(target.strip() for target in targets.split(",") if target.strip())
    found = load(domain)
    data = examples(found, max(among or n, n), skip=skip)
    if among:
        data = covering(data, n)
    weights = find_base(base)
    facts = train(data, weights, out, TrainConfig(**chosen), start)
    card = card_of(found, weights, out, facts)
    _write(out, card)
    if test:
        from router.evaluate import human, open_tools, run

        result = run([domain], test, adapter=out, progress=sys.stderr.isatty(), tools=open_tools(base))
        click.echo(human(result), err=True, nl=False)
        (report,) = result["domains"].values()
        _write(out, replace(card, report=report))
    click.echo(str(out))
    click.echo(
        f"router: trained {card.ref}; add it with `router register {shlex.quote(str(out))}`.", err=True
    )


def card_of(domain: Domain, base: Base, folder: Path, facts: dict[str, Any]) -> Card:
    """The card of a newly trained adapter: the patch version after the newest registered, or 1.0.0."""
    from registry.adapter import WEIGHTS
    from registry.card import Card, version_key
    from registry.store import Store
    from registry.version import sha256

    name, version = domain.name.partition(":")[0], "1.0.0"  # a variant is still that domain's specialist
    with suppress(BadInput):  # there is none of that name yet
        newest = max(version_key(known.card.version) for known in Store().versions(name))
        version = "{}.{}.{}".format(*newest[:2], newest[2] + 1)
    return Card(
        name=name,
        version=version,
        description=f"{domain.name}: trained on {facts['examples']} examples of its own solver",
        base=base.id,
        base_weights=base.weights,
        adapter=sha256(folder / WEIGHTS),
        prompt=domain.prompt,
        parser=domain.parser,
        exemplars=tuple(domain.exemplars()),
        max_new_tokens=domain.max_new_tokens,
        lineage={name: value for name, value in facts.items() if name != "loss"},
    )


def _write(folder: Path, card: Card) -> None:
    from registry.version import CARD

    write_atomic(folder / CARD, card.to_json().encode())
