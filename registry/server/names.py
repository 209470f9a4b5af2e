"""Which names are let in: of repositories, files, branches and tags. What comes from a client is hostile until here."""

from __future__ import annotations

import re

_COMPONENT = re.compile(r"[A-Za-z0-9._-]{1,96}")
_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DEPTH = 16  # folders in one another


def _plain(part: str) -> bool:
    """Whether this is a name that no file system, no shell and no git reads in a way of its own."""
    return bool(_COMPONENT.fullmatch(part)) and ".." not in part and part[0] != "-" and part[-1] != "."


def is_name(part: str) -> bool:
    """Whether an organisation, a model, a branch or a tag may be called this."""
    return _plain(part) and part[0] != "." and not part.endswith((".git", ".lock"))


def is_ref(name: str) -> bool:
    """Whether a branch or tag may be called this; never what could mean something else, such as a commit id."""
    return is_name(name) and not is_commit(name) and name != "HEAD"


def is_commit(text: str) -> bool:
    """Whether this is a commit id, or the start of one."""
    return bool(_COMMIT.fullmatch(text))


def is_sha256(text: object) -> bool:
    return isinstance(text, str) and bool(_SHA256.fullmatch(text))


def is_file(path: object) -> bool:
    """Whether a file may be stored under this path; of git's own files only its attributes and what it ignores."""
    if not isinstance(path, str) or path.count("/") > _DEPTH:
        return False
    return all(
        _plain(part) and (part in (".gitattributes", ".gitignore") or not part.lower().startswith(".git"))
        for part in path.split("/")
    )
