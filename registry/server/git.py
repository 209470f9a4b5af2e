"""One model's repository: bare git, driven by its plumbing, with large files beside it as git LFS keeps them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from specialists.errors import Unavailable
from specialists.paths import write_atomic

MAIN = "refs/heads/main"
ZERO = "0" * 40
_POINTER = re.compile(
    rb"version https://git-lfs\.github\.com/spec/v1\noid sha256:([0-9a-f]{64})\nsize ([0-9]{1,15})\n"
)
_SETTINGS = "hub.json"
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "specialist-router",
    "GIT_AUTHOR_EMAIL": "hub@localhost",
    "GIT_COMMITTER_NAME": "specialist-router",
    "GIT_COMMITTER_EMAIL": "hub@localhost",
}


class Stale(Exception):
    """A ref is not where a change expected it."""


class Missing(Exception):
    """No such revision or file."""


@dataclass(frozen=True)
class Entry:
    """A file of a commit. oid: of its git blob; lfs: sha256 of the large file it stands for; size: in bytes."""

    path: str
    oid: str
    size: int
    lfs: str | None = None


@dataclass(frozen=True)
class Change:
    """What a commit does to a file: small content, or a large file that is here already, or None to remove it."""

    path: str
    content: bytes | None = None


def pointer(digest: str, size: int) -> bytes:
    """What git keeps in place of a large file."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {size}\n".encode()


class Repository:
    """A bare repository in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, private: bool) -> None:
        """A repository with one commit, there as a whole or not at all. Raises Stale when it is there already."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        try:
            new = cls(made)
            new._git("init", "--quiet", "--bare", "--initial-branch=main")
            write_atomic(made / _SETTINGS, json.dumps({"private": private}).encode())
            new.commit(MAIN, [Change(".gitattributes", b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")],
                       "initial commit", None)  # fmt: skip
            try:
                os.rename(made, folder)
            except OSError as error:
                raise Stale from error
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def delete(self) -> None:
        """Remove the repository at once."""
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=self.folder.parent))
        os.rename(self.folder, aside / "old")
        shutil.rmtree(aside, ignore_errors=True)

    @property
    def private(self) -> bool:
        return bool(json.loads((self.folder / _SETTINGS).read_text(encoding="utf-8"))["private"])

    @private.setter
    def private(self, value: bool) -> None:
        write_atomic(self.folder / _SETTINGS, json.dumps({"private": value}).encode())

    def resolve(self, revision: str) -> str:
        """The commit of a branch, tag or (the start of) a commit id. Raises Missing."""
        names = [f"refs/heads/{revision}", f"refs/tags/{revision}"]
        if re.fullmatch(r"[0-9a-f]{7,40}", revision):
            names.append(revision)
        for name in names:
            done = self._run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
            if done.returncode == 0:
                return done.stdout.decode().strip()
        raise Missing(revision)

    def entries(self, commit: str) -> list[Entry]:
        """The files of a commit by path; links and submodules are passed over."""
        found = []
        for line in self._git("ls-tree", "-r", "-l", "-z", commit).split(b"\0")[:-1]:
            about, path = line.split(b"\t", 1)
            mode, kind, oid, size = about.split()
            if kind == b"blob" and mode != b"120000":
                found.append(Entry(path.decode("utf-8", "replace"), oid.decode(), int(size)))
        small = [entry.oid for entry in found if 100 < entry.size < 200]
        large = {
            oid: match for oid, blob in self._blobs(small).items() if (match := _POINTER.fullmatch(blob))
        }
        return [
            Entry(entry.path, entry.oid, int(large[entry.oid][2]), large[entry.oid][1].decode())
            if entry.oid in large
            else entry
            for entry in found
        ]

    def open(self, entry: Entry) -> BinaryIO:
        """A file's bytes. Raises Missing when a large file never arrived."""
        if entry.lfs:
            try:
                return self.object(entry.lfs).open("rb")
            except OSError as error:
                raise Missing(entry.path) from error
        return io.BytesIO(self._git("cat-file", "blob", entry.oid))

    def log(self, commit: str) -> list[tuple[str, str, int]]:
        """(id, title, seconds since 1970) of a commit and those before it, newest first."""
        lines = (
            self._git("log", "--format=%H%x00%ct%x00%s", commit, "--").decode("utf-8", "replace").splitlines()
        )
        parts = [line.split("\0", 2) for line in lines]
        return [(sha, title, int(when)) for sha, when, title in parts]

    def refs(self, kind: str) -> dict[str, str]:
        """Name -> commit of all "heads" or "tags"."""
        listing = self._git("for-each-ref", "--format=%(refname) %(objectname)", f"refs/{kind}/").decode()
        pairs = [line.split(" ") for line in listing.splitlines()]
        return {name.removeprefix(f"refs/{kind}/"): sha for name, sha in pairs}

    def set_ref(self, ref: str, new: str | None, old: str = ZERO) -> None:
        """Move a ref from one commit to another; None removes it, ZERO means that it is not there. Raises Stale."""
        arguments = ["-d", ref] if new is None else [ref, new, old]
        if self._run("update-ref", *arguments).returncode:
            raise Stale(ref)

    def commit(self, ref: str, changes: Iterable[Change], message: str, parent: str | None) -> str:
        """Put a commit on a branch that is at `parent` and still is in the end; its id. Raises Stale."""
        with tempfile.TemporaryDirectory() as temporary:
            index = {"GIT_INDEX_FILE": str(Path(temporary) / "index")}
            if parent:
                self._git("read-tree", parent, extra=index)
            lines = []
            for change in changes:
                if change.content is None:
                    lines.append(f"0 {ZERO}\t{change.path}")
                else:
                    oid = self._git("hash-object", "-w", "--stdin", data=change.content).decode().strip()
                    lines.append(f"100644 {oid}\t{change.path}")
            self._git(
                "update-index",
                "-z",
                "--index-info",
                data="".join(f"{line}\0" for line in lines).encode(),
                extra=index,
            )
            tree = self._git("write-tree", extra=index).decode().strip()
        parents = ["-p", parent] if parent else []
        new = self._git("commit-tree", tree, *parents, data=message.encode()).decode().strip()
        self.set_ref(ref, new, parent or ZERO)
        return new

    def object(self, digest: str) -> Path:
        """Where a large file lies."""
        return self.folder / "lfs" / "objects" / digest[:2] / digest[2:4] / digest

    def receive(self, digest: str, blocks: Iterable[bytes]) -> bool:
        """Keep a large file if its sha256 is this one."""
        target = self.object(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        found = hashlib.sha256()
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".part-") as file:
            for block in blocks:
                found.update(block)
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            if found.hexdigest() != digest:
                return False
            if not target.exists():
                os.link(file.name, target)
        return True

    def _blobs(self, oids: Sequence[str]) -> dict[str, bytes]:
        if not oids:
            return {}
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
            raise OSError(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()[:300]}")
        return done.stdout

    def _run(
        self, *arguments: str, data: bytes = b"", extra: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **_ENVIRONMENT, **(extra or {}), "GIT_DIR": str(self.folder)}
        return subprocess.run(
            ["git", *arguments], input=data, capture_output=True, env=environment, check=False
        )


def require_git() -> None:
    """Raises Unavailable where there is no git."""
    if not shutil.which("git"):
        raise Unavailable("Serving a registry needs git, which is not installed here; install it.")
