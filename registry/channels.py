"""Which version of a specialist is used: promoted, rolled back, taken back, and old ones cleared away."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from specialists.errors import BadInput

from .card import version_key
from .history import CHANNELS, STABLE, Event, State, event
from .store import Store
from .version import Version


def promote(
    store: Store, ref: str, channel: str = STABLE, reason: str | None = None, seen: State | None = None
) -> Version:
    """Make a channel mean the version that "name@version" or "name@candidate" means now; nothing if it does.

    seen: the state it was compared in. Raises BadInput when the version was taken back or is not there, or the channel
    means another than in `seen`.
    """
    version = store.resolve(ref)
    name, number = version.card.name, version.card.version
    with store.changing(name) as state:
        if moved := promoted(state, name, number, channel, reason):
            if seen:
                still(state, name, number, channel, seen.channels.get(channel))
            store.note(name, state, moved)
    return store.resolve(version.ref)


def promoted(state: State, name: str, number: str, channel: str, reason: str | None) -> Event | None:
    """The event that makes a channel mean a version, None when it does. Raises BadInput when it was taken back."""
    _known(channel)
    if number in state.yanked:
        raise BadInput(
            f"{name}@{number} was taken back ({state.yanked[number]}); "
            f"`router registry yank {name}@{number} --undo` allows it."
        )
    if state.meant(channel) == number:
        return None
    return event("promote", number, channel=channel, reason=reason)


def still(state: State, name: str, number: str, channel: str, over: str | None) -> None:
    """Raises BadInput when a channel no longer means the version that a number was compared with."""
    if (now := state.channels.get(channel)) != over:
        raise BadInput(
            f"{name}@{channel} became {now or 'nothing'} meanwhile, and {number} was compared with "
            f"{over or 'nothing'}; run it again."
        )


def rollback(store: Store, name: str, channel: str = STABLE, reason: str | None = None) -> Version:
    """Make a channel mean what it meant before. Raises BadInput when it meant nothing else that is still there."""
    store.versions(name)  # raises, saying what there is
    _known(channel)
    with store.changing(name) as state:
        back = rolled_back(state, name, channel, reason)
        store.note(name, state, back)
    return store.resolve(f"{name}@{back.version}")


def rolled_back(state: State, name: str, channel: str, reason: str | None) -> Event:
    """The event that takes a channel back. Raises BadInput when it meant nothing else that is still there."""
    before = state.before(channel)
    if before is None:
        raise BadInput(
            f"{name}@{channel} has no earlier version to go back to; `router registry history {name}`."
        )
    return event("rollback", before, channel=channel, reason=reason)


def yank(store: Store, ref: str, reason: str) -> Version:
    """Take a version back: it is no longer chosen by name or channel, and still answers to its number.

    A channel that meant it goes back to what it meant before, or means nothing. Raises BadInput without a reason.
    """
    version = store.resolve(ref)
    with store.changing(version.card.name) as state:
        if taken := taken_back(state, version.card.version, reason):
            store.note(version.card.name, state, taken)
    return store.resolve(version.ref)


def taken_back(state: State, number: str, reason: str) -> Event | None:
    """The event that takes a version back, None when it was. Raises BadInput without a reason."""
    if not reason.strip():
        raise BadInput("Say why the version is taken back; those who have it want to know.")
    return None if number in state.yanked else event("yank", number, reason=reason.strip())


def restore(store: Store, ref: str) -> Version:
    """Undo a yank; no channel means the version until it is promoted again."""
    version = store.resolve(ref)
    with store.changing(version.card.name) as state:
        if given := given_back(state, version.card.version):
            store.note(version.card.name, state, given)
    return store.resolve(version.ref)


def given_back(state: State, number: str) -> Event | None:
    """The event that undoes a yank, None when the version was not taken back."""
    return event("restore", number) if number in state.yanked else None


@dataclass(frozen=True)
class Old:
    """A version that could be cleared away, and the bytes that would free."""

    ref: str
    bytes: int


def old(store: Store, keep: int = 3, pinned: Collection[str] = ()) -> list[Old]:
    """The user's own versions that nothing needs: in no channel, not among a name's `keep` newest, not pinned.

    pinned: "name@version" of lock files. Those taken back count as old whatever their number.
    """
    found = []
    for name in sorted({version.card.name for version in store.list()}):
        own = [version for version in store.versions(name) if version.source == "local"]
        state = store.state(name)
        numbers = [version.card.version for version in own if version.yanked is None]
        kept = set(sorted(numbers, key=version_key, reverse=True)[:keep]) | {
            state.meant(channel) for channel in CHANNELS
        }
        found += [
            Old(version.ref, sum(file.stat().st_size for file in version.path.iterdir()))
            for version in own
            if version.card.version not in kept and version.ref not in pinned
        ]
    return found


def _known(channel: str) -> None:
    if channel not in CHANNELS:
        raise BadInput(f"There is no channel {channel!r}; use {' or '.join(CHANNELS)}.")
