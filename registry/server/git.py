"""One model's repository: bare git, driven by its plumbing, with large files beside it."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from specialists.errors import Unavailable
from specialists.paths import write_atomic

from .lfs import POINTER_SIZES, Objects, parse_pointer
from .names import is_commit

MAIN = "refs/heads/main"
ZERO = "0" * 40
_SETTINGS = "hub.json"
_ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_ENVIRONMENT = {
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "1",  # a ref must not outlive a power cut that its objects do not
    "GIT_CONFIG_KEY_0": "core.fsync",
    "GIT_CONFIG_VALUE_0": "committed,reference",
    "GIT_AUTHOR_NAME": "specialist-router",
    "GIT_AUTHOR_EMAIL": "hub@localhost",
    "GIT_COMMITTER_NAME": "specialist-router",
    "GIT_COMMITTER_EMAIL": "hub@localhost",
}


class Stale(Exception):
    """A ref is not where a change expected it."""


class Missing(Exception):
    """No such revision, or file of one."""


class GitFailed(Exception):
    """git could not do what it was asked to."""


@dataclass(frozen=True)
class Entry:
    """A file or folder of a commit. oid: git's own id; lfs: sha256 of the large file it stands for; size: in bytes."""

    path: str
    oid: str
    size: int
    lfs: str | None = None
    is_folder: bool = False


@dataclass(frozen=True)
class Commit:
    """A commit; `when` is in seconds since 1970."""

    id: str
    when: int
    title: str
    message: str


class Repository:
    """A bare repository in a folder. staging: where changes are prepared, on the same file system."""

    def __init__(self, folder: Path, staging: Path) -> None:
        self.folder, self.staging = folder, staging
        self.objects = Objects(folder / "lfs" / "objects", staging)

    def create(self, private: bool) -> None:
        """Make it with one commit, whole or not at all. Raises Stale when it is there already."""
        made = Path(tempfile.mkdtemp(dir=self.staging))
        try:
            new = Repository(made, self.staging)
            new._git("init", "--quiet", "--bare", "--initial-branch=main", "--template=")
            new._save({"private": private, "created": int(time.time())})
            new.commit(MAIN, None, {".gitattributes": new.blob(_ATTRIBUTES)}, "initial commit\n")
            self.folder.parent.mkdir(exist_ok=True)
            try:
                os.rename(made, self.folder)
            except OSError as error:
                if self.folder.exists():
                    raise Stale from error
                raise
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def delete(self) -> None:
        """Remove it so that nobody ever sees a part of it."""
        aside = Path(tempfile.mkdtemp(dir=self.staging))
        os.rename(self.folder, aside / "deleted")
        shutil.rmtree(aside, ignore_errors=True)

    @property
    def exists(self) -> bool:
        return (self.folder / _SETTINGS).is_file()

    @property
    def private(self) -> bool:
        return bool(self._settings()["private"])

    @private.setter
    def private(self, value: bool) -> None:
        self._save({**self._settings(), "private": value})

    @property
    def created(self) -> int:
        """Seconds since 1970."""
        return int(self._settings()["created"])

    def refs(self) -> dict[str, str]:
        """Commit of every branch and tag, by its full name."""
        lines = self._git(
            "for-each-ref", "--format=%(refname) %(objectname) %(*objectname)", "refs/heads/", "refs/tags/"
        )
        # What an annotated tag points to comes last.
        return {line.split()[0]: line.split()[-1] for line in lines.decode().splitlines()}

    def resolve(self, revision: str) -> str:
        """The commit of a branch, a tag, (the start of) a commit id, or HEAD, which is main. Raises Missing."""
        if is_commit(revision):
            done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.decode().strip()
        else:
            refs = self.refs()
            name = "main" if revision == "HEAD" else revision
            for ref in (f"refs/heads/{name}", f"refs/tags/{name}"):
                if ref in refs:
                    return refs[ref]
        raise Missing(revision)

    def entries(self, commit: str) -> list[Entry]:
        """The files and folders of a commit by path; links and submodules are passed over."""
        found = []
        for line in self._git("ls-tree", "-r", "-t", "-l", "-z", commit).split(b"\0")[:-1]:
            about, path = line.split(b"\t", 1)
            mode, kind, oid, size = about.split()
            if kind == b"tree":
                found.append(Entry(path.decode("utf-8", "replace"), oid.decode(), 0, is_folder=True))
            elif mode in (b"100644", b"100755"):
                found.append(Entry(path.decode("utf-8", "replace"), oid.decode(), int(size)))
        blobs = self._blobs(
            [entry.oid for entry in found if entry.size in POINTER_SIZES and not entry.is_folder]
        )
        large = {oid: named for oid, blob in blobs.items() if (named := parse_pointer(blob))}
        return [
            Entry(entry.path, entry.oid, large[entry.oid][1], large[entry.oid][0])
            if entry.oid in large
            else entry
            for entry in found
        ]

    def open(self, entry: Entry) -> BinaryIO:
        """A file's bytes. Raises Missing when a large file is not here as a whole."""
        if not entry.lfs:
            return io.BytesIO(self._git("cat-file", "blob", entry.oid))
        if self.objects.size(entry.lfs) != entry.size:
            raise Missing(entry.path)
        return self.objects.path(entry.lfs).open("rb")

    def log(self, commit: str, *limit: str) -> list[Commit]:
        """A commit and those before it, newest first. limit: as git log has it, such as "-1"."""
        listing = self._git("log", "-z", "--format=tformat:%H%x00%ct%x00%s%x00%b", *limit, commit, "--")
        parts = listing.decode("utf-8", "replace").split("\0")[:-1]
        rows = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
        return [Commit(id, int(when), title, message.strip()) for id, when, title, message in rows]

    def set_ref(self, ref: str, new: str | None, old: str) -> None:
        """Move a ref from `old`; None removes it, and ZERO means that it is not there. Raises Stale."""
        arguments = ["-d", "--", ref, old] if new is None else ["--", ref, new, old]
        try:
            self._git("update-ref", *arguments)
        except GitFailed as error:
            if self.refs().get(ref, ZERO) == old:
                raise  # nobody moved it, so that trying again is no help: a lock was left behind, or the disk is full
            raise Stale(ref) from error

    def blob(self, data: bytes) -> str:
        """Keep a small file; its id."""
        return self._git("hash-object", "-w", "--stdin", data=data).decode().strip()

    def commit(self, ref: str, parent: str | None, files: Mapping[str, str | None], message: str) -> str:
        """Put a commit on a branch that is at `parent` and still is in the end; its id.

        files: path -> blob, or None to remove it. A commit that changes nothing is not made: its parent's id is
        returned. Raises Stale.
        """
        with tempfile.TemporaryDirectory(dir=self.staging) as temporary:
            index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
            if parent:
                self._git("read-tree", parent, extra=index)
            gone = [f"0 {ZERO}\t{path}\0" for path, blob in files.items() if not blob]
            new = [f"100644 {blob}\t{path}\0" for path, blob in files.items() if blob]
            # What goes comes first, for a folder may take the place of a file.
            self._git("update-index", "-z", "--index-info", data="".join(gone + new).encode(), extra=index)
            tree = self._git("write-tree", extra=index).decode().strip()
        if parent and tree == self._git("rev-parse", "--verify", f"{parent}^{{tree}}").decode().strip():
            return parent
        parents = ["-p", parent] if parent else []
        text = message.replace("\0", " ").encode("utf-8", "replace")
        made = self._git("commit-tree", *parents, tree, data=text).decode().strip()
        self.set_ref(ref, made, parent or ZERO)
        return made

    def _settings(self) -> dict[str, int]:
        return json.loads((self.folder / _SETTINGS).read_text(encoding="utf-8"))

    def _save(self, settings: Mapping[str, int]) -> None:
        write_atomic(self.folder / _SETTINGS, json.dumps(settings).encode())

    def _blobs(self, oids: Sequence[str]) -> dict[str, bytes]:
        """Small files by their ids."""
        out = self._git("cat-file", "--batch", data="".join(f"{oid}\n" for oid in oids).encode())
        found, at = {}, 0
        for oid in oids:
            end = out.index(b"\n", at)
            size = int(out[at:end].split()[2])
            found[oid] = out[end + 1 : end + 1 + size]
            at = end + size + 2
        return found

    def _git(self, *arguments: str, data: bytes = b"", extra: Mapping[str, str] | None = None) -> bytes:
        done = self._run(*arguments, data=data, extra=extra)
        if done.returncode:
            raise GitFailed(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()[:300]}")
        return done.stdout

    def _run(
        self, *arguments: str, data: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        environment = {**inherited, **_ENVIRONMENT, **(extra or {}), "GIT_DIR": str(self.folder)}
        return subprocess.run(
            ["git", *arguments], input=data, capture_output=True, env=environment, check=False
        )


def require_git() -> None:
    """Raises Unavailable where there is no git."""
    if not shutil.which("git"):
        raise Unavailable("Serving a registry needs git, which is not installed here: install git.")
