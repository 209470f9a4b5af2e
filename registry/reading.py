"""What a store holds, and which version a reference means; nothing is changed here, and no lock is taken.

A version appears and disappears by one rename, so that readers see the whole of it or nothing. Its folder decides
whether it is there, its history (history.py) what is said of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import home as user_home

from .card import name_fault, shown, version_key
from .history import CANDIDATE, CHANNELS, STABLE, Histories, State, replay
from .places import Place, Places
from .staging import unfinished
from .version import MANIFEST, Version, load

Versions = list[Version]  # Reader.list hides the builtin inside the class
Names = list[str]

_SHOWN = 20  # names in a message


class Reader:
    """Every version that can be used, the user's own and the bundled; of one name, the user's come first.

    home: the user's store, by default specialists.paths.home()/registry. bundled: the read-only store, by default the
    one in this package. problems: what reading had to leave out since the last list(), one sentence each.
    """

    def __init__(self, home: Path | None = None, bundled: Path | None = None) -> None:
        self.home = home or user_home() / "registry"
        self.bundled = bundled or Path(str(files("registry") / "bundled"))
        self.problems: list[str] = []
        self.histories = Histories(self.home)
        self._places = Places(self.home, self.bundled)

    def list(self) -> Versions:
        """The version that each name resolves to, by name; half-written or damaged ones become problems."""
        self.problems = [
            f"{path} is a change under way or cut off; the next change to the store removes it."
            for path in unfinished(self.home)
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

    def is_bundled(self, name: str) -> bool:
        """Whether the package brings a specialist of this name, hidden or not."""
        return bool(self._places.of_package(name))

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


def _free(folder: Path, state: State) -> bool:
    """Whether a version may be chosen though no channel means it: neither taken back nor still a candidate."""
    return folder.name not in state.yanked and state.channels.get(CANDIDATE) != folder.name
