"""Where the versions of a name are: the user's own folders, and the bundled ones that are not hidden."""

from __future__ import annotations

from pathlib import Path

from specialists.errors import BadInput
from specialists.paths import write_atomic

from .card import name_fault, version_key
from .staging import folders

Place = tuple[Path, str]  # a version folder, and its source: "local" or "bundled"


class Places:
    """HOME/NAME/VERSION are the user's own, BUNDLED/NAME/VERSION come with the package.

    HOME/.hidden/NAME hides all bundled versions of a name, HOME/.hidden/NAME@VERSION one of them.
    """

    def __init__(self, home: Path, bundled: Path) -> None:
        self.home, self.bundled = home, bundled
        self._hidden = home / ".hidden"

    def names(self) -> list[str]:
        """Every name that has versions to be seen, sound or not."""
        found = {path.name for home in (self.home, self.bundled) for path in folders(home)}
        return sorted(name for name in found if not name_fault(name) and self.of(name))

    def of(self, name: str) -> list[Place]:
        """The user's own versions of a name newest first, then the bundled ones that are not hidden."""
        own = [(folder, "local") for folder in version_folders(self.home / name)]
        if (self._hidden / name).exists():
            return own
        return own + [
            place
            for place in self.of_package(name)
            if not (self._hidden / f"{name}@{place[0].name}").exists()
        ]

    def of_package(self, name: str) -> list[Place]:
        """The bundled versions of a name, hidden or not, newest first."""
        if name_fault(name):
            return []
        return [(folder, "bundled") for folder in version_folders(self.bundled / name)]

    def hide(self, ref: str) -> None:
        """Hide what "name" or "name@version" means of the bundled ones."""
        write_atomic(self._hidden / ref, b"")

    def show(self, name: str, version: str = "*") -> None:
        """Undo the hiding of a bundled name, or of one version of it."""
        for note in [self._hidden / name, *self._hidden.glob(f"{name}@{version}")]:
            note.unlink(missing_ok=True)


def version_folders(home: Path) -> list[Path]:
    """The version folders of one name, newest first; folders that are no versions do not count."""
    found = []
    for path in folders(home):
        try:
            found.append((version_key(path.name), path))
        except BadInput:
            continue
    return [path for _, path in sorted(found, reverse=True)]
