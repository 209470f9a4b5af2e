"""What clients read: models, their files and their history."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from .access import TEAM, Access
from .card import MAX_CARD, front_matter, tags_of
from .git import Commit, Entry, GitFailed, Missing, Repository
from .http import Answer, Refused, Request, as_json, parse_json
from .lfs import pointer

_PATHS = 1000  # in one request


class Reading:
    """The answers to requests that change nothing."""

    def __init__(self, access: Access) -> None:
        self.access = access

    def whoami(self, request: Request) -> Answer:
        role = self.access.require_read(request)
        auth = {"type": "access_token", "accessToken": {"displayName": "token", "role": role}}
        return as_json({"type": "user", "name": TEAM, "fullname": TEAM, "orgs": [], "auth": auth})

    def models(self, request: Request) -> Answer:
        """Models by name. search: part of an id; filter: tags, all of which it has; author: its namespace."""
        text, author = request.first("search").lower(), request.first("author")
        tags = {tag for value in request.query.get("filter", []) for tag in value.split(",")}
        limit = request.first("limit")
        most = int(limit) if limit.isascii() and limit.isdecimal() and len(limit) < 10 else None
        found: list[dict[str, Any]] = []
        for id, repository in self.access.all(request):
            if len(found) == most:
                break
            if text in id.lower() and author in ("", id.split("/")[0]):
                try:
                    about = _model(id, repository, "main")
                except (GitFailed, Missing):
                    continue  # one that is damaged does not hide the others
                if tags <= set(about["tags"]):
                    found.append(about)
        return as_json(found)

    def info(self, request: Request, id: str, revision: str = "main") -> Answer:
        return as_json(_model(id, self.access.open(request, id), revision, request.flag("blobs")))

    def tree(self, request: Request, id: str, revision: str, below: str = "") -> Answer:
        """The files and folders in a folder, or everywhere below it."""
        repository = self.access.open(request, id)
        prefix = f"{below.rstrip('/')}/" if below else ""
        entries = repository.entries(repository.resolve(revision))
        if prefix and not any(entry.is_folder and f"{entry.path}/" == prefix for entry in entries):
            raise Refused(404, "There is no such folder.", "EntryNotFound")
        inside = [entry for entry in entries if entry.path.startswith(prefix)]
        if not request.flag("recursive"):
            inside = [entry for entry in inside if "/" not in entry.path.removeprefix(prefix)]
        return as_json([_listed(entry) for entry in inside])

    def paths(self, request: Request, id: str, revision: str) -> Answer:
        """The files and folders of those that were asked for which are there."""
        repository = self.access.open(request, id)
        body = request.body(1 << 20)
        asked: Any
        if request.headers.get_content_type() == "application/x-www-form-urlencoded":
            asked = request.form(body).get("paths", [])
        else:
            parsed = parse_json(body)
            asked = parsed.get("paths") if isinstance(parsed, dict) else None
        if not isinstance(asked, list) or len(asked) > _PATHS:
            raise Refused(400, f"Give a list of at most {_PATHS} paths.")
        wanted = {str(path).strip("/") for path in asked}
        entries = repository.entries(repository.resolve(revision))
        return as_json([_listed(entry) for entry in entries if entry.path in wanted])

    def commits(self, request: Request, id: str, revision: str) -> Answer:
        repository = self.access.open(request, id)
        log = repository.log(repository.resolve(revision))
        return as_json([_commit(commit) for commit in log], headers={"X-Total-Count": str(len(log))})

    def refs(self, request: Request, id: str) -> Answer:
        refs = self.access.open(request, id).refs()

        def listed(start: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(start), "ref": ref, "targetCommit": commit}
                for ref, commit in refs.items()
                if ref.startswith(start)
            ]

        return as_json(
            {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": [], "pullRequests": []}
        )  # fmt: skip

    def resolve(self, request: Request, id: str, revision: str, path: str) -> Answer:
        """A file, or the part of it that the Range header asks for."""
        repository = self.access.open(request, id)
        commit = repository.resolve(revision)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        entries = repository.entries(commit)
        entry = next((entry for entry in entries if entry.path == path and not entry.is_folder), None)
        if entry is None:
            raise Refused(404, "There is no such file.", "EntryNotFound", headers)
        etag = f'"{entry.lfs or entry.oid}"'
        headers |= {"ETag": etag, "Content-Type": "application/octet-stream"}
        if entry.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.size)}
        asked = _range(request.headers.get("Range", ""), entry.size)
        start, end = asked or (0, entry.size)
        if asked:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
        try:
            file = repository.open(entry)
        except Missing as error:
            raise Refused(404, "The bytes of this file are not here.", "EntryNotFound") from error
        file.seek(start)
        return Answer(status=206 if asked else 200, headers=headers, file=file, length=end - start)


def _model(id: str, repository: Repository, revision: str, with_blobs: bool = False) -> dict[str, Any]:
    """A model at a revision, as the Hub describes one."""
    (commit,) = repository.log(repository.resolve(revision), "-1")
    files = [entry for entry in repository.entries(commit.id) if not entry.is_folder]
    card = _card(repository, files)
    return {
        "_id": hashlib.sha1(id.encode()).hexdigest()[:24], "id": id, "modelId": id, "author": id.split("/")[0],
        "sha": commit.id, "private": repository.private, "gated": False, "disabled": False,
        "downloads": 0, "likes": 0, "lastModified": _date(commit.when), "createdAt": _date(repository.created),
        "cardData": card, "tags": tags_of(card), "library_name": card.get("library_name"),
        "pipeline_tag": card.get("pipeline_tag"),
        "siblings": [_sibling(entry) if with_blobs else {"rfilename": entry.path} for entry in files],
    }  # fmt: skip


def _card(repository: Repository, files: list[Entry]) -> dict[str, Any]:
    """The front matter of the README; empty where that is missing or makes no sense."""
    readme = next((entry for entry in files if entry.path == "README.md" and entry.size <= MAX_CARD), None)
    if readme is None:
        return {}
    with repository.open(readme) as file:
        text = file.read().decode("utf-8", "replace")
    try:
        return front_matter(text)
    except ValueError:
        return {}


def _listed(entry: Entry) -> dict[str, Any]:
    """A file or folder as the tree lists it."""
    kind = "directory" if entry.is_folder else "file"
    found: dict[str, Any] = {"type": kind, "path": entry.path, "size": entry.size, "oid": entry.oid}
    if entry.lfs:
        size = len(pointer(entry.lfs, entry.size))
        found["lfs"] = {"oid": entry.lfs, "size": entry.size, "pointerSize": size}
    return found


def _sibling(entry: Entry) -> dict[str, Any]:
    """A file as a model lists it."""
    found: dict[str, Any] = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    if entry.lfs:
        size = len(pointer(entry.lfs, entry.size))
        found["lfs"] = {"sha256": entry.lfs, "size": entry.size, "pointerSize": size}
    return found


def _commit(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.id,
        "title": commit.title,
        "message": commit.message,
        "date": _date(commit.when),
        "authors": [{"user": TEAM}],
    }


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _range(header: str, size: int) -> tuple[int, int] | None:
    """Where a Range begins and ends, the end not included; None without one. Raises Refused for one beyond the end."""
    match = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.strip())
    if not match or not (match[1] or match[2]):
        return None
    if match[1]:
        start, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    else:
        start, end = max(0, size - int(match[2])), size
    if start >= end:
        raise Refused(416, "There is nothing in this range.", headers={"Content-Range": f"bytes */{size}"})
    return start, end
