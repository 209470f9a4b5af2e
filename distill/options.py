"""Options that several commands of `router distill` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from router.commands import PRECISION_OPTION

if TYPE_CHECKING:
    from .config import TrainConfig

F = TypeVar("F", bound=Callable[..., Any])


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several click options as one decorator, in the order given."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


# What every training takes; the names are those of TrainConfig.
HYPERPARAMETERS = _options(
    click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Passes over the examples."),
    click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate."),
    click.option("--rank", type=click.IntRange(1, 256), help="Rank of the adapter."),
    click.option("--alpha", type=click.FloatRange(0, min_open=True), help="Scale of the adapter, over its rank."),
    click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="Share of the inputs hidden in a step."),
    click.option(
        "--known",
        type=click.FloatRange(0, 1),
        help="Read an example without learning from it when each of its tokens has this probability.",
    ),
    PRECISION_OPTION,
    click.option("--targets", help="Layers to adapt, such as q_proj,v_proj; all linear layers unless given."),
    click.option("--batch-size", type=click.IntRange(1), help="Examples a step."),
    click.option(
        "--max-tokens", type=click.IntRange(1), help="An example longer than this is an error: nothing is cut."
    ),
    click.option("--check-every", type=click.IntRange(1), help="Steps between two checks on dev items."),
    click.option(
        "--patience", type=click.IntRange(1), help="Stop after so many checks without a better one; never unless given."
    ),
    click.option("--seed", type=int, help="The same seed and data give the same adapter."),
)  # fmt: skip
BASE = click.option("--base", metavar="SPEC", help="Base weights: a folder, or a Hub id with @REVISION.")
AMONG = click.option(
    "--among",
    type=click.IntRange(1),
    help="Choose the examples out of so many that together show the most steps, short and long.",
)
RETELL = click.option(
    "--retell",
    type=click.IntRange(1),
    default=1,
    help="Tell every example so many ways, in other words, order and hours; an epoch passes over all of them.",
)
TEACHER = _options(
    click.option(
        "--teacher",
        default="solver",
        show_default=True,
        metavar="WHO",
        help="solver, local[:BASE], claude[:MODEL], or http://HOST/v1#MODEL.",
    ),
    click.option(
        "--budget",
        type=click.FloatRange(0),
        default=1.0,
        show_default=True,
        help="Dollars that may be spent at most.",
    ),
    click.option("--batches", is_flag=True, help="Ask Claude by message batches: half the price, no hurry."),
)


def config_of(given: Mapping[str, Any]) -> TrainConfig:
    """The hyperparameters given on the command line, over the usual ones."""
    from .config import TrainConfig

    chosen = {name: value for name, value in given.items() if value is not None}
    if "targets" in chosen:
        chosen["targets"] = tuple(one.strip() for one in chosen["targets"].split(",") if one.strip())
    return TrainConfig(**chosen)


def say(line: str) -> None:
    """A line for the person at the terminal."""
    click.echo(f"router: {line}", err=True)


def notice(teacher: str) -> None:
    """What is to be known before this teacher is asked."""
    if teacher.partition(":")[0] == "claude":
        from router.claude import TERMS

        say(TERMS)
