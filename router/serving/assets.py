"""The files of the page, by the path that they are served at."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


@cache
def assets() -> dict[str, tuple[bytes, str]]:
    """Path -> content and media type; "/" is index.html."""
    found = {}
    for file in (files("router.serving") / "page").iterdir():
        kind = _KINDS.get("." + file.name.rpartition(".")[2])
        if kind:
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = (file.read_bytes(), kind)
    return found
