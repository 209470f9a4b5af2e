"""Answers kept on disk by the request that brought them: the same request, the same answer, nothing paid."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from specialists.paths import write_atomic


class Kept:
    """Answers in `folder`, one file each, named by the hash of the request."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The kept answer; one that cannot be read, or is another request's, counts as not there."""
        try:
            entry = json.loads(self._place(request).read_bytes())
            if _canonical(entry["request"]) != _canonical(request):
                return None
            found: dict[str, Any] = entry["reply"]
            return found
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None

    def put(self, request: dict[str, Any], reply: dict[str, Any]) -> None:
        """Keep an answer, atomically."""
        write_atomic(
            self._place(request), json.dumps({"request": request, "reply": reply}, indent=1).encode()
        )

    def _place(self, request: dict[str, Any]) -> Path:
        key = key_of(request)
        return self.folder / key[:2] / f"{key}.json"


def key_of(request: dict[str, Any]) -> str:
    """What names a request: the sha256 of its canonical JSON, in hex."""
    return hashlib.sha256(_canonical(request).encode()).hexdigest()


def _canonical(request: dict[str, Any]) -> str:
    return json.dumps(request, sort_keys=True, separators=(",", ":"))
