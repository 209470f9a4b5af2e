"""Large files as git LFS keeps them: named by their sha256 beside the repository, with a pointer in git."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..staging import sync

_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,15})\n"
)
POINTER_SIZES = range(120, 150)  # bytes that a pointer has


def pointer(digest: str, size: int) -> bytes:
    """What git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()


def parse_pointer(blob: bytes) -> tuple[str, int] | None:
    """The sha256 and size that a pointer names; None for anything else."""
    match = _POINTER.fullmatch(blob)
    return (match[1].decode(), int(match[2])) if match else None


class Objects:
    """The large files of one repository. staging: a folder of the same file system, where they arrive."""

    def __init__(self, folder: Path, staging: Path) -> None:
        self.folder, self.staging = folder, staging

    def path(self, digest: str) -> Path:
        """Where a file lies, or would."""
        return self.folder / digest[:2] / digest[2:4] / digest

    def size(self, digest: str) -> int | None:
        """Bytes of a file; None when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def receive(self, blocks: Iterable[bytes], digest: str | None = None) -> str | None:
        """Keep a file as it arrives, and return its sha256; None, and nothing kept, when that is not `digest`."""
        found = hashlib.sha256()
        handle, name = tempfile.mkstemp(dir=self.staging)
        try:
            with os.fdopen(handle, "wb") as file:
                for block in blocks:
                    found.update(block)
                    file.write(block)
                file.flush()
                os.fsync(file.fileno())
            if digest not in (None, found.hexdigest()):
                return None
            target = self.path(found.hexdigest())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(name, target)
            sync(target.parent)
            return target.name
        finally:
            Path(name).unlink(missing_ok=True)
