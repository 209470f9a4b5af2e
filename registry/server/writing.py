"""What clients change: repositories, branches and tags, files."""

from __future__ import annotations

from threading import Lock
from typing import Any

from .access import TEAM, Access
from .card import MAX_CARD, front_matter
from .commits import Step, files_after, operation, step
from .git import MAIN, ZERO, Repository, Stale
from .http import MAX_JSON, Answer, Refused, Request, as_json, parse_json
from .names import is_commit, is_ref

MAX_README = 4 << 20  # bytes of a request to look at one
_ATTEMPTS = 10  # commits tried while other processes commit to the same branch


class Writing:
    """The answers to requests that change something."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._committing = Lock()  # threads take turns; git itself keeps other processes out

    def create(self, request: Request) -> Answer:
        self.access.require_write(request)
        asked = request.json()
        if asked.get("type") not in (None, "model"):
            raise Refused(400, "This server keeps models only.")
        id = _named(asked)
        repository = self.access.repository(id)
        url = {"url": f"{request.root}/{id}", "name": id, "id": id}
        try:
            if repository.exists:
                raise Stale
            repository.create(_private(asked))
        except Stale:
            return as_json({"error": "You already created this model repo", **url}, 409)
        return as_json(url)

    def delete(self, request: Request) -> Answer:
        self.access.require_write(request)
        self.access.open(request, _named(request.json()), write=True).delete()
        return as_json({})

    def settings(self, request: Request, id: str) -> Answer:
        repository = self.access.open(request, id, write=True)
        asked = request.json()
        if "private" in asked or "visibility" in asked:
            repository.private = _private(asked)
        return as_json({"private": repository.private})

    def add_ref(self, request: Request, id: str, kind: str, revision: str) -> Answer:
        """Of a tag, `revision` is what it is put on; of a branch, it is its name."""
        repository = self.access.open(request, id, write=True)
        asked = request.json()
        name, start = (
            (asked.get("tag"), revision) if kind == "tag" else (revision, asked.get("startingPoint", "main"))
        )
        if not isinstance(name, str) or not is_ref(name):
            raise Refused(400, f"A {kind} is named by letters, digits, dots, dashes and underscores.")
        try:
            repository.set_ref(_ref(kind, name), repository.resolve(str(start)), ZERO)
        except Stale as error:
            raise Refused(409, f"The {kind} {name} is there already.") from error
        return as_json({}, 201)

    def remove_ref(self, request: Request, id: str, kind: str, revision: str) -> Answer:
        repository = self.access.open(request, id, write=True)
        ref = _ref(kind, revision)
        old = repository.refs().get(ref)
        if old is None:
            raise Refused(404, f"There is no such {kind}.", "RevisionNotFound")
        if ref == MAIN:
            raise Refused(403, "The branch main cannot be removed.")
        try:
            repository.set_ref(ref, None, old)
        except Stale as error:
            raise Refused(409, f"The {kind} has moved since.") from error
        return as_json({})

    def commit(self, request: Request, id: str, revision: str) -> Answer:
        repository = self.access.open(request, id, write=True)
        header: dict[str, Any] | None = None
        steps: list[Step] = []
        for line in request.lines(MAX_JSON):
            if line.strip():
                key, value = operation(parse_json(line))
                if key == "header":
                    header = value
                else:
                    steps.append(step(repository, key, value))
        if header is None:
            raise Refused(400, "A commit has a header.")
        message = f"{header.get('summary') or 'commit'}\n\n{header.get('description') or ''}".strip() + "\n"
        parent = header.get("parentCommit")
        if parent is not None and not (isinstance(parent, str) and is_commit(parent.lower())):
            raise Refused(400, "The parent is not a commit.")
        new = self._commit(repository, _ref("branch", revision), parent, steps, message)
        url = f"{request.root}/{id}/commit/{new}"
        return as_json({"success": True, "commitOid": new, "commitUrl": url, "hookOutput": ""})

    def _commit(
        self, repository: Repository, ref: str, parent: str | None, steps: list[Step], message: str
    ) -> str:
        """Put the steps on a branch: on `parent` only, or else on whatever its head is by then."""
        for _ in range(_ATTEMPTS):
            with self._committing:
                head = repository.refs().get(ref)
                if head is None:
                    raise Refused(404, "There is no such branch.", "RevisionNotFound")
                if parent is not None and not head.startswith(parent.lower()):
                    break
                try:
                    return repository.commit(ref, head, files_after(repository.entries(head), steps), message)
                except Stale:
                    continue
        raise Refused(412, "A commit has happened since. Please refresh and try again.")

    def validate(self, request: Request) -> Answer:
        """Whether a model card's front matter can be read. The client asks this without its token."""
        try:
            front_matter(str(request.json(MAX_README).get("content", ""))[:MAX_CARD])
        except ValueError as error:
            return as_json({"errors": [{"message": str(error)}], "warnings": []}, 400)
        return as_json({"errors": [], "warnings": []})


def _named(asked: dict[str, Any]) -> str:
    return f"{asked.get('organization') or TEAM}/{asked.get('name')}"


def _private(asked: dict[str, Any]) -> bool:
    return asked.get("private") is True or asked.get("visibility") == "private"


def _ref(kind: str, name: str) -> str:
    return f"refs/{'tags' if kind == 'tag' else 'heads'}/{name}"
