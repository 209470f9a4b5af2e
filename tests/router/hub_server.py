"""A read-only Hub on loopback, enough for the real huggingface_hub client to take snapshots from.

Repositories are folders; each state added to one becomes a commit whose id is a hash of its content. The last
one added is `main`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .loopback import Handler, Loopback

_INFO = re.compile(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+))?")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


class HubServer(Loopback):
    """with HubServer() as hub: commit = hub.add("org/name", folder); then point HF_ENDPOINT at hub.url."""

    def __init__(self) -> None:
        self.commits: dict[
            tuple[str, str], Path
        ] = {}  # (id, revision) -> folder; "main" is one of the revisions
        self.shas: dict[tuple[str, str], str] = {}
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range header
        self.cut_at = 0  # bytes after which a longer body breaks off, as often as `cuts` says
        self.cuts = 0
        self.on_cut: Callable[[], object] = lambda: None  # called before the connection is closed
        self.gated: set[str] = set()
        super().__init__(self._handler())

    def add(self, id: str, folder: Path) -> str:
        """Serve a folder as the newest commit of a repository; returns the commit."""
        names = [f"{path.relative_to(folder)} {_digest(path)}" for path in _files(folder)]
        sha = hashlib.sha1("\n".join(names).encode()).hexdigest()
        for revision in ("main", sha):
            self.commits[id, revision] = folder
            self.shas[id, revision] = sha
        return sha

    def _handler(hub) -> type[Handler]:  # noqa: N805 - `self` is the request's below
        class Answers(Handler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append((self.command, path, self.headers.get("Range", "")))
                match = _INFO.fullmatch(path) or _FILE.fullmatch(path)
                if not match or not any(id == match[1] for id, _ in hub.commits):
                    self.refuse(404, "RepoNotFound")
                elif match[1] in hub.gated:
                    self.refuse(403, "GatedRepo")
                elif match.re is _FILE:
                    self.file(match[1], match[2], match[3])
                elif (match[1], match[3] or "main") not in hub.commits:
                    self.refuse(404, "RevisionNotFound")
                else:
                    wanted = match[1], match[3] or "main"
                    folder, sha = hub.commits[wanted], hub.shas[wanted]
                    listing = [_entry(folder, file) for file in _files(folder)]
                    siblings = [_sibling(entry) for entry in listing]
                    info = {
                        "_id": sha[:24],
                        "id": match[1],
                        "modelId": match[1],
                        "sha": sha,
                        "siblings": siblings,
                    }
                    self.reply(200, json.dumps(listing if match[2] == "tree" else info).encode())

            def file(self, id: str, revision: str, name: str) -> None:
                path = hub.commits[id, revision] / name
                if not path.is_file():
                    return self.refuse(404, "EntryNotFound")
                data = path.read_bytes()
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
                headers = {"ETag": f'"{_digest(path)}"', "X-Repo-Commit": hub.shas[id, revision]}
                if start:
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                self.reply(206 if start else 200, data[start:], headers)

            def refuse(self, status: int, code: str) -> None:
                self.reply(status, b"{}", {"X-Error-Code": code})

            def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "HEAD":
                    return
                if hub.cuts and len(body) > hub.cut_at:
                    hub.cuts -= 1
                    self.close_connection = True
                    self.wfile.write(body[: hub.cut_at])
                    hub.on_cut()
                else:
                    self.wfile.write(body)

        return Answers


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    """One file as the tree API lists it; weights are in LFS, so their blob is named by SHA-256."""
    size, digest = path.stat().st_size, _digest(path)
    entry: dict[str, Any] = {"type": "file", "path": path.relative_to(folder).as_posix(), "size": size}
    entry["oid"] = hashlib.sha1(path.read_bytes()).hexdigest()
    if path.suffix == ".safetensors":
        entry["lfs"] = {"oid": digest, "size": size, "pointerSize": 134}
    return entry


def _sibling(entry: dict[str, Any]) -> dict[str, Any]:
    """The same file as the model API lists it when asked for blobs."""
    large = entry.get("lfs")
    made = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
    return made | (
        {"lfs": {"sha256": large["oid"], "size": large["size"], "pointerSize": 134}} if large else {}
    )
