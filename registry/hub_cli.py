"""`router registry`: versions, channels and the Hub. The commands that need the gate are added in router."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from specialists.errors import BadInput

if TYPE_CHECKING:
    from .history import Event

PATH = click.Path(path_type=Path)
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
CHANNEL = click.option(
    "--channel",
    type=click.Choice(["stable", "candidate"]),
    default="stable",
    show_default=True,
    help="The channel.",
)
REASON = click.option("--reason", help="A note for the history.")
LOCKFILE = click.option(
    "--lock", type=PATH, default=Path("router.lock"), show_default=True, help="The lock file."
)


@click.group()
def registry() -> None:
    """Publish, pull, promote and roll back versions of specialists."""


@registry.command()
@click.argument("ref", metavar="[ORG/NAME[@REVISION]]", required=False)
@click.option("--all", "all_", is_flag=True, help="Every version of the lock file.")
@click.option(
    "--max-size", type=click.IntRange(1), help="Megabytes that a version may have at most.", default=500
)
@click.option("--name", help="What to call an adapter without a card.")
@click.option(
    "--exemplars", type=PATH, help="Questions to route by, for an adapter without a card, one a line."
)
@click.option("--prompt", metavar="NAME|file:PATH", help="The system prompt of an adapter without a card.")
@CHANNEL
@LOCKFILE
def pull(ref: str | None, all_: bool, max_size: int, channel: str, lock: Path, **plain: Any) -> None:
    """Bring a version from the Hub, checked against its history, its signature and the lock file."""
    from .lock import read_lock
    from .pull import pull, pull_pin
    from .store import Store

    if all_ == bool(ref):
        raise BadInput("Say which version to pull, as ORG/NAME, or --all for those of the lock file.")
    pins = read_lock(lock) if all_ or lock.exists() else {}
    store, limit = Store(), max_size << 20
    if ref:
        _came(pull(store, ref, pins, limit, channel, **plain).ref)
    for known, pin in pins.items() if all_ else ():
        _came(pull_pin(store, known, pin, limit).ref)


def _came(ref: str) -> None:
    click.echo(ref)
    click.echo(f"router: {ref} is here and whole.", err=True)


@registry.command()
@LOCKFILE
def lock(lock: Path) -> None:
    """Write the versions in use that came from the Hub, with commits and hashes, into the lock file."""
    from .lock import pin_of, write_lock
    from .store import Store

    found = {version.ref: pin for version in Store().list() if (pin := pin_of(version))}
    write_lock(lock, found)
    click.echo(
        f"router: locked {len(found)} in {lock}: {', '.join(found) or 'nothing in use came from the Hub'}.",
        err=True,
    )


@registry.command()
@click.argument("name", metavar="NAME|ORG/NAME")
@CHANNEL
@REASON
def rollback(name: str, channel: str, reason: str | None) -> None:
    """Go back to the version that a channel meant before."""
    from .channels import rollback
    from .store import Store

    if "/" in name:
        from . import hub_channels
        from .hub import Hub
        from .hub_refs import parse_ref

        id, revision = parse_ref(name)
        if revision:
            raise BadInput(f"Give the repository alone, as {id}; what to go back to is in its history.")
        number = hub_channels.rollback(Hub(id), channel, reason)
        click.echo(f"{id}@{number}")
        click.echo(f"router: {id}@{channel} is {number} now.", err=True)
        return
    version = rollback(Store(), name, channel, reason)
    click.echo(version.ref)
    click.echo(f"router: {name}@{channel} is {version.ref} now.", err=True)


@registry.command()
@click.argument("ref", metavar="NAME@VERSION|ORG/NAME@VERSION")
@click.option("--reason", default="", help="Why; needed to take it back.")
@click.option("--undo", is_flag=True, help="Let it be chosen again.")
def yank(ref: str, reason: str, undo: bool) -> None:
    """Take a version back: it is no longer chosen by itself."""
    from .channels import restore, yank
    from .store import Store

    if "/" in ref:
        from . import hub_channels
        from .hub import Hub
        from .hub_refs import parse_ref

        id, revision = parse_ref(ref)
        hub = Hub(id)
        number = hub_channels.restore(hub, revision) if undo else hub_channels.yank(hub, revision, reason)
        taken = f"{id}@{number}"
    else:
        taken = (restore(Store(), ref) if undo else yank(Store(), ref, reason)).ref
    click.echo(f"router: {taken} {'may be chosen again' if undo else 'was taken back'}.", err=True)


@registry.command()
@click.argument("name", metavar="NAME|ORG/NAME")
@as_json
def history(name: str, as_json: bool) -> None:
    """Show what was done with a specialist's versions, the first first."""
    from .store import Store

    if "/" in name:
        from .hub import Hub
        from .hub_refs import parse_ref

        events = Hub(parse_ref(name)[0]).history()
    else:
        store = Store()
        store.versions(name)  # raises, saying what there is
        events = store.histories.read(name)
    if as_json:
        click.echo(json.dumps([asdict(event) for event in events]))
        return
    if not events:
        click.echo(f"router: nothing was done with {name} yet.", err=True)
    for event in events:
        click.echo(_line(event))


def _line(event: Event) -> str:
    into = f" -> {event.channel}" if event.channel else ""
    why = f"  {event.reason}" if event.reason else ""
    return f"{event.when:20}  {event.action:8}  {event.version}{into}{why}"


@registry.command()
@click.argument("ref", metavar="[NAME[@VERSION]]", required=False)
def verify(ref: str | None) -> None:
    """Hash every file of a version, or of all in use, against what was published."""
    from .store import Store, verify

    store = Store()
    versions = [store.resolve(ref)] if ref else store.list()
    for version in versions:
        verify(version)
        click.echo(f"{version.ref}  whole")
    for problem in store.problems:
        click.echo(f"router: {problem}", err=True)
    if store.problems:
        raise click.exceptions.Exit(4)


@registry.command()
@click.option(
    "--keep", type=click.IntRange(0), default=3, show_default=True, help="Newest versions a name keeps."
)
@click.option("--dry-run", is_flag=True, help="Say what would go, and leave it.")
@LOCKFILE
def gc(keep: int, dry_run: bool, lock: Path) -> None:
    """Remove the user's old versions: in no channel, not among the newest, not in the lock file."""
    from .channels import old
    from .lock import read_lock
    from .store import Store

    store = Store()
    found = old(store, keep, read_lock(lock) if lock.exists() else ())
    for one in found:
        if not dry_run:
            store.unregister(one.ref)
        click.echo(f"{one.ref}  {one.bytes / 1e6:.1f} MB")
    total = sum(one.bytes for one in found) / 1e6
    click.echo(f"router: {'would free' if dry_run else 'freed'} {total:.1f} MB.", err=True)


@registry.command()
@click.argument("text", required=False)
@click.option("--author", help="A namespace of the Hub.")
@as_json
def search(text: str | None, author: str | None, as_json: bool) -> None:
    """Find specialists on the Hub."""
    from .hub import search

    found = search(text, author)
    if as_json:
        click.echo(json.dumps([{"id": one.id, "commit": one.sha, "tags": one.tags} for one in found]))
        return
    for one in found:
        click.echo(one.id)
    if not found:
        click.echo("router: the Hub has none like that.", err=True)


@registry.command()
@click.argument("path", type=PATH)
def keygen(path: Path) -> None:
    """Make a key to sign versions with."""
    from .sign import fingerprint, keygen

    public = keygen(path)
    click.echo(str(public))
    click.echo(
        f"router: keep {path} to yourself; give {public} ({fingerprint(public.read_bytes())}) away.", err=True
    )


@registry.command()
@click.argument("owner", required=False)
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--remove", is_flag=True, help="Forget this key, or without one all keys of the namespace.")
def trust(owner: str | None, key: str | None, remove: bool) -> None:
    """Take from a namespace of the Hub only what this public KEY signed; without arguments, show whom that is.

    KEY is a file; to forget it, its fingerprint as shown does too.
    """
    from .sign import fingerprint
    from .store import Store
    from .trust import Trust

    known = Trust(Store().home)
    if owner is None:
        for name, marks in known.all().items():
            click.echo(f"{name}  {', '.join(f'{mark} since {day}' for mark, day in marks)}")
    elif remove:
        mark = fingerprint(_read_key(key)) if key and Path(key).is_file() else key
        known.remove(owner, mark)
        left = ", ".join(fingerprint(one) for one in known.keys(owner))
        click.echo(
            f"router: {f'key {mark}' if mark else 'every key'} of {owner} is forgotten; "
            f"{f'it may still sign with {left}' if left else 'it need not sign any more'}.",
            err=True,
        )
    elif key is None:
        raise BadInput("Give the public key too, such as key.pem.pub.")
    else:
        mark = known.add(owner, _read_key(key))
        click.echo(f"router: {owner} must sign with {mark} from now on.", err=True)


def _read_key(key: str) -> bytes:
    try:
        return Path(key).read_bytes()
    except OSError as error:
        raise BadInput(f"The key {key} cannot be read ({error.strerror}).") from error


@registry.command()
@click.argument("folder", type=PATH)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="The port.")
@click.option(
    "--tokens", type=PATH, help="A file of lines `TOKEN read` or `TOKEN write`; needed beyond this machine."
)
@click.option("--writable", is_flag=True, help="Without tokens, let everyone on this machine publish.")
def serve(folder: Path, host: str, port: int, tokens: Path | None, writable: bool) -> None:
    """Serve the repositories in FOLDER as a small Hub, for a team without the internet."""
    from .server import HubServer, read_tokens

    known = read_tokens(tokens) if tokens else {}
    if not known and host not in ("127.0.0.1", "::1", "localhost"):
        raise BadInput("Beyond this machine the registry is served only with --tokens.")
    server = HubServer(folder, host, port, known, writable)
    click.echo(
        f"router: serving {folder} at {server.url}; set HF_ENDPOINT={server.url} where it is used.", err=True
    )
    server.serve_forever()
