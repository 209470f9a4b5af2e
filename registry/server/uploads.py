"""How files come in: which ones inside a commit, and how the others are sent on their own."""

from __future__ import annotations

import hmac
import re
import secrets
import time
from collections.abc import Iterable
from typing import Any

from .access import Access
from .commits import checked_path, is_large
from .git import Entry
from .http import Answer, Refused, Request, as_json
from .names import is_sha256

MAX_OBJECT = 4 << 30  # bytes of a large file
INLINE = 44 << 20  # bytes of files that fit into the JSON of one commit
UPLOAD_SECONDS = 24 * 3600  # for which the address to upload to is good
_MAX_FILES = 1000  # in one request


class Uploads:
    """The answers to requests that bring files."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._secret = secrets.token_bytes(32)

    def preupload(self, request: Request, id: str, revision: str) -> Answer:
        """For each file, whether it comes on its own ("lfs") or inside the commit ("regular").

        The Hub's Python client would send every "lfs" file by xet, which this server does not speak, and no answer
        can talk it out of that. So it is told to send inside the commit what fits there, and the server itself makes
        a large file of what is one.
        """
        repository = self.access.open(request, id, write=True)
        there = {entry.path: entry for entry in repository.entries(repository.resolve(revision))}
        left = INLINE if "hf_hub/" in request.headers.get("User-Agent", "") else 0
        answers = []
        for path, size in _asked_files(request.json()):
            large = is_large(path, size)
            inline = not large or size <= left
            left -= size if large and inline else 0
            old = there.get(path, Entry(path, "", 0))
            # By this id the client leaves out what has not changed: of git's blob, or the sha256 when it sends by LFS.
            oid = (None if old.lfs else old.oid or None) if inline else old.lfs
            mode = "regular" if inline else "lfs"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return as_json({"files": answers})

    def xet(self, request: Request, id: str, revision: str) -> Answer:
        """Say that there is no xet here; of all that is sent, its client shows the status line only."""
        self.access.open(request, id, write=True)
        why = f"Set HF_HUB_DISABLE_XET=1: more than {INLINE >> 20} MB at once come by plain LFS here"
        return Answer(why.encode(), 501, {"Content-Type": "text/plain"}, reason=why)

    def batch(self, request: Request, id: str) -> Answer:
        """Where to send large files to; nowhere for those that are here."""
        repository = self.access.open(request, id, write=True)
        asked = request.json()
        objects = asked.get("objects")
        if asked.get("operation") != "upload" or not isinstance(objects, list) or len(objects) > _MAX_FILES:
            raise Refused(422, "Only uploads go this way.")
        answers: list[dict[str, Any]] = []
        for object in objects:
            digest, size = _object(object)
            answer: dict[str, Any] = {"oid": digest, "size": size}
            if size > MAX_OBJECT:
                answer["error"] = {"code": 413, "message": f"A file may have {MAX_OBJECT} bytes."}
            elif repository.objects.size(digest) != size:
                until = int(time.time()) + UPLOAD_SECONDS
                place = f"{request.root}/{id}.git/info/lfs/objects"
                key = self._key(id, digest, size, until)
                answer["actions"] = {
                    "upload": {"href": f"{place}/{digest}?size={size}&until={until}&key={key}"},
                    "verify": {"href": f"{place}/verify"},
                }
            answers.append(answer)
        return as_json({"transfer": "basic", "objects": answers, "hash_algo": "sha256"})

    def upload(self, request: Request, id: str, digest: str) -> Answer:
        """Take a large file. Clients send no token to the address that batch() gave them, so it holds its own key."""
        size, until = (_number(request.first(name)) for name in ("size", "until"))
        key = self._key(id, digest, size, until)
        if not hmac.compare_digest(key.encode(), request.first("key").encode()):
            raise Refused(403, "Ask for an address to upload to.")
        if until < time.time():
            raise Refused(403, "This address has expired: upload again.")
        if request.length(MAX_OBJECT) != size:
            raise Refused(400, "This is not as long as it was announced.")
        repository = self.access.repository(id)
        if not repository.exists:
            raise Refused(404, "There is no such repository.", "RepoNotFound")
        if not repository.objects.receive(request.blocks(MAX_OBJECT), digest):
            raise Refused(400, "The bytes are not those of the sha256 that they were announced with.")
        return as_json({})

    def verify(self, request: Request, id: str) -> Answer:
        repository = self.access.open(request, id, write=True)
        digest, size = _object(request.json())
        if repository.objects.size(digest) != size:
            raise Refused(404, "This file has not arrived.")
        return as_json({})

    def _key(self, id: str, digest: str, size: int, until: int) -> str:
        return hmac.new(self._secret, f"{id} {digest} {size} {until}".encode(), "sha256").hexdigest()


def _number(text: str) -> int:
    """A number in an address; -1 for anything else."""
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else -1


def _object(asked: object) -> tuple[str, int]:
    """sha256 and size of a large file. Raises Refused."""
    digest, size = (asked.get("oid"), asked.get("size")) if isinstance(asked, dict) else (None, None)
    if not isinstance(digest, str) or not is_sha256(digest) or not isinstance(size, int) or size < 0:
        raise Refused(422, "A large file is named by its sha256 and its size.")
    return digest, size


def _asked_files(asked: dict[str, Any]) -> Iterable[tuple[str, int]]:
    """Path and size of the files that are to come. Raises Refused."""
    files = asked.get("files")
    if not isinstance(files, list) or len(files) > _MAX_FILES:
        raise Refused(400, f"Give a list of at most {_MAX_FILES} files.")
    for file in files:
        path, size = (file.get("path"), file.get("size")) if isinstance(file, dict) else (None, None)
        if not isinstance(size, int) or size < 0:
            raise Refused(400, "A file has a path and a size.")
        yield checked_path(path), size
