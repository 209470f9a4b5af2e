"""What lies below a folder, to tell whether anything changed."""

from __future__ import annotations

import subprocess
from pathlib import Path

from registry.server import HubServer
from registry.version import Version


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def bytes_of(version: Version) -> dict[str, bytes]:
    """The files of a version."""
    return {file.name: file.read_bytes() for file in version.path.iterdir()}


def fsck(server: HubServer) -> None:
    """Raises unless git finds every repository of a small Hub whole."""
    for folder in server.api.folder.glob("*/*.git"):
        subprocess.run(["git", "fsck", "--strict"], cwd=folder, check=True, capture_output=True)
