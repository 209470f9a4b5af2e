"""The local store: immutable versions, published whole or not at all, beside the bundled read-only ones.

Layout: HOME/NAME/VERSION/ holds a version (version.py), HOME/.hidden/ hides bundled ones (places.py), HOME/.history/
has what was done with each name and so its channels (history.py), HOME/.tmp-* is a change under way, HOME/.lock
serialises writers. Where a change was cut off between folder and history, the next change mends the history.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from specialists.errors import BadInput, Damaged

from .adapter import WEIGHTS, check
from .card import PROMPT_FILE, PROMPT_REF, Card, version_key
from .history import CHANNELS, STABLE, Event, State, event
from .lora_config import CONFIG
from .places import version_folders
from .reading import Reader
from .staging import Staging, sync
from .version import (
    CARD,
    MANIFEST,
    Manifest,
    Version,
    file_names,
    manifest_of,
    read_manifest,
    read_prompt,
    sha256,
    verify,
)

__all__ = ["Store", "Version", "verify"]


class Store(Reader):
    """What can be read, and changed: by one process at a time, and on disk when a call returns.

    The user's store is made on the first write.
    """

    def __init__(self, home: Path | None = None, bundled: Path | None = None) -> None:
        super().__init__(home, bundled)
        self._staging = Staging(self.home)

    def publish(
        self,
        folder: Path,
        card: Card,
        channel: str = STABLE,
        origin: str | None = None,
        reason: str | None = None,
        prompt_file: Path | None = None,
        renumber: bool = False,
    ) -> Version:
        """Copy the adapter in a folder into the store as the card's name and version, whole or not at all.

        A version newer than the stable one becomes it, unless `channel` is another. Publishing the same bytes again
        changes nothing, or repairs what was harmed since; other bytes for the same name and version, even of one
        removed since, raise BadInput, a damaged adapter Damaged, an unwritable store Unavailable.
        origin: ORG/NAME@COMMIT on the Hub; reason: a note for the history; prompt_file: where prompt.txt is, unless in
        the folder. renumber: if the name has versions, it becomes the next patch of the highest number that ever was,
        or the present version when it is that but for the number.
        """
        check(folder)
        prompt_file = prompt_file or folder / PROMPT_FILE
        if card.prompt == PROMPT_REF:
            read_prompt(prompt_file)
        with self.changing(card.name) as state:
            if renumber:
                card = self._renumbered(card, folder, prompt_file, state)
            return self._publish(folder, card, prompt_file, state, channel, origin, reason)

    def unhide(self, name: str) -> Version:
        """Bring an unregistered bundled name back. Raises BadInput when there is none of that name."""
        with self._staging.writing():
            self._places.show(name)
        return self.resolve(name)

    def unregister(self, ref: str) -> None:
        """Take away what "name" (all its versions) or "name@version" means, damaged or not.

        The user's versions are removed, bundled ones hidden; the history stays. Raises BadInput when there are none.
        """
        name, wanted = self._parse(ref)
        if wanted in CHANNELS:
            wanted = self.resolve(ref).card.version
            ref = f"{name}@{wanted}"
        with self.changing(name):
            places = [place for place in self._places.of(name) if wanted in (None, place[0].name)]
            if not places:
                self.resolve(ref)  # raises, saying what there is
            for folder, source in places:
                if source == "local":
                    self._staging.discard(folder)
                    self.histories.append(name, event("remove", folder.name))
                else:
                    self._places.hide(ref)
            if (self.home / name).is_dir() and not version_folders(self.home / name):
                self._staging.discard(self.home / name)

    @contextmanager
    def changing(self, name: str) -> Iterator[State]:
        """Hold the store's lock, with the state of a name, whose history was brought up to what its folders are."""
        with self._staging.writing():
            state = self.state(name)
            there = {folder.name: folder for folder in version_folders(self.home / name)}
            missed = [
                event("publish", version, manifest=sha256(folder / MANIFEST), reason="found in its folder")
                for version, folder in sorted(there.items(), key=lambda item: version_key(item[0]))
                if (version not in state.published or version in state.gone)
                and (folder / MANIFEST).is_file()
                and state.published.get(version) in (None, sha256(folder / MANIFEST))
            ]
            missed += [
                event("remove", version, reason="its folder is not there")
                for version in state.published
                if version not in state.gone and version not in there
            ]
            if missed:
                self.histories.append(name, *missed)
                state = self.state(name)
            yield state

    def note(self, name: str, state: State, new: Event) -> None:
        """Add to a name's history, the lock being held with this state.

        What was in use without having been called stable is named first, so that a rollback finds it.
        """
        unnamed = None if STABLE in state.channels or new.channel != STABLE else state.in_use
        if unnamed and unnamed != new.version:
            self.histories.append(name, event("promote", unnamed, channel=STABLE, reason="was in use"))
        self.histories.append(name, new)

    def _renumbered(self, card: Card, folder: Path, prompt_file: Path, state: State) -> Card:
        present = next(self._chosen(card.name), None)
        if present and _same(present, card, folder, prompt_file):
            return present.card
        places = self._places.of(card.name) + self._places.of_package(card.name)
        if taken := {folder.name for folder, _ in places} | state.published.keys():
            major, minor, patch = max(map(version_key, taken))
            return replace(card, version=f"{major}.{minor}.{patch + 1}")
        return card

    def _publish(
        self,
        folder: Path,
        card: Card,
        prompt_file: Path,
        state: State,
        channel: str,
        origin: str | None,
        reason: str | None,
    ) -> Version:
        """Stage a version, move it into place and write it into the history. The lock is held.

        What is bundled stays the only copy, unless it came from the Hub now: then it becomes one of the user's own,
        and the history has where from.
        """
        target = self.home / card.name / card.version
        with self._staging.staged() as staged:
            self._fill(staged, folder, card, prompt_file)
            manifest, digest = read_manifest(staged), sha256(staged / MANIFEST)
            if manifest[WEIGHTS][0] != card.adapter:
                raise Damaged(
                    f"{folder / WEIGHTS} is not the one that the card of {card.ref} gives the sha256 of."
                )
            if state.published.get(card.version) not in (None, digest):
                raise _other_bytes(card)
            bundled = self.bundled / card.name / card.version
            if _holds(bundled, "bundled", manifest, card) and not origin and not target.exists():
                self._places.show(card.name, card.version)
                return self.resolve(card.ref)
            new = not _holds(target, "local", manifest, card)
            if new:
                self._staging.place(staged, target)
        into = channel if self._moves(channel, card, state) else None
        if new or origin not in (None, state.origins.get(card.version)):
            said = event("publish", card.version, channel=into, manifest=digest, origin=origin, reason=reason)
            self.note(card.name, state, said)
        elif into:
            self.note(card.name, state, event("promote", card.version, channel=into))
        return self.resolve(card.ref)

    def _fill(self, staged: Path, folder: Path, card: Card, prompt_file: Path) -> None:
        """Put a version's files and its manifest, last, into a folder, on disk."""
        sources = {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS, PROMPT_FILE: prompt_file}
        for name in file_names(card):
            if name == CARD:
                (staged / name).write_text(card.to_json(), encoding="utf-8", newline="\n")
            else:
                shutil.copyfile(sources[name], staged / name)
            sync(staged / name)
        (staged / MANIFEST).write_text(manifest_of(staged, file_names(card)), encoding="utf-8", newline="\n")
        sync(staged / MANIFEST)

    def _moves(self, channel: str, card: Card, state: State) -> bool:
        """Whether publishing changes the channel: candidate always, stable by a number above the user's own ones."""
        if card.version in state.yanked or state.channels.get(channel) == card.version:
            return False
        if channel != STABLE:
            return True
        own = {folder.name for folder in version_folders(self.home / card.name)} - {card.version}
        rivals = {state.channels[STABLE]} if STABLE in state.channels else own
        return all(version_key(card.version) > version_key(other) for other in rivals & own)


def _other_bytes(card: Card) -> BadInput:
    return BadInput(f"{card.ref} exists with other bytes, and versions never change; use a new version.")


def _holds(folder: Path, source: str, manifest: Manifest, card: Card) -> bool:
    """Whether a sound version with these bytes is there already; BadInput when one with other bytes is."""
    try:
        others = read_manifest(folder) != manifest
    except Damaged:
        return False  # never finished
    if others:
        raise _other_bytes(card)
    try:
        verify(Version(card, folder, source))
    except Damaged:
        return False
    return True


def _same(version: Version, card: Card, folder: Path, prompt_file: Path) -> bool:
    """Whether a plain adapter with this card is, but for the number, this version."""
    manifest = read_manifest(version.path)
    sources = {CONFIG: folder / CONFIG, PROMPT_FILE: prompt_file}
    return replace(card, version=version.card.version) == version.card and all(
        sha256(path) == manifest[name][0] for name, path in sources.items() if name in manifest
    )
