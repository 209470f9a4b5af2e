"""Where a running server is, so that `router ask` on the same machine finds it: HOME/server.json."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from specialists.errors import Unavailable
from specialists.paths import home, write_atomic


def announced_in() -> Path:
    """The file."""
    return home() / "server.json"


def read() -> dict[str, Any] | None:
    """What the last server said of itself, when that is still a process of this machine."""
    try:
        found = json.loads(announced_in().read_text(encoding="utf-8"))
        os.kill(int(found["pid"]), 0)
        return {"url": str(found["url"]), "needs_key": bool(found["needs_key"]), "pid": int(found["pid"])}
    except PermissionError:  # somebody else's process: not our server
        return None
    except (OSError, ValueError, TypeError, KeyError):
        return None


@dataclass
class Announcement:
    """The file is there inside `with`. Of two servers the later one is found."""

    url: str
    needs_key: bool

    def __enter__(self) -> Announcement:
        said = {"url": self.url, "needs_key": self.needs_key, "pid": os.getpid()}
        with suppress(Unavailable):  # it serves all the same
            write_atomic(announced_in(), json.dumps(said).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (found := read()) and found["pid"] == os.getpid():
            announced_in().unlink(missing_ok=True)
