"""What was done with the versions of a specialist, in order; its channels are what replaying that gives.

One JSON object a line. The local store appends to HOME/.history/NAME.jsonl, a Hub repository has the same lines in
history.jsonl: only lines are ever added, so what a channel meant at any time can be said later. `when` is for people
to read; the order is that of the lines, whatever a clock said.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from specialists.errors import BadInput, Damaged

from .card import shown, version_key

HISTORY = "history.jsonl"
STABLE, CANDIDATE = "stable", "candidate"
CHANNELS = (STABLE, CANDIDATE)
ACTIONS = ("publish", "promote", "rollback", "yank", "restore", "remove")


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line. Building one with bad values raises BadInput.

    publish: `version` with these bytes (manifest: sha256 of its manifest) came, into `channel` if one is given;
    origin: ORG/NAME@COMMIT it was pulled from. promote, rollback: `channel` now means `version`. yank, restore:
    `version` is not, or again, chosen by itself. remove: its files were taken away. reason: why, in a person's words.
    """

    action: str
    version: str
    channel: str | None = None
    manifest: str | None = None
    origin: str | None = None
    reason: str | None = None
    when: str = ""

    def __post_init__(self) -> None:
        if self.action not in ACTIONS or self.channel not in (None, *CHANNELS):
            raise BadInput(f"A history knows no {shown(self.action)} into {shown(self.channel)}.")
        version_key(self.version)
        for name in ("manifest", "origin", "reason", "when"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and len(value) <= 2000):
                raise BadInput(f"The {name} of a history line is not a short text: {shown(value)}.")

    def to_json(self) -> str:
        """The line, without its end."""
        return json.dumps({name: value for name, value in asdict(self).items() if value is not None})


@dataclass
class State:
    """What a history amounts to.

    published: version -> sha256 of its manifest, of all that ever were; gone: those removed. channels: channel ->
    version. past: channel -> the versions it meant before, last one last. yanked: version -> why. in_use: what a
    store uses while no version was ever called stable; no part of the history.
    """

    published: dict[str, str | None] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    channels: dict[str, str] = field(default_factory=dict)
    past: dict[str, list[str]] = field(default_factory=dict)
    yanked: dict[str, str] = field(default_factory=dict)
    in_use: str | None = None

    def meant(self, channel: str) -> str | None:
        """The version that a channel means."""
        return self.channels.get(channel) or (self.in_use if channel == STABLE else None)

    def channel_of(self, version: str) -> str | None:
        """The channel that means this version, stable before candidate."""
        return next((name for name in CHANNELS if self.meant(name) == version), None)

    def before(self, channel: str) -> str | None:
        """The version that a rollback goes to: the last one the channel meant that is neither gone nor yanked."""
        now = self.channels.get(channel)
        usable = [
            version
            for version in self.past.get(channel, [])
            if version != now and version not in self.gone and version not in self.yanked
        ]
        return usable[-1] if usable else None


def replay(events: Iterable[Event]) -> State:
    """The state after these events. Raises Damaged when a version is published twice with other bytes."""
    state = State()
    for event in events:
        version = event.version
        if event.action == "publish":
            known = state.published.get(version)
            if known and event.manifest and known != event.manifest:
                raise Damaged(
                    f"A history has version {version} twice with different bytes; it was tampered with."
                )
            state.published[version] = event.manifest or known
            state.gone.discard(version)
            if event.origin:
                state.origins[version] = event.origin
        elif event.action == "yank":
            state.yanked[version] = event.reason or ""
            _leave(state, version)
        elif event.action == "restore":
            state.yanked.pop(version, None)
        elif event.action == "remove":
            state.gone.add(version)
            _leave(state, version)
        if event.channel:
            _point(state, event.channel, version, back=event.action == "rollback")
    return state


def _leave(state: State, version: str) -> None:
    """Channels that meant a version go back to what they meant before, or mean nothing."""
    for channel in [name for name, meant in state.channels.items() if meant == version]:
        before = state.before(channel)
        del state.channels[channel]
        if before:
            _point(state, channel, before, back=True)


def _point(state: State, channel: str, version: str, back: bool) -> None:
    now = state.channels.get(channel)
    past = state.past.setdefault(channel, [])
    if back:  # what was left is not come back to by the next rollback
        while past and past.pop() != version:
            pass
    elif now and now != version:
        past.append(now)
    state.channels[channel] = version


def event(action: str, version: str, **more: str | None) -> Event:
    """An event of now."""
    return Event(action=action, version=version, when=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **more)


def parse(text: str, where: str) -> list[Event]:
    """The events of a history. A last line without an end was cut off while it was written and does not count.

    Raises Damaged, naming the line, when any other line is no event.
    """
    known = {entry.name for entry in fields(Event)}
    events = []
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict) or values.keys() - known:
                raise ValueError("unknown fields")
            events.append(Event(**values))
        except (ValueError, TypeError, RecursionError, BadInput) as error:
            raise Damaged(
                f"Line {number} of {where} is no event of a history ({error}); put the file back as it was."
            ) from error
    return events


def text_of(events: Sequence[Event]) -> str:
    """The inverse of parse."""
    return "".join(event.to_json() + "\n" for event in events)


class Histories:
    """The histories of the local store, a file a name. Only the holder of the store's lock appends."""

    def __init__(self, home: Path) -> None:
        self.folder = home / ".history"

    def read(self, name: str) -> list[Event]:
        """The events of a name, none when it has no history. Raises Damaged."""
        path = self._path(name)
        try:
            return parse(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise Damaged(f"{path} cannot be read ({error}); put the file back as it was.") from error

    def append(self, name: str, *events: Event) -> None:
        """Add events in one write, on disk when this returns; a line that an earlier write left unfinished goes."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(text_of(events).encode())
            file.flush()
            os.fsync(file.fileno())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.jsonl"
