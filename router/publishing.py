"""`router registry publish` and `promote`: what must pass the gate."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from registry.hub_cli import CHANNEL, PATH, registry
from specialists.errors import BadInput, Refused

if TYPE_CHECKING:
    from registry.history import State
    from registry.hub import Hub
    from registry.store import Store, Version

FORCE = click.option(
    "--force", metavar="REASON", help="Pass the gate in spite of what it says; kept in the history."
)
EXAMPLES = click.option(
    "--examples", type=PATH, help="The JSONL file it was trained on, to look for test questions."
)
BASE = click.option("--base", metavar="SPEC", help="Base weights: a folder, or a Hub id with @REVISION.")


def gate(
    store: Store,
    version: Version,
    replaces: Version | None,
    base: str | None,
    examples: Path | None,
    force: str | None,
    answering: Store | None = None,
) -> str | None:
    """Let a version pass or raise Refused with every reason; what to write into the history.

    store: the one whose other specialists must not be harmed; answering: the one that holds both versions, if another.
    """
    from registry.adapter import check
    from registry.gate import refusals
    from registry.version import verify

    from .embed import load_encoder
    from .evaluate import measured_in, open_tools
    from .vouch import vouch

    verify(version)
    progress = sys.stderr.isatty()
    evidence = vouch(
        version,
        replaces,
        store,
        lambda: open_tools(base, answering or store, precision=measured_in(version.card.report)),
        load_encoder,
        examples,
        progress,
    )
    found = refusals(version, check(version.path), evidence, replaces.ref if replaces else None)
    if not found:
        return None
    if not force:
        raise Refused(f"{version.ref} does not pass: {'; '.join(found)}. Mend that, or give --force REASON.")
    click.echo(f"router: passing in spite of: {'; '.join(found)}.", err=True)
    return f"forced: {force} (in spite of: {'; '.join(found)})"[:2000]


@registry.command()
@click.argument("ref", metavar="NAME[@VERSION]")
@click.option(
    "--to", metavar="ORG/NAME", required=True, help="The repository on the Hub; made if it is not there."
)
@click.option("--private", is_flag=True, help="Make a new repository a private one.")
@click.option("--sign", "key", type=PATH, help="A private key of `router registry keygen`.")
@click.option("--dry-run", is_flag=True, help="Pass the gate, show files and sizes, and publish nothing.")
@click.option(
    "--license", "licence", default="apache-2.0", show_default=True, help="The licence on the model card."
)
@CHANNEL
@EXAMPLES
@BASE
@FORCE
def publish(
    ref: str,
    to: str,
    private: bool,
    key: Path | None,
    dry_run: bool,
    licence: str,
    channel: str,
    examples: Path | None,
    base: str | None,
    force: str | None,
) -> None:
    """Put a version on the Hub: one commit, then its tag."""
    from registry.history import State
    from registry.hub import Hub, has
    from registry.hub_refs import parse_ref
    from registry.model_card import beside
    from registry.sign import SIGNATURE, sign
    from registry.store import Store
    from registry.version import MANIFEST, file_names

    id, revision = parse_ref(to)
    if revision:
        raise BadInput(f"Give the repository alone, as {id}; its versions are numbered by their cards.")
    store, hub = Store(), Hub(id)
    version = store.resolve(ref)
    names = [*file_names(version.card), MANIFEST]
    extra = beside(version, id, licence)
    if key:
        extra[SIGNATURE] = sign(version.path, names, key)
    seen = hub.state() if hub.exists() else State()
    reason = None
    if not has(id, version, seen):  # what is there and lacks its tag, say, passed before
        reason = _gate_on_hub(store, hub, version.card.version, seen, version, base, examples, force)
    if dry_run:
        for name in names:
            click.echo(f"{(version.path / name).stat().st_size:>12,}  {name}")
        for name, data in extra.items():
            click.echo(f"{len(data):>12,}  {name}")
        click.echo(f"router: {version.ref} would be published to {id}; nothing was.", err=True)
        return
    commit = hub.publish(version, extra, channel, private or None, reason, seen)
    click.echo(f"{id}@{version.card.version} {commit}")
    click.echo(f"router: published {version.ref} to {id}.", err=True)


@registry.command()
@click.argument("ref", metavar="NAME@VERSION|NAME@candidate|ORG/NAME@VERSION")
@CHANNEL
@EXAMPLES
@BASE
@FORCE
def promote(ref: str, channel: str, examples: Path | None, base: str | None, force: str | None) -> None:
    """Make a version the stable one, if it is not worse than the one that is: at home, or on the Hub."""
    from registry.channels import promote
    from registry.store import Store

    store = Store()
    if "/" in ref:
        promoted_ref = _promote_on_hub(store, ref, channel, base, examples, force)
    else:
        version = store.resolve(ref)
        seen = store.state(version.card.name)
        before = _before(store, version) if channel == "stable" else None
        reason = gate(store, version, before, base, examples, force) if channel == "stable" else None
        promoted_ref = promote(store, version.ref, channel, reason, seen).ref
    click.echo(promoted_ref)
    click.echo(f"router: {promoted_ref.partition('@')[0]}@{channel} is {promoted_ref} now.", err=True)


def _promote_on_hub(
    store: Store, ref: str, channel: str, base: str | None, examples: Path | None, force: str | None
) -> str:
    """Promote a version of a repository there; what was promoted, as ORG/NAME@VERSION."""
    from registry.channels import promoted
    from registry.hub import Hub
    from registry.hub_channels import promote
    from registry.hub_refs import parse_ref, published_number

    id, revision = parse_ref(ref)
    hub = Hub(id)
    state = hub.state()
    number = published_number(id, revision, state)
    if promoted(state, id, number, channel, None):
        stable = channel == "stable"
        reason = _gate_on_hub(store, hub, number, state, None, base, examples, force) if stable else None
        promote(hub, number, channel, reason, state.channels.get(channel))
    return f"{id}@{number}"


def _gate_on_hub(
    store: Store,
    hub: Hub,
    number: str,
    state: State,
    version: Version | None,
    base: str | None,
    examples: Path | None,
    force: str | None,
) -> str | None:
    """Gate for a version that is at home, or else in the repository: it must not be worse than the one it replaces.

    That is the one which is stable in the repository, or, where it has none yet, at home.
    """
    from registry.pull import pull
    from registry.store import Store
    from registry.trust import Trust

    before = _before_there(state, number)
    with TemporaryDirectory() as folder:  # what is only compared need not be used here
        aside = Store(Path(folder), bundled=Path(folder) / "bundled")

        def bring(wanted: str) -> Version:
            return pull(aside, f"{hub.id}@{wanted}", hub=hub, trust=Trust(store.home))

        def copy(known: Version) -> Version:
            return aside.publish(known.path, known.card)

        new = copy(version) if version else bring(number)
        replaces = bring(before) if before else None
        if version and not before and (at_home := _before(store, version)):
            replaces = copy(at_home)
        return gate(store, new, replaces, base, examples, force, aside)


def _before_there(state: State, number: str) -> str | None:
    """As _before, by the history of a repository."""
    from registry.card import version_key

    stable = state.channels.get("stable")
    if stable and stable != number:
        return stable
    lower = [
        known
        for known in state.published
        if known not in state.yanked and version_key(known) < version_key(number)
    ]
    return max(lower, key=version_key, default=None)


def _before(store: Store, version: Version) -> Version | None:
    """The version that this one comes after: the stable one, or the next lower where it is that itself."""
    from registry.card import version_key

    stable = store.resolve(version.card.name)
    if stable.ref != version.ref:
        return stable
    lower = [
        known
        for known in store.versions(version.card.name)
        if known.yanked is None and version_key(known.card.version) < version_key(version.card.version)
    ]
    return max(lower, key=lambda known: version_key(known.card.version), default=None)
