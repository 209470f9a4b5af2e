"""The local store: immutable versions, published whole or not at all, beside the bundled read-only ones.

Layout: HOME/NAME/VERSION/ holds a version (registry/version.py), HOME/.hidden/NAME[@VERSION] hides bundled
ones, HOME/.tmp-* is a change under way, HOME/.lock serialises writers. Readers take no lock: a version
appears and disappears by one rename.
"""

from __future__ import annotations

import difflib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import home as user_home
from specialists.paths import write_atomic

from .adapter import WEIGHTS, check
from .card import PROMPT_FILE, PROMPT_REF, Card, name_fault, shown, version_key
from .lora_config import CONFIG
from .plain import card_of_plain
from .staging import Staging, folders, sync
from .version import (
    CARD,
    MANIFEST,
    Manifest,
    Version,
    check_small,
    file_names,
    load,
    manifest_of,
    read_card,
    read_manifest,
    read_prompt,
    sha256,
    verify,
)

__all__ = ["Store", "Version", "verify"]

Versions = list[Version]  # Store.list hides the builtin inside the class
Names = list[str]
Places = list[tuple[Path, str]]  # version folder, source

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
        self._staging = Staging(self.home)

    def list(self) -> Versions:
        """The version that each name resolves to, by name; half-written or damaged ones become problems."""
        self.problems = [
            f"{path} is a change under way or cut off; the next change to the store removes it."
            for path in self._staging.unfinished()
        ]
        return [version for name in self._names() if (version := next(self._sound(name), None))]

    def versions(self, name: str) -> Versions:
        """The sound versions of a name as resolve prefers them: own before bundled, newest first."""
        self._require(name)
        return list(self._sound(name))

    def resolve(self, ref: str) -> Version:
        """The version that "name" (the first sound one of versions) or "name@version" means.

        Raises BadInput when there is none, listing what there is, and Damaged when it is half-written or
        changed. The weights' own hash is left to verify(), to be called before loading them.
        """
        name, wanted = self._parse(ref)
        if wanted is None and (first := next(self._sound(name), None)):
            return first
        places = self._places(name)
        for place in places:
            if wanted in (None, place[0].name) and (version := load(*place)):
                return version
        self._require(name)
        there = ", ".join(dict.fromkeys(folder.name for folder, _ in places[:_SHOWN]))
        raise BadInput(f"The specialist {name!r} has no version {wanted}; it has: {there}.")

    def publish(self, folder: Path, card: Card) -> Version:
        """Copy the adapter in a folder into the store as the card's name and version, whole or not at all.

        Publishing the same bytes again changes nothing, or repairs what was harmed since; other bytes for the
        same name and version raise BadInput, a damaged adapter Damaged, an unwritable store Unavailable.
        """
        check(folder)
        if card.prompt == PROMPT_REF:
            read_prompt(folder / PROMPT_FILE)
        with self._staging.writing():
            return self._publish(folder, card, folder / PROMPT_FILE)

    def register(
        self,
        path: Path,
        name: str | None = None,
        exemplars: Path | None = None,
        prompt: str | None = None,
        parser: str | None = None,
        base: str | None = None,
    ) -> Version:
        """Add a specialist from a folder with a card, or from a plain PEFT adapter.

        A plain adapter needs a name, exemplars (a text file, one question a line) and a prompt (a name in
        PROMPTS or "file:PATH"); parser is "answer_line" unless given, base what the adapter's configuration
        says. It becomes version 1.0.0, or the next patch of the name's highest version; the name's present
        version again changes nothing. The name of a bundled specialist, as the path, undoes its unregister.
        """
        if not path.is_dir():
            if path.exists() or not self._bundled(str(path)):
                raise BadInput(f"There is no folder {path}; give a folder with {CONFIG} and {WEIGHTS}.")
            with self._staging.writing():
                self._show(str(path))
            return self.resolve(str(path))
        if (path / CARD).exists():
            card = read_card(path)
            if exemplars or prompt or parser or base or name not in (None, card.name):
                raise BadInput(
                    f"{path} has a card, for {card.ref}; leave out name, exemplars, prompt and the like."
                )
            if (path / MANIFEST).exists():
                check_small(path)
            return self.publish(path, card)
        card, prompt_file = card_of_plain(path, name, exemplars, prompt, parser, base)
        check(path)
        with self._staging.writing():
            present = next(self._sound(card.name), None)
            if present and _same(present, card, path, prompt_file):
                return self._publish(path, present.card, prompt_file)  # repairs harmed weights
            places = self._places(card.name) + self._bundled(card.name)
            if places:
                major, minor, patch = max(version_key(folder.name) for folder, _ in places)
                card = replace(card, version=f"{major}.{minor}.{patch + 1}")
            return self._publish(path, card, prompt_file)

    def unregister(self, ref: str) -> None:
        """Take away what "name" (all its versions) or "name@version" means, damaged or not.

        The user's versions are removed, bundled ones hidden. Raises BadInput when there are none.
        """
        name, wanted = self._parse(ref)
        with self._staging.writing():
            places = [place for place in self._places(name) if wanted in (None, place[0].name)]
            if not places:
                self.resolve(ref)  # raises, saying what there is
            for folder, source in places:
                if source == "local":
                    self._staging.discard(folder)
                else:
                    write_atomic(self.home / ".hidden" / ref, b"")
            if (self.home / name).is_dir() and not _version_folders(self.home / name):
                self._staging.discard(self.home / name)

    def _names(self) -> Names:
        """Every name that has versions to be seen, sound or not."""
        found = {path.name for home in (self.home, self.bundled) for path in folders(home)}
        return sorted(name for name in found if not name_fault(name) and self._places(name))

    def _bundled(self, name: str) -> Places:
        """The bundled versions of a name, hidden or not, newest first."""
        return (
            []
            if name_fault(name)
            else [(folder, "bundled") for folder in _version_folders(self.bundled / name)]
        )

    def _places(self, name: str) -> Places:
        """Where the versions of a name are, in the order resolve prefers them."""
        hidden = self.home / ".hidden"
        own: Places = [(folder, "local") for folder in _version_folders(self.home / name)]
        if (hidden / name).exists():
            return own
        return own + [
            place for place in self._bundled(name) if not (hidden / f"{name}@{place[0].name}").exists()
        ]

    def _sound(self, name: str) -> Iterator[Version]:
        """The versions of a name that load, each number once; what is wrong with others becomes a problem."""
        seen = set()
        for folder, source in self._places(name):
            try:
                version = load(folder, source)
            except Damaged as error:
                if str(error) not in self.problems:
                    self.problems.append(str(error))
                continue
            if version and folder.name not in seen:
                seen.add(folder.name)
                yield version

    def _parse(self, ref: str) -> tuple[str, str | None]:
        """Name and version of a reference to something that is here."""
        name, at, version = ref.partition("@")
        self._require(name)
        if at:
            version_key(version)
        return name, version if at else None

    def _require(self, name: str) -> None:
        """Raises BadInput, saying what there is, unless some version of this name can be seen."""
        if not name_fault(name) and self._places(name):
            return
        if self._bundled(name):
            raise BadInput(f"The bundled {name!r} was unregistered; `router register {name}` brings it back.")
        names = self._names()
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

    def _publish(self, folder: Path, card: Card, prompt_file: Path) -> Version:
        """Stage a version, then move it into place. The lock is held."""
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
            manifest = read_manifest(staged)
            if manifest[WEIGHTS][0] != card.adapter:
                raise Damaged(
                    f"{folder / WEIGHTS} is not the one that the card of {card.ref} gives the sha256 of."
                )
            for there, source in [*self._bundled(card.name), (target, "local")]:
                if there.name == card.version and _holds(there, source, manifest, card):
                    if source == "bundled":
                        self._show(card.name, card.version)
                    return Version(card, there, source)
            self._staging.place(staged, target)
        return Version(card, target, "local")

    def _show(self, name: str, version: str = "*") -> None:
        """Undo the hiding of a bundled name, or of one version of it."""
        hidden = self.home / ".hidden"
        for note in [hidden / name, *hidden.glob(f"{name}@{version}")]:
            note.unlink(missing_ok=True)


def _version_folders(home: Path) -> list[Path]:
    """The version folders of one name, newest first; folders that are no versions do not count."""
    found = []
    for path in folders(home):
        try:
            found.append((version_key(path.name), path))
        except BadInput:
            continue
    return [path for _, path in sorted(found, reverse=True)]


def _holds(folder: Path, source: str, manifest: Manifest, card: Card) -> bool:
    """Whether a sound version with these bytes is there already; BadInput when one with other bytes is."""
    try:
        others = read_manifest(folder) != manifest
    except Damaged:
        return False  # never finished
    if others:
        raise BadInput(f"{card.ref} exists with other bytes, and versions never change; use a new version.")
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
