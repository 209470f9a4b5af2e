"""A version from the Hub into the local store: the very bytes that were published, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from specialists.errors import BadInput, Damaged, Unavailable

from .adapter import WEIGHTS
from .card import Card
from .history import STABLE
from .hub import LIMIT, Found, Hub
from .hub_refs import parse_ref
from .lock import LOCK, Pin, check_pin, read_lock
from .register import register
from .sign import SIGNATURE
from .store import Store
from .trust import Trust
from .version import CARD, MANIFEST, Version, check_small, file_names, read_card, read_manifest, sha256


def pull(
    store: Store,
    ref: str,
    pins: Mapping[str, Pin] | None = None,
    limit: int = LIMIT,
    channel: str = STABLE,
    hub: Hub | None = None,
    trust: Trust | None = None,
    **plain: Any,
) -> Version:
    """The version that ORG/NAME[@VERSION, channel, tag, branch or commit] means, brought into the store.

    A version or commit that is here already costs no network. pins: of a lock file, which must agree. limit: bytes that
    are downloaded at most. trust: whose signatures are asked for, by default those of the store. plain: name,
    exemplars, prompt, parser and base of `register`, for a repository with a PEFT adapter and no card. Raises BadInput,
    Unavailable, or Damaged when anything is not as published, locked or signed.
    """
    id, revision = parse_ref(ref)
    here = local(store, id, revision) if revision else None
    if here and not any(plain.values()):
        _agree(here, pins or {})
        return here
    hub = hub or Hub(id)
    try:
        found = hub.find(revision)
    except Unavailable:
        folder = hub.fetched(revision) if revision and _is_commit(revision) else None
        if folder is None:
            raise
        return _add(store, hub, revision or "", folder, None, pins or {}, channel, plain, trust)
    return _add(store, hub, found.commit, hub.fetch(found, limit), found, pins or {}, channel, plain, trust)


def add(store: Store, path: Path, **plain: Any) -> Version:
    """`register` for a folder that is there, `pull` for what has the form of a repository on the Hub."""
    on_hub = len(path.parts) == 2 and not path.exists() and not str(path).startswith(("~", "."))
    if not on_hub:
        return register(store, path, **plain)
    lock = Path(LOCK)
    return pull(store, str(path), read_lock(lock) if lock.exists() else None, **plain)


def pull_pin(store: Store, ref: str, pin: Pin, limit: int = LIMIT, hub: Hub | None = None) -> Version:
    """The version of a lock file: nothing is asked of the network where it is here already."""
    id, _ = parse_ref(pin.repo)
    if here := local(store, id, pin.commit):
        _agree(here, {ref: pin})
        return here
    hub = hub or Hub(id)
    folder = hub.fetched(pin.commit) or hub.fetch(hub.at(pin.commit), limit)
    return _add(store, hub, pin.commit, folder, None, {ref: pin}, STABLE, {})


def local(store: Store, id: str, revision: str) -> Version | None:
    """The version in the store that came from this repository as this version or commit."""
    for name in store.names():
        state = store.state(name)
        for number, origin in state.origins.items():
            repo, _, commit = origin.partition("@")
            if repo == id and revision in (number, commit) and number not in state.gone:
                return store.resolve(f"{name}@{number}")
    return None


def _add(
    store: Store,
    hub: Hub,
    commit: str,
    folder: Path,
    found: Found | None,
    pins: Mapping[str, Pin],
    channel: str,
    plain: Mapping[str, Any],
    trust: Trust | None = None,
) -> Version:
    """Check what came, and publish it into the store."""
    trust = trust or Trust(store.home)
    origin = f"{hub.id}@{commit}"
    if not (folder / CARD).exists():
        if trust.required(hub.owner):
            raise Damaged(
                f"{hub.id} has an adapter and no card, so nothing that a key of {hub.owner} could have signed, and you "
                "take only what is signed from there: ask its publisher."
            )
        return register(store, folder, origin=origin, channel=channel, **plain)
    if any(plain.values()):
        raise BadInput(f"{hub.id} has a card; leave out name, exemplars, prompt and the like.")
    card = read_card(folder)
    if (folder / MANIFEST).exists():
        check_small(folder)
        _whole(folder, card, hub.id)
        _as_published(hub.id, card, sha256(folder / MANIFEST), found)
        _same_commit(store, card, hub.id, commit)
        digests = {name: digest for name, (digest, _) in sorted(read_manifest(folder).items())}
        check_pin(card.ref, pins.get(card.ref), Pin(hub.id, commit, sha256(folder / MANIFEST), digests))
    signature = folder / SIGNATURE
    names = [*file_names(card), MANIFEST]
    trust.check(hub.owner, folder, names, signature.read_bytes() if signature.exists() else None)
    return store.publish(folder, card, channel=channel, origin=origin)


def _whole(folder: Path, card: Card, id: str) -> None:
    """The weights are those that card and manifest say, whatever the download made of them."""
    manifest = read_manifest(folder)
    if set(manifest) != set(file_names(card)):
        raise Damaged(f"The manifest of {id} lists other files than {card.ref} has; ask its publisher.")
    if not manifest[WEIGHTS][0] == card.adapter == sha256(folder / WEIGHTS):
        raise Damaged(
            f"{WEIGHTS} of {id} is not the file that {card.ref} was published with; ask its publisher."
        )


def _as_published(id: str, card: Card, manifest: str, found: Found | None) -> None:
    """A tag leads to the version it names, and to the bytes that the history has."""
    if found is None:
        return
    if found.version and found.version != card.version:
        raise Damaged(
            f"The tag v{found.version} of {id} leads to {card.ref}: somebody moved it. Ask its publisher, or give the "
            f"commit as {id}@COMMIT."
        )
    if found.state.published.get(card.version) not in (None, manifest):
        raise Damaged(
            f"{card.ref} at {found.commit[:12]} of {id} has other bytes than its history says were published: "
            "somebody moved its tag or changed its files. Ask its publisher."
        )


def _same_commit(store: Store, card: Card, id: str, commit: str) -> None:
    """A version that came from one commit before does not come from another now."""
    repo, _, before = store.state(card.name).origins.get(card.version, f"{id}@{commit}").partition("@")
    if repo == id and before != commit:
        raise Damaged(
            f"{card.ref} was commit {before[:12]} of {id} when it was pulled, and is {commit[:12]} now: its tag was "
            "moved. What is here stays; ask its publisher."
        )


def _agree(version: Version, pins: Mapping[str, Pin]) -> None:
    pin = pins.get(version.ref)
    if pin and (pin.manifest != version.manifest or version.origin != f"{pin.repo}@{pin.commit}"):
        raise Damaged(
            f"{version.ref} here came as {version.origin}, and the lock file has {pin.repo}@{pin.commit}: "
            f"`router unregister {version.ref}` and pull it again, or lock it anew."
        )


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and all(digit in "0123456789abcdef" for digit in revision)
