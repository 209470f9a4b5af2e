"""The local store: immutable versions, published whole or not at all, beside the bundled read-only ones.

Layout: HOME/NAME/VERSION/ holds a version (registry/version.py), HOME/.hidden/ hides bundled ones (places.py),
HOME/.history/ has what was done with each name and so its channels (history.py), HOME/.tmp-* is a change under way,
HOME/.lock serialises writers. Readers take no lock: a version appears and disappears by one rename. Its folder decides
whether it is there, and not its history, which the next change mends where a change was cut off between the two.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import home as user_home

from .adapter import WEIGHTS, check
from .card import PROMPT_FILE, PROMPT_REF, Card, name_fault, shown, version_key
from .history import CANDIDATE, CHANNELS, STABLE, Event, Histories, State, event, replay
from .lora_config import CONFIG
from .places import Place, Places, version_folders
from .staging import Staging, sync
from .version import (
    CARD,
    MANIFEST,
    Manifest,
    Version,
    file_names,
    load,
    manifest_of,
    read_manifest,
    read_prompt,
    sha256,
    verify,
)

__all__ = ["Store", "Version", "verify"]

Versions = list[Version]  # Store.list hides the builtin inside the class
Names = list[str]

_SHOWN = 20  # names in a message


class Store:
    """Every version that can be used, the user's own and the bundled; of one name, the user's come first.

    home: the user's store, by default specialists.paths.home()/registry; made on the first write.
    bundled: the read-only store, by default the one in this package.
    problems: what reading had to leave out since the last list(), one sentence each.
    """

    def __init__(self, home: Path | None = None, bundled: Path | None = None) -> None:
        self.home = home or user_home() / "registry"
        self.bundled = bundled or Path(str(files("registry") / "bundled"))
        self.problems: list[str] = []
        self.histories = Histories(self.home)
        self._places = Places(self.home, self.bundled)
        self._staging = Staging(self.home)

    def list(self) -> Versions:
        """The version that each name resolves to, by name; half-written or damaged ones become problems."""
        self.problems = [
            f"{path} is a change under way or cut off; the next change to the store removes it."
            for path in self._staging.unfinished()
        ]
        found = (next(self._chosen(name), None) for name in self._places.names())
        return [version for version in found if version]

    def names(self) -> Names:
        """Every name that has versions to be seen, sound or not."""
        return self._places.names()

    def versions(self, name: str) -> Versions:
        """The sound versions of a name as resolve prefers them; those taken back come last."""
        self._require(name)
        return list(self._sound(name))

    def state(self, name: str) -> State:
        """Channels, yanked and removed versions of a name. Raises Damaged when its history cannot be read.

        While no version was ever called stable, the newest of the user's own is in use, else of the bundled.
        """
        state = replay(self.histories.read(name))
        state.in_use = next(
            (folder.name for folder, _ in self._places.of(name) if _free(folder, state)), None
        )
        return state

    def resolve(self, ref: str) -> Version:
        """The version that "name", "name@version", "name@stable" or "name@candidate" means.

        A name alone means its stable version: the one that channel was last set to, or without any the user's
        newest, else the newest bundled; the next in that order where it is damaged. Raises BadInput when there is
        none, listing what there is, and Damaged when it is half-written or changed. The weights' own hash is left to
        verify(), to be called before loading them.
        """
        name, wanted = self._parse(ref)
        state = self.state(name)
        if wanted in (None, STABLE):
            if first := next(self._chosen(name), None):
                return first
            if state.yanked:
                why = ", ".join(f"{version}: {reason}" for version, reason in state.yanked.items())
                raise BadInput(
                    f"Every version of {name!r} was taken back ({why}); ask for one as {name}@VERSION."
                )
            wanted = None
        elif wanted in CHANNELS:
            if wanted not in state.channels:
                raise BadInput(
                    f"The specialist {name!r} has no {wanted}; `router registry promote` sets one."
                )
            wanted = state.channels[wanted]
        places = self._places.of(name)
        for place in places:
            if wanted in (None, place[0].name) and (version := self._load(place, state)):
                return version
        self._require(name)
        there = ", ".join(dict.fromkeys(folder.name for folder, _ in places[:_SHOWN]))
        raise BadInput(f"The specialist {name!r} has no version {wanted}; it has: {there}.")

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

    def is_bundled(self, name: str) -> bool:
        """Whether the package brings a specialist of this name, hidden or not."""
        return bool(self._places.of_package(name))

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

    def _chosen(self, name: str) -> Iterator[Version]:
        """The sound versions of a name that nobody took back, the stable one first."""
        return (version for version in self._sound(name) if version.yanked is None)

    def _sound(self, name: str) -> Iterator[Version]:
        """The versions of a name that load, each number once; what is wrong with others becomes a problem."""
        try:
            state = self.state(name)
        except Damaged as error:
            self._problem(error)
            return
        stable = state.meant(STABLE)
        ranked = sorted(
            self._places.of(name), key=lambda place: (place[0].name != stable, not _free(place[0], state))
        )
        seen: set[str] = set()
        for folder, source in ranked:
            try:
                version = self._load((folder, source), state)
            except Damaged as error:
                self._problem(error)
                continue
            if version and folder.name not in seen:
                seen.add(folder.name)
                yield version

    def _problem(self, error: Damaged) -> None:
        if str(error) not in self.problems:
            self.problems.append(str(error))

    def _load(self, place: Place, state: State) -> Version | None:
        """A version with what its history says of it; None when it is not there.

        Raises Damaged when it is not the one that was published.
        """
        folder, source = place
        version = load(folder, source)
        if version is None:
            return None
        number = folder.name
        if source == "local":
            recorded = state.published.get(number)
            if recorded and recorded != version.manifest:
                raise Damaged(
                    f"{folder / MANIFEST} is not the one that was published; register {version.ref} again."
                )
        return replace(
            version,
            channel=state.channel_of(number),
            yanked=state.yanked.get(number),
            origin=state.origins.get(number) if source == "local" else None,
        )

    def _parse(self, ref: str) -> tuple[str, str | None]:
        """Name, and version or channel, of a reference to something that is here."""
        name, at, wanted = ref.partition("@")
        self._require(name)
        if at and wanted not in CHANNELS:
            version_key(wanted)
        return name, wanted if at else None

    def _require(self, name: str) -> None:
        """Raises BadInput, saying what there is, unless some version of this name can be seen."""
        if not name_fault(name) and self._places.of(name):
            return
        if self._places.of_package(name):
            raise BadInput(f"The bundled {name!r} was unregistered; `router register {name}` brings it back.")
        names = self._places.names()
        if not names:
            raise BadInput(
                f"There is no specialist {shown(name)}; you have none: add one with `router register PATH`."
            )
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        close = difflib.get_close_matches(name[:64].lower(), names, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise BadInput(
            f"There is no specialist {shown(name)}; you have: {', '.join(names[:_SHOWN])}{more}.{hint}"
        )

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
        """Stage a version, move it into place and write it into the history. The lock is held."""
        target = self.home / card.name / card.version
        sources = {CONFIG: folder / CONFIG, WEIGHTS: folder / WEIGHTS, PROMPT_FILE: prompt_file}
        with self._staging.staged() as staged:
            for name in file_names(card):
                if name == CARD:
                    (staged / name).write_text(card.to_json(), encoding="utf-8", newline="\n")
                else:
                    shutil.copyfile(sources[name], staged / name)
                sync(staged / name)
            (staged / MANIFEST).write_text(
                manifest_of(staged, file_names(card)), encoding="utf-8", newline="\n"
            )
            sync(staged / MANIFEST)
            manifest, digest = read_manifest(staged), sha256(staged / MANIFEST)
            if manifest[WEIGHTS][0] != card.adapter:
                raise Damaged(
                    f"{folder / WEIGHTS} is not the one that the card of {card.ref} gives the sha256 of."
                )
            if state.published.get(card.version) not in (None, digest):
                raise _other_bytes(card)
            for there, source in [*self._places.of_package(card.name), (target, "local")]:
                if there.name == card.version and _holds(there, source, manifest, card):
                    if source == "bundled":
                        self._places.show(card.name, card.version)
                    self._into(channel, Version(card, there, source), state)
                    return self.resolve(card.ref)
            self._staging.place(staged, target)
        into = channel if self._moves(channel, card, state) else None
        self.note(
            card.name,
            state,
            event("publish", card.version, channel=into, manifest=digest, origin=origin, reason=reason),
        )
        return self.resolve(card.ref)

    def _into(self, channel: str, version: Version, state: State) -> None:
        """Put a version that is there already into the channel that publishing it would have put it into."""
        if version.source == "local" and self._moves(channel, version.card, state):
            self.note(version.card.name, state, event("promote", version.card.version, channel=channel))

    def _moves(self, channel: str, card: Card, state: State) -> bool:
        """Whether publishing changes the channel: candidate always, stable by a number above the user's own ones."""
        if card.version in state.yanked or state.channels.get(channel) == card.version:
            return False
        if channel != STABLE:
            return True
        own = {folder.name for folder in version_folders(self.home / card.name)} - {card.version}
        rivals = {state.channels[STABLE]} if STABLE in state.channels else own
        return all(version_key(card.version) > version_key(other) for other in rivals & own)


def _free(folder: Path, state: State) -> bool:
    """Whether a version may be chosen though no channel means it: neither taken back nor still a candidate."""
    return folder.name not in state.yanked and state.channels.get(CANDIDATE) != folder.name


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
