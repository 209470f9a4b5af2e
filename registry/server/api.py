"""The part of the Hub's HTTP interface that its clients use to publish, find and fetch models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from .git import MAIN, ZERO, Change, Entry, Missing, Repository, Stale, pointer
from .http import Answer, Refused, Request, as_json

REGULAR = (
    16 << 20
)  # bytes up to which a file is kept in git itself, so that a client needs neither LFS nor xet
MAX_OBJECT = 4 << 30  # bytes of a large file
TEAM = "team"  # the namespace of those who name none

_COMPONENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_-])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID = r"(?P<id>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>[^/]+)"

Route = Callable[..., Answer]


class Api:
    """Answers requests from the repositories in a folder. tokens: token -> "read" or "write"; none: everyone reads."""

    def __init__(self, folder: Path, tokens: dict[str, str], writable: bool) -> None:
        self.folder, self.tokens, self.writable = folder, tokens, writable
        routes: list[tuple[str, str, Route]] = [
            ("GET", "/api/whoami-v2", self.whoami),
            ("GET", "/api/models", self.models),
            ("POST", "/api/validate-yaml", self.validate),
            ("POST", "/api/repos/create", self.create),
            ("DELETE", "/api/repos/delete", self.delete),
            ("PUT", f"/api/models/{_ID}/settings", self.settings),
            ("GET", f"/api/models/{_ID}", self.info),
            ("GET", f"/api/models/{_ID}/revision/{_REVISION}", self.info),
            ("GET", f"/api/models/{_ID}/tree/{_REVISION}(?:/(?P<below>.*))?", self.tree),
            ("POST", f"/api/models/{_ID}/paths-info/{_REVISION}", self.paths),
            ("GET", f"/api/models/{_ID}/commits/{_REVISION}", self.commits),
            ("GET", f"/api/models/{_ID}/refs", self.refs),
            ("POST", f"/api/models/{_ID}/(?P<kind>tag|branch)/{_REVISION}", self.add_ref),
            ("DELETE", f"/api/models/{_ID}/(?P<kind>tag|branch)/{_REVISION}", self.remove_ref),
            ("POST", f"/api/models/{_ID}/preupload/{_REVISION}", self.preupload),
            ("POST", f"/api/models/{_ID}/commit/{_REVISION}", self.commit),
            ("GET", f"/api/models/{_ID}/xet-(?:read|write)-token/{_REVISION}", self.xet),
            ("POST", rf"/{_ID}\.git/info/lfs/objects/batch", self.batch),
            ("PUT", rf"/{_ID}\.git/info/lfs/objects/(?P<digest>[^/]+)", self.upload),
            ("GET", f"/{_ID}/resolve/{_REVISION}/(?P<path>.+)", self.resolve),
        ]
        self._routes = [(method, re.compile(path), route) for method, path, route in routes]

    def answer(self, request: Request) -> Answer:
        """The answer to a request; every error is an answer too."""
        method = "GET" if request.method == "HEAD" else request.method
        try:
            for wanted, pattern, route in self._routes:
                match = pattern.fullmatch(request.path)
                if match and wanted == method:
                    return route(
                        request, **{name: value for name, value in match.groupdict().items() if value}
                    )
            raise Refused(404, "This server has no such page.")
        except Refused as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
            headers = {name: value for name, value in headers.items() if value}
            if error.status == 401:
                headers["WWW-Authenticate"] = "Bearer"
            return as_json({"error": error.message}, error.status, headers)
        except Missing:
            return as_json(
                {"error": "There is no such revision or file."}, 404, {"X-Error-Code": "RevisionNotFound"}
            )
        except OSError as error:
            if isinstance(error, ConnectionError):
                raise
            return as_json({"error": "The server could not do this; its log says why."}, 500)

    # Who may do what.

    def _role(self, request: Request) -> str | None:
        if not self.tokens:
            return "write" if self.writable else "read"
        return self.tokens.get(request.token or "")

    def _may_write(self, request: Request) -> None:
        role = self._role(request)
        if role is None:
            raise Refused(401, "A token is needed.")
        if role != "write":
            why = "This token may only read." if self.tokens else "This server is read-only."
            raise Refused(403, why)

    def _repository(self, request: Request, id: str, write: bool = False) -> Repository:
        if self._role(request) is None:
            raise Refused(401, "A token is needed.", "RepoNotFound")
        repository = Repository(self._folder(id))
        if not (repository.folder / "hub.json").is_file() or (
            repository.private and not self._knows(request)
        ):
            raise Refused(401 if not request.token else 404, "There is no such repository.", "RepoNotFound")
        if write:
            self._may_write(request)
        return repository

    def _knows(self, request: Request) -> bool:
        """Whether a private repository is shown: to holders of a token, or where whoever comes may write."""
        return bool(self.tokens) or self.writable

    def _folder(self, id: str) -> Path:
        parts = id.split("/")
        if len(parts) != 2 or not all(map(_component, parts)):
            raise Refused(400, "A repository is ORG/NAME, of letters, digits, dots, dashes and underscores.")
        return self.folder / parts[0] / f"{parts[1]}.git"

    # Repositories.

    def whoami(self, request: Request) -> Answer:
        role = self._role(request)
        if role is None or (self.tokens and not request.token):
            raise Refused(401, "A token is needed.")
        token = {"accessToken": {"displayName": "token", "role": role}}
        return as_json(
            {
                "type": "user",
                "name": TEAM,
                "fullname": TEAM,
                "orgs": [],
                "auth": {"type": "access_token", **token},
            }
        )

    def models(self, request: Request) -> Answer:
        """Repositories by name; search: part of an id; filter: a tag of the model card; author: the namespace."""
        if self._role(request) is None:
            raise Refused(401, "A token is needed.")
        text = request.query.get("search", [""])[0].lower()
        author = request.query.get("author", [""])[0]
        tags = {tag for value in request.query.get("filter", []) for tag in value.split(",")}
        limit = int(request.query.get("limit", ["1000"])[0])
        found: list[dict[str, Any]] = []
        for folder in sorted(self.folder.glob("*/*.git")):
            id = f"{folder.parent.name}/{folder.name.removesuffix('.git')}"
            if (
                folder.parent.name.startswith(".")
                or text not in id.lower()
                or author not in ("", folder.parent.name)
            ):
                continue
            repository = Repository(folder)
            if repository.private and not self._knows(request):
                continue
            about = self._about(id, repository, "main")
            if tags <= set(about["tags"]) and len(found) < limit:
                found.append(about)
        return as_json(found)

    def create(self, request: Request) -> Answer:
        self._may_write(request)
        asked = request.json()
        id = f"{asked.get('organization') or TEAM}/{asked.get('name')}"
        if asked.get("type", "model") not in (None, "model"):
            raise Refused(400, "This server keeps models only.")
        private = asked.get("private") is True or asked.get("visibility") == "private"
        url = {"url": f"{self._root(request)}/{id}", "name": id, "id": id}
        folder = self._folder(id)
        try:
            if folder.exists():
                raise Stale
            Repository.create(folder, private)
        except Stale as error:
            raise Refused(409, "You already created this model repo") from error
        return as_json(url)

    def delete(self, request: Request) -> Answer:
        self._may_write(request)
        asked = request.json()
        self._repository(
            request, f"{asked.get('organization') or TEAM}/{asked.get('name')}", write=True
        ).delete()
        return as_json({})

    def settings(self, request: Request, id: str) -> Answer:
        repository = self._repository(request, id, write=True)
        asked = request.json()
        if "private" in asked or "visibility" in asked:
            repository.private = asked.get("private") is True or asked.get("visibility") == "private"
        return as_json({"private": repository.private})

    # Reading.

    def info(self, request: Request, id: str, revision: str = "main") -> Answer:
        return as_json(self._about(id, self._repository(request, id), revision))

    def _about(self, id: str, repository: Repository, revision: str) -> dict[str, Any]:
        commit = repository.resolve(revision)
        entries = repository.entries(commit)
        card = _front_matter(repository, entries)
        tags = card.get("tags")
        ((_, _, when),) = repository.log(commit)[:1]
        return {
            "_id": hashlib.sha1(id.encode()).hexdigest()[:24], "id": id, "modelId": id, "author": id.split("/")[0],
            "sha": commit, "private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "lastModified": _date(when), "createdAt": _date(when), "cardData": card,
            "tags": [str(tag) for tag in tags] if isinstance(tags, list) else [],
            "siblings": [_sibling(entry) for entry in entries],
        }  # fmt: skip

    def tree(self, request: Request, id: str, revision: str, below: str = "") -> Answer:
        repository = self._repository(request, id)
        entries = repository.entries(repository.resolve(revision))
        prefix = f"{below.rstrip('/')}/" if below else ""
        entries = [entry for entry in entries if entry.path.startswith(prefix)]
        if below and not entries:
            raise Refused(404, f"There is no folder {below}.", "EntryNotFound")
        whole = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        folders = {
            f"{prefix}{'/'.join(rest[:depth])}"
            for entry in entries
            for rest in [entry.path.removeprefix(prefix).split("/")]
            for depth in range(1, len(rest) if whole else min(2, len(rest)))
        }
        shown = [entry for entry in entries if whole or "/" not in entry.path.removeprefix(prefix)]
        listing = [
            {"type": "directory", "oid": ZERO, "size": 0, "path": folder} for folder in sorted(folders)
        ]
        return as_json(listing + [_listed(entry) for entry in shown])

    def paths(self, request: Request, id: str, revision: str) -> Answer:
        repository = self._repository(request, id)
        asked = request.json().get("paths", [])
        wanted = {asked} if isinstance(asked, str) else set(map(str, asked))
        entries = repository.entries(repository.resolve(revision))
        return as_json([_listed(entry) for entry in entries if entry.path in wanted])

    def commits(self, request: Request, id: str, revision: str) -> Answer:
        repository = self._repository(request, id)
        log = repository.log(repository.resolve(revision))
        return as_json(
            [
                {"id": sha, "title": title, "message": "", "date": _date(when), "authors": [{"user": TEAM}]}
                for sha, title, when in log
            ],
            headers={"X-Total-Count": str(len(log))},
        )

    def refs(self, request: Request, id: str) -> Answer:
        repository = self._repository(request, id)

        def listed(kind: str) -> list[dict[str, str]]:
            return [
                {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}
                for name, sha in repository.refs(kind).items()
            ]

        return as_json({"branches": listed("heads"), "tags": listed("tags"), "converts": []})

    def resolve(self, request: Request, id: str, revision: str, path: str) -> Answer:
        repository = self._repository(request, id)
        commit = repository.resolve(revision)
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        entry = next((entry for entry in repository.entries(commit) if entry.path == path), None)
        if entry is None:
            answer = as_json(
                {"error": "There is no such file."}, 404, {"X-Error-Code": "EntryNotFound", **headers}
            )
            return answer
        etag = f'"{entry.lfs or entry.oid}"'
        headers |= {"ETag": etag, "Content-Type": "application/octet-stream"}
        if entry.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(entry.size)}
        start, end = _range(request.headers.get("Range", ""), entry.size)
        partial = (start, end) != (0, entry.size)
        if partial:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{entry.size}"
        file = repository.open(entry)
        file.seek(start)
        return Answer(status=206 if partial else 200, headers=headers, file=file, length=end - start)

    # Writing.

    def add_ref(self, request: Request, id: str, kind: str, revision: str) -> Answer:
        """Of a tag `revision` is what it is put on, of a branch its name."""
        repository = self._repository(request, id, write=True)
        asked = request.json()
        name, start = (
            (asked.get("tag"), revision)
            if kind == "tag"
            else (revision, asked.get("startingPoint") or "main")
        )
        if not isinstance(name, str) or not _component(name):
            raise Refused(400, "This is no name for a tag or branch.")
        try:
            repository.set_ref(
                f"refs/{'tags' if kind == 'tag' else 'heads'}/{name}", repository.resolve(str(start))
            )
        except Stale as error:
            raise Refused(409, f"The {kind} {name} is there already.") from error
        return as_json({}, 201)

    def remove_ref(self, request: Request, id: str, kind: str, revision: str) -> Answer:
        repository = self._repository(request, id, write=True)
        refs = "tags" if kind == "tag" else "heads"
        if revision not in repository.refs(refs) or (kind, revision) == ("branch", "main"):
            raise Refused(404, f"There is no {kind} {revision} that could be removed.", "RevisionNotFound")
        repository.set_ref(f"refs/{refs}/{revision}", None)
        return as_json({})

    def preupload(self, request: Request, id: str, revision: str) -> Answer:
        repository = self._repository(request, id, write=True)
        repository.resolve(revision)
        answers = []
        for file in request.json().get("files", []):
            size = file.get("size", 0)
            mode = "lfs" if isinstance(size, int) and size > REGULAR else "regular"
            answers.append({"path": str(file.get("path")), "uploadMode": mode, "shouldIgnore": False})
        return as_json({"files": answers, "commitOid": repository.resolve(revision)})

    def xet(self, request: Request, id: str, revision: str) -> Answer:
        raise Refused(
            501, f"Set HF_HUB_DISABLE_XET=1: this server takes files over {REGULAR >> 20} MB by plain LFS."
        )

    def batch(self, request: Request, id: str) -> Answer:
        asked = request.json()
        uploading = asked.get("operation") == "upload"
        repository = self._repository(request, id, write=uploading)
        answers: list[dict[str, Any]] = []
        for object in asked.get("objects", []):
            digest, size = object.get("oid"), object.get("size")
            if not isinstance(digest, str) or not _SHA256.fullmatch(digest) or not isinstance(size, int):
                raise Refused(422, "An object is named by its sha256 and its size.")
            answer: dict[str, Any] = {"oid": digest, "size": size}
            here = repository.object(digest).exists()
            action = {"href": f"{self._root(request)}/{id}.git/info/lfs/objects/{digest}"}
            if uploading and not here:
                answer["actions"] = {"upload": action}
            elif not uploading:
                answer |= (
                    {"actions": {"download": action}}
                    if here
                    else {"error": {"code": 404, "message": "not here"}}
                )
            answers.append(answer)
        return as_json({"transfer": "basic", "objects": answers, "hash_algo": "sha256"})

    def upload(self, request: Request, id: str, digest: str) -> Answer:
        # The address came from batch(), which asked for the token; a client sends none to it, so it names its content.
        repository = Repository(self._folder(id))
        if not _SHA256.fullmatch(digest) or not repository.folder.is_dir():
            raise Refused(404, "There is no such object.")
        if self.tokens and request.token is not None or not self.tokens:
            self._may_write(request)
        if not repository.receive(digest, request.blocks(MAX_OBJECT)):
            raise Refused(400, "The bytes are not those of the sha256 they were announced with.")
        return as_json({})

    def commit(self, request: Request, id: str, revision: str) -> Answer:
        repository = self._repository(request, id, write=True)
        try:
            lines = [json.loads(line) for line in request.body().splitlines() if line.strip()]
            header = next(line["value"] for line in lines if line["key"] == "header")
            parent, title = header.get("parentCommit"), str(header.get("summary") or "commit")
            head = repository.resolve(revision)
            entries = repository.entries(head)
            changes = [change for line in lines for change in _changes(repository, entries, line)]
        except (ValueError, KeyError, TypeError, StopIteration, AttributeError) as error:
            raise Refused(400, "This is not a commit of the Hub.") from error
        ref = f"refs/heads/{revision}"
        if ref != MAIN and revision not in repository.refs("heads"):
            raise Refused(404, f"There is no branch {revision}.", "RevisionNotFound")
        message = f"{title}\n\n{header.get('description') or ''}".strip() + "\n"
        for _ in range(10):
            if parent is not None and parent != head:
                break
            try:
                new = repository.commit(ref, changes, message, head)
                url = f"{self._root(request)}/{id}/commit/{new}"
                return as_json({"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})
            except Stale:
                head = repository.resolve(revision)
        raise Refused(412, "A commit has happened since. Please refresh and try again.")

    def validate(self, request: Request) -> Answer:
        """A model card's front matter: is it YAML?"""
        content = str(request.json().get("content", ""))
        try:
            yaml.safe_load(content.split("---")[1] if content.startswith("---") else "")
        except (yaml.YAMLError, IndexError):
            return as_json({"errors": [{"message": "The front matter is not YAML."}], "warnings": []})
        return as_json({"errors": [], "warnings": []})

    def _root(self, request: Request) -> str:
        return f"http://{request.headers.get('Host', 'localhost')}"


def _component(name: str) -> bool:
    return bool(_COMPONENT.fullmatch(name)) and ".." not in name and not name.endswith((".git", ".lock"))


def _safe(path: object) -> str:
    """A path inside a repository. Raises ValueError for one that could leave it or mean something to git."""
    if not isinstance(path, str) or not 0 < len(path) <= 500 or not path.isprintable() or "\\" in path:
        raise ValueError("path")
    parts = path.split("/")
    if any(
        part in ("", ".", "..") or part.lower().startswith(".git") and part != ".gitattributes"
        for part in parts
    ):
        raise ValueError("path")
    return path


def _changes(repository: Repository, entries: list[Entry], line: dict[str, Any]) -> list[Change]:
    """What a line of a commit changes. Raises ValueError for a large file that did not arrive."""
    value = line["value"]
    match line["key"]:
        case "header":
            return []
        case "file":
            if value.get("encoding", "base64") != "base64":
                return [Change(_safe(value["path"]), str(value["content"]).encode())]
            return [Change(_safe(value["path"]), base64.b64decode(value["content"], validate=True))]
        case "lfsFile":
            digest = str(value["oid"])
            if not _SHA256.fullmatch(digest) or not repository.object(digest).is_file():
                raise ValueError("object")
            size = repository.object(digest).stat().st_size
            return [Change(_safe(value["path"]), pointer(digest, size))]
        case "deletedFile":
            return [Change(_safe(value["path"]))]
        case "deletedFolder":
            prefix = f"{_safe(value['path'].rstrip('/'))}/"
            return [Change(entry.path) for entry in entries if entry.path.startswith(prefix)]
        case _:
            raise ValueError("key")


def _front_matter(repository: Repository, entries: list[Entry]) -> dict[str, Any]:
    readme = next((entry for entry in entries if entry.path == "README.md" and entry.size < 1 << 20), None)
    if readme is None:
        return {}
    with repository.open(readme) as file:
        text = file.read().decode("utf-8", "replace")
    try:
        found = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (yaml.YAMLError, IndexError):
        return {}
    return json.loads(json.dumps(found, default=str)) if isinstance(found, dict) else {}


def _large(entry: Entry) -> dict[str, Any]:
    return {
        "oid": entry.lfs,
        "sha256": entry.lfs,
        "size": entry.size,
        "pointerSize": len(pointer(entry.lfs or "", entry.size)),
    }


def _listed(entry: Entry) -> dict[str, Any]:
    """A file as the tree lists it."""
    found = {"type": "file", "path": entry.path, "size": entry.size, "oid": entry.oid}
    return found | ({"lfs": _large(entry)} if entry.lfs else {})


def _sibling(entry: Entry) -> dict[str, Any]:
    """A file as a model lists it."""
    found = {"rfilename": entry.path, "size": entry.size, "blobId": entry.oid}
    return found | ({"lfs": _large(entry)} if entry.lfs else {})


def _date(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _range(header: str, size: int) -> tuple[int, int]:
    """Where a Range begins and ends, the end not included; the whole file without one."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", header.strip())
    if not match or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if start >= size > 0:
        raise Refused(416, "The range begins after the file's end.")
    return start, min(size, int(match[2]) + 1 if match[2] else size)
