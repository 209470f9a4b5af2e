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
    facts: dict[str, object] = {
        "specialist": version.ref,
        "": card.description,
        "source": f"{version.source}, {version.path}",
        "base": f"{card.base} (weights {card.base_weights[:16]})",
        "adapter": f"sha256 {card.adapter}",
        "parser": f"{card.parser}, at most {card.max_new_tokens} tokens",
        "prompt": version.prompt_text(),
    }
    if card.report:
        facts |= _measured(card.report)
    facts |= {f"lineage {name}": value for name, value in card.lineage.items()}
    width = max(map(len, facts))
    for name, value in facts.items():
        click.echo(f"{name:{width}}  {value}")
    click.echo(f"\n{len(card.exemplars)} exemplars, questions it is routed by:")
    for exemplar in card.exemplars:
        click.echo(f"  {exemplar}")


def _measured(report: dict[str, Any]) -> dict[str, object]:
    """What a card's report says in one line an arm."""
    found: dict[str, object] = {}
    for name, arm in report.get("arms", {}).items():
        low, high = arm["interval"]
        found[f"measured {name}"] = f"{arm['accuracy']:.1%} ({low:.1%} to {high:.1%}), n = {report.get('n')}"
    if report.get("command"):
        found["measured by"] = report["command"]
    return found


@click.command()
@click.argument("path", type=PATH)
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
    """Add a specialist from an adapter folder.

    PATH is a folder with a card, or a plain PEFT adapter: then --name, --exemplars and --prompt are needed.
    The name of an unregistered bundled specialist brings that back.
    """
    from .store import Store

    with TemporaryDirectory() as folder:
        # Whoever writes several words means the prompt itself; the store takes that as a file.
        if prompt and not prompt.startswith("file:") and len(prompt.split()) > 1:
            text = Path(folder) / "prompt.txt"
            text.write_text(prompt, encoding="utf-8")
            prompt = f"file:{text}"
        version = Store().register(path, prompt=prompt, **options)
    click.echo(version.ref)
    click.echo(f"router: registered {version.ref} with {len(version.card.exemplars)} exemplars.", err=True)


@click.command()
@click.argument("ref", metavar="NAME[@VERSION]")
def unregister(ref: str) -> None:
    """Remove a registered specialist."""
    from .store import Store

    Store().unregister(ref)
    click.echo(f"router: unregistered {ref}.", err=True)
