"""Changes to a folder of folders that are made whole or not at all, even if the process is killed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from specialists.errors import Unavailable

_PREFIX = ".tmp-"
_WAIT = 60.0  # seconds to wait for another process that is writing


class Staging:
    """One writer at a time: new folders are filled beside the others and renamed into place."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lock = FileLock(home / ".lock", timeout=_WAIT)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock; what an earlier writer left behind when it was killed is removed first.

        Raises Unavailable when another process keeps the lock, or when the disk is full or cannot be written.
        """
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with self._lock:
                for path in unfinished(self.home):  # only a writer makes these, and there is no other now
                    shutil.rmtree(path, ignore_errors=True)
                yield
        except Timeout as error:
            raise Unavailable(
                f"Another process has been writing to {self.home} for {_WAIT:g} s; try again when it is done."
            ) from error
        except OSError as error:
            raise Unavailable(
                f"Could not write to {self.home} ({error.strerror}); free some space, or make it writable."
            ) from error

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """A new empty folder, removed at the end unless place() has moved it."""
        path = self._aside()
        try:
            path.mkdir()
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def place(self, staged: Path, target: Path) -> None:
        """Move a folder, whose files are on disk, to where readers look, in place of what is there."""
        sync(staged)
        if target.exists():
            self.discard(target)
        target.parent.mkdir(exist_ok=True)
        os.rename(staged, target)
        sync(target.parent)
        sync(self.home)

    def discard(self, folder: Path) -> None:
        """Remove a folder so that no reader ever sees a part of it."""
        aside = self._aside()
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)

    def _aside(self) -> Path:
        return self.home / f"{_PREFIX}{secrets.token_hex(8)}"


def unfinished(home: Path) -> list[Path]:
    """The folders of a change under way, or of one that was cut off."""
    return [path for path in folders(home) if path.name.startswith(_PREFIX)]


def folders(home: Path) -> list[Path]:
    """The folders in a folder by name, or none when it is not there."""
    try:
        with os.scandir(home) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def sync(path: Path) -> None:
    """Force a file or a folder to disk; Windows cannot open folders, and orders renames itself."""
    if os.name != "posix" and path.is_dir():
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
