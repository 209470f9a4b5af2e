"""Commands that look after the registered specialists; the `router` command lists them beside its own."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .version import Version

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
PATH = click.Path(path_type=Path)
SETTINGS = (
    "examples",
    "epochs",
    "batch_size",
    "lr",
    "rank",
    "seed",
    "seconds",
)  # of a training run, as shown

Facts = list[tuple[str, object]]  # lines of `router show`


def accuracy(version: Version) -> float | None:
    """The share of test questions that the specialist got right in its own report, if it has one."""
    arms = (version.card.report or {}).get("arms", {})
    return arms.get("specialist", {}).get("accuracy")


def summary(version: Version) -> dict[str, Any]:
    """One object of `router list --json`."""
    card = version.card
    return {
        "name": card.name,
        "version": card.version,
        "channel": version.channel,
        "base": card.base,
        "accuracy": accuracy(version),
        "exemplars": len(card.exemplars),
    }


@click.command("list")
@_json
def list_(as_json: bool) -> None:
    """List the registered specialists."""
    from .store import Store

    store = Store()
    versions = store.list()
    for problem in store.problems:
        click.echo(f"router: {problem}", err=True)
    if as_json:
        click.echo(json.dumps([summary(version) for version in versions]))
        return
    if not versions:
        click.echo("router: no specialists are registered; add one with `router register PATH`.", err=True)
    refs = max((len(version.ref) for version in versions), default=0)
    for version in versions:
        share = accuracy(version)
        right = "     -" if share is None else f"{share:6.1%}"
        click.echo(f"{version.ref:{refs}}  {right}  {version.source:7}  {version.card.description}")


@click.command()
@click.argument("ref", metavar="NAME[@VERSION]")
@_json
def show(ref: str, as_json: bool) -> None:
    """Show everything a specialist's card says."""
    from .store import Store

    version = Store().resolve(ref)
    card = version.card
    if as_json:
        click.echo(json.dumps({**asdict(card), "source": version.source, "path": str(version.path)}))
        return
    facts: Facts = [
        ("specialist", version.ref),
        ("", card.description),
        ("source", f"{version.source}, {version.path}"),
        ("base", f"{card.base} (weights {card.base_weights[:16]})"),
        ("adapter", f"sha256 {card.adapter}"),
        ("parser", f"{card.parser}, at most {card.max_new_tokens} tokens"),
        ("prompt", version.prompt_text()),
        *_measured(card.report or {}),
        *_made(card.lineage),
    ]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        click.echo(f"{name:{width}}  {value}")
    click.echo(f"\n{len(card.exemplars)} exemplars, questions it is routed by:")
    for exemplar in card.exemplars:
        click.echo(f"  {exemplar}")


def _measured(report: dict[str, Any]) -> Facts:
    """What a card's report says: a line an arm, the specialist's by kind of question, and how to measure it again."""
    found: Facts = []
    arms = report.get("arms", {})
    for name, arm in arms.items():
        low, high = arm["interval"]
        found.append(
            (f"measured {name}", f"{arm['accuracy']:.1%} ({low:.1%} to {high:.1%}), n = {report.get('n')}")
        )
    kinds = arms.get("specialist", {}).get("kinds", {})
    if len(kinds) > 1:
        found.append(
            ("right by kind", _listed({name: f"{one['right']} of {one['n']}" for name, one in kinds.items()}))
        )
    if report.get("command"):
        found.append(("measured by", report["command"]))
    return found


def _made(lineage: dict[str, Any]) -> Facts:
    """How a specialist was made: a line for each training run, the last first, then whatever else the card says."""
    found: Facts = []
    run: Any = lineage
    while isinstance(run, dict) and isinstance(run.get("identity"), dict):
        said = {
            "examples": run.get("examples"),
            **run["identity"].get("config", {}),
            "seconds": run.get("seconds"),
        }
        shown = [f"{name.replace('_', ' ')} {said[name]}" for name in SETTINGS if said.get(name) is not None]
        found.append(("before that" if found else "trained on", ", ".join(shown)))
        run = run.get("start")
    told = {"identity", "start", *SETTINGS} if found else set()
    for name, value in lineage.items():
        if name not in told:
            found.append((name.replace("_", " "), _listed(value) if isinstance(value, dict) else value))
    return found


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


@click.command()
@click.argument("path", metavar="PATH|ORG/NAME[@REVISION]", type=PATH)
@click.option("--name", help="What to call it; needed unless the folder has a card.")
@click.option("--exemplars", type=PATH, help="A text file of questions to route by, one a line.")
@click.option("--prompt", metavar="NAME|TEXT|file:PATH", help="The system prompt it was trained with.")
@click.option(
    "--parser", metavar="NAME", help="How the answer is read from its text; answer_line unless given."
)
@click.option(
    "--base", metavar="ID", help="The base it was trained on, where its configuration does not say."
)
def register(path: Path, prompt: str | None, **options: Any) -> None:
    """Add a specialist from an adapter folder or the Hub.

    PATH is a folder with a card, or a plain PEFT adapter: then --name, --exemplars and --prompt are needed.
    ORG/NAME is a repository on the Hub; a version, channel, tag, branch or commit of it may follow.
    The name of an unregistered bundled specialist brings that back.
    """
    from .pull import add
    from .store import Store

    with TemporaryDirectory() as folder:
        # Whoever writes several words means the prompt itself; the store takes that as a file.
        if prompt and not prompt.startswith("file:") and len(prompt.split()) > 1:
            text = Path(folder) / "prompt.txt"
            text.write_text(prompt, encoding="utf-8")
            prompt = f"file:{text}"
        version = add(Store(), path, prompt=prompt, **options)
    click.echo(version.ref)
    click.echo(f"router: registered {version.ref} with {len(version.card.exemplars)} exemplars.", err=True)


@click.command()
@click.argument("ref", metavar="NAME[@VERSION]")
def unregister(ref: str) -> None:
    """Remove a registered specialist."""
    from .store import Store

    Store().unregister(ref)
    click.echo(f"router: unregistered {ref}.", err=True)
