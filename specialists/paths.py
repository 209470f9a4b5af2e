"""Where things live on disk, and how a file is written so that it is either whole or not there."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

from .errors import Unavailable


def home() -> Path:
    """Registered specialists and settings: $ROUTER_HOME, else the platform's user data folder."""
    return Path(os.environ.get("ROUTER_HOME") or user_data_path("specialist-router", appauthor=False))


def cache() -> Path:
    """What can be made again, such as converted weights: $ROUTER_CACHE, else the platform's user cache folder."""
    return Path(os.environ.get("ROUTER_CACHE") or user_cache_path("specialist-router", appauthor=False))


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, fsync, rename: a reader sees the old bytes or the new ones, never a part.

    Raises Unavailable when the folder cannot be written or the disk is full; nothing is left behind.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise Unavailable(
            f"Could not write {path} ({error.strerror}); free some space, or make {path.parent} writable."
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def stamp(path: Path) -> object:
    """What changes whenever a file is written or replaced; None while there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
