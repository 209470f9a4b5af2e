"""Names that our own Hub lets nobody use: of files, repositories and revisions."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server import HubServer
from registry.server.names import is_file, is_ref

from .told import DIGEST, ID, ask, commit, file, outside

pytestmark = pytest.mark.usefixtures("rooms")


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/x", "a//b", "", ".", "a/.", "-x", "a/-x", ".git/config", "a/.GIT/hooks/x", ".gitmodules",
     "a\\b", "a\0b", "a\nb", "a b", "é", "x" * 97, "a/" * 20 + "b", "x.", None, 7, ["a"]],
)  # fmt: skip
def test_no_file_leaves_its_repository(server: HubServer, path: Any) -> None:
    before = outside(server)
    assert commit(server, file(path)) == 400
    assert commit(server, ("deletedFile", {"path": path})) == 400
    assert commit(server, ("lfsFile", {"path": path, "oid": DIGEST})) == 400
    assert outside(server) == before


@pytest.mark.parametrize(
    "id",
    ["../x", "..%2fx", "%2e%2e/x", "acme/..", "acme/%2e%2e%2f%2e%2e%2fx", ".staging/x", "acme/-x", "acme/.x",
     "acme/x.git", "acme/a..b", "acme/a%00b", "acme/a%252fb", "acme/" + "x" * 97],
)  # fmt: skip
def test_no_repository_leaves_the_folder(server: HubServer, id: str) -> None:
    organisation, _, name = id.replace("%2e", ".").replace("%2f", "/").replace("%00", "\0").partition("/")
    before = outside(server)
    made = ask(server, "POST", "/api/repos/create", {"organization": organisation, "name": name})
    assert made[0] == 400 and outside(server) == before
    for path in (f"/api/models/{id}", f"/{id}/resolve/main/config", f"/api/models/{id}/tree/main"):
        status, _, body = ask(server, "GET", path)
        assert status in (400, 401, 404) and b"[core]" not in body


@pytest.mark.parametrize(
    "revision", ["-h", "--all", "main^", "@", "..", "refs%2Fheads%2Fmain", "%00", "a%20b"]
)
def test_no_revision_is_an_option_or_an_expression(server: HubServer, revision: str) -> None:
    status, headers, _ = ask(server, "GET", f"/api/models/{ID}/revision/{revision}")
    assert (status, headers.get("x-error-code")) == (404, "RevisionNotFound")
    assert ask(server, "POST", f"/api/models/{ID}/branch/{revision}", {})[0] == 400
    assert ask(server, "POST", f"/api/models/{ID}/tag/main", {"tag": revision})[0] == 400


def test_head_is_no_name(server: HubServer) -> None:
    assert ask(server, "POST", f"/api/models/{ID}/branch/HEAD", {})[0] == 400


@given(st.text(max_size=40), st.text(alphabet="ab./-\\ \0\n%~:^@{", max_size=20))
def test_names_that_are_let_in_are_harmless(any: str, odd: str) -> None:
    for text in (any, odd):
        if is_file(text):
            assert os.path.normpath(text) == text and not os.path.isabs(text) and text.isascii()
            assert all(part.lower() != ".git" and part[0] != "-" for part in text.split("/"))
        if is_ref(text):
            done = subprocess.run(["git", "check-ref-format", f"refs/heads/{text}"], check=False)
            assert done.returncode == 0 and text[0] not in "-."


def test_what_is_in_a_tree_but_no_file_is_not_served(server: HubServer) -> None:
    """A link and a submodule, as only somebody with the disk could have put them there."""
    folder = server.api.folder / f"{ID}.git"

    def git(*arguments: str, data: bytes = b"") -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, input=data, check=True, capture_output=True)
        return done.stdout.decode().strip()

    link = git("hash-object", "-w", "--stdin", data=b"/etc/passwd")
    head = git("rev-parse", "main")
    tree = git("mktree", data=f"120000 blob {link}\tlink\n160000 commit {head}\tmodule\n".encode())
    git("-c", "user.name=a", "-c", "user.email=a", "commit-tree", tree, "-m", "x")
    new = git("-c", "user.name=a", "-c", "user.email=a", "commit-tree", tree, "-p", head, "-m", "x")
    git("update-ref", "refs/heads/main", new)
    _, _, listed = ask(server, "GET", f"/api/models/{ID}/tree/main?recursive=true")
    assert json.loads(listed) == []
    assert json.loads(ask(server, "GET", f"/api/models/{ID}")[2])["siblings"] == []
    for name in ("link", "module"):
        status, headers, _ = ask(server, "GET", f"/{ID}/resolve/main/{name}")
        assert (status, headers["x-error-code"]) == (404, "EntryNotFound")
