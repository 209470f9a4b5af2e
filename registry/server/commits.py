"""What the lines of a commit do, one file or folder each."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from .git import Entry, Repository
from .http import Refused
from .lfs import parse_pointer, pointer
from .names import is_file, is_sha256

LARGE = 1 << 20  # bytes above which any file is kept as a large one


@dataclass(frozen=True)
class Step:
    """A file that gets new content, as a blob that git has; without a blob, a file or folder that goes."""

    path: str
    blob: str | None = None
    is_folder: bool = False


def is_large(path: str, size: int) -> bool:
    """Whether a file is kept beside git, as git LFS does."""
    return size > LARGE or (size > 0 and path.endswith(".safetensors"))


def checked_path(path: object) -> str:
    """A path that a file may have. Raises Refused."""
    if not isinstance(path, str) or not is_file(path):
        raise Refused(400, f"No file may be called {str(path)[:100]!r} here.")
    return path


def operation(line: object) -> tuple[str, dict[str, Any]]:
    """Key and value of a line. Raises Refused."""
    key, value = (line.get("key"), line.get("value")) if isinstance(line, dict) else (None, None)
    if not isinstance(key, str) or not isinstance(value, dict):
        raise Refused(400, "A line of a commit has a key and a value.")
    return key, value


def step(repository: Repository, key: str, value: dict[str, Any]) -> Step:
    """What a line does; what it brings is kept already. Raises Refused."""
    match key:
        case "deletedFolder":
            return Step(checked_path(str(value.get("path")).rstrip("/")), is_folder=True)
        case "deletedFile":
            return Step(checked_path(value.get("path")))
        case "lfsFile":
            path, digest = checked_path(value.get("path")), str(value.get("oid"))
            size = repository.objects.size(digest) if is_sha256(digest) else None
            if size is None:
                raise Refused(400, f"The large file {path} has not arrived.")
            return Step(path, repository.blob(pointer(digest, size)))
        case "file":
            path = checked_path(value.get("path"))
            return Step(path, repository.blob(_kept(repository, path, _content(path, value))))
    raise Refused(400, f"This server cannot do {key[:40]!r}.")


def _content(path: str, value: dict[str, Any]) -> bytes:
    content = value.get("content")
    if not isinstance(content, str):
        raise Refused(400, f"The file {path} has no content.")
    try:
        if value.get("encoding") == "base64":
            return base64.b64decode(content, validate=True)
        return content.encode()
    except ValueError as error:
        raise Refused(400, f"The content of {path} cannot be decoded.") from error


def _kept(repository: Repository, path: str, data: bytes) -> bytes:
    """What git keeps of a file: itself, or a pointer to where it is kept beside git. Raises Refused."""
    if named := parse_pointer(data):
        if repository.objects.size(named[0]) != named[1]:
            raise Refused(400, f"The large file {path} has not arrived.")
        return data
    if is_large(path, len(data)):
        return pointer(str(repository.objects.receive([data])), len(data))
    return data


def files_after(entries: Iterable[Entry], steps: Iterable[Step]) -> dict[str, str | None]:
    """Path -> blob, or None to remove it, when all steps were taken in their order.

    Raises Refused for one that removes what is not there, or where a file would be a folder too.
    """
    there = {entry.path for entry in entries if not entry.is_folder}
    files: dict[str, str | None] = {}
    for step in steps:
        if step.blob:
            there.add(step.path)
            files[step.path] = step.blob
            continue
        below = f"{step.path}/"
        gone = {name for name in there if (name.startswith(below) if step.is_folder else name == step.path)}
        if not gone:
            raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        there -= gone
        files |= dict.fromkeys(gone)
    if any(str(folder) in there for name in there for folder in PurePosixPath(name).parents):
        raise Refused(400, "A file cannot be a folder too.")
    return files
