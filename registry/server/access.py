"""Who may see and change which repository."""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from pathlib import Path

from .git import Repository
from .http import Refused, Request
from .names import is_name

TEAM = "team"  # the namespace of those who name none


class Access:
    """The repositories in a folder, as FOLDER/ORG/NAME.git, opened for those who may.

    tokens: token -> "read" or "write"; with tokens every request needs one, which then opens private repositories
    too. Without, everyone reads what is public, and only where all may write what is private.
    """

    def __init__(self, folder: Path, tokens: Mapping[str, str], writable: bool) -> None:
        self.folder, self.tokens, self.writable = folder, tokens, writable
        self.staging = folder / ".staging"
        self.staging.mkdir(parents=True, exist_ok=True)

    def require_read(self, request: Request) -> str:
        """What the request may do, "read" or "write". Raises Refused when nothing."""
        if not self.tokens:
            return "write" if self.writable else "read"
        given = (request.token or "").encode()
        for token, role in self.tokens.items():
            if hmac.compare_digest(token.encode(), given):
                return role
        if request.token:
            # The client takes a 401 without these words for a repository that is not there.
            message = "Invalid credentials in Authorization header"
            raise Refused(401, message, headers={"X-Error-Message": message})
        raise Refused(401, "A token is needed.", headers={"WWW-Authenticate": "Bearer"})

    def require_write(self, request: Request) -> None:
        """Raises Refused unless the request may write."""
        if self.require_read(request) != "write":
            message = "This token may only read." if self.tokens else "This server is read-only."
            raise Refused(403, message, headers={"X-Error-Message": message})

    def repository(self, id: str) -> Repository:
        """The repository of an id, there or not. Raises Refused for an id that no repository may have."""
        organisation, _, name = id.partition("/")
        if not is_name(organisation) or not is_name(name):
            raise Refused(400, "A repository is ORG/NAME, of letters, digits, dots, dashes and underscores.")
        return Repository(self.folder / organisation / f"{name}.git", self.staging)

    def open(self, request: Request, id: str, write: bool = False) -> Repository:
        """A repository that is there and may be seen. Raises Refused."""
        if write:
            self.require_write(request)
        else:
            self.require_read(request)
        repository = self.repository(id)
        if not repository.exists or not self._shows(repository):
            # As on the Hub, what is private looks like what is not there.
            raise Refused(404 if request.token else 401, "There is no such repository.", "RepoNotFound")
        return repository

    def all(self, request: Request) -> Iterator[tuple[str, Repository]]:
        """Id and repository of everything that may be seen, by name."""
        self.require_read(request)
        for folder in sorted(self.folder.glob("*/*.git")):
            id = f"{folder.parent.name}/{folder.name.removesuffix('.git')}"
            if all(map(is_name, id.split("/"))):
                repository = self.repository(id)
                if repository.exists and self._shows(repository):
                    yield id, repository

    def _shows(self, repository: Repository) -> bool:
        return bool(self.tokens) or self.writable or not repository.private
