"""What our own Hub lets nobody do, asked of it in plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import subprocess
import time
import tracemalloc
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.server import HubServer, http, reading, uploads
from registry.server.names import is_file, is_ref

ID = "acme/rooms"
DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", writable=True) as running:
        create(running)
        yield running


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "guarded", tokens={"r": "read", "w": "write"}) as running:
        yield running


def ask(
    server: HubServer, method: str, path: str, body: Any = None, token: str | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer; a body that is neither bytes nor a file is sent as JSON."""
    connection = HTTPConnection(server.url.removeprefix("http://"), timeout=20)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if body is not None and not isinstance(body, bytes) and not hasattr(body, "read"):
        body = json.dumps(body).encode()
    try:
        connection.request(
            method, path, body, {name.replace("_", "-"): text for name, text in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def create(server: HubServer, token: str | None = None, **more: Any) -> None:
    status, _, _ = ask(
        server, "POST", "/api/repos/create", {"organization": "acme", "name": "rooms", **more}, token
    )
    assert status == 200


def lines(*steps: tuple[str, Any], **header: Any) -> bytes:
    """A commit as clients send it."""
    rows = [("header", {"summary": "s", **header}), *steps]
    return b"\n".join(json.dumps({"key": key, "value": value}).encode() for key, value in rows)


def file(path: Any, data: bytes = b"x") -> tuple[str, Any]:
    return "file", {"path": path, "content": base64.b64encode(data).decode(), "encoding": "base64"}


def commit(server: HubServer, *steps: tuple[str, Any], **header: Any) -> int:
    return ask(server, "POST", f"/api/models/{ID}/commit/main", lines(*steps, **header))[0]


def address(server: HubServer, size: int = len(DATA), digest: str = DIGEST) -> str:
    """Where to send a large file to."""
    asked = {"operation": "upload", "objects": [{"oid": digest, "size": size}]}
    _, _, answer = ask(server, "POST", f"/{ID}.git/info/lfs/objects/batch", asked)
    return str(json.loads(answer)["objects"][0]["actions"]["upload"]["href"]).removeprefix(server.url)


def outside(server: HubServer) -> list[str]:
    """What lies beside the repositories, where nothing should."""
    top = sorted(path.name for path in server.api.folder.parent.iterdir())
    return [*top, *sorted(path.name for path in server.api.folder.iterdir())]


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


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"not json", 400), (b"[1]", 400), (b'{"key": "file"}', 400), (b'{"key": "file", "value": 1}', 400),
     (b"[" * 100_000, 400), (lines(("odd", {"path": "a"})), 400), (lines(parentCommit="--all"), 400),
     (lines(parentCommit=7), 400), (lines(("file", {"path": "a", "content": "?", "encoding": "base64"})), 400),
     (lines(("file", {"path": "a", "content": 1})), 400), (lines(("lfsFile", {"path": "a", "oid": "../../x"})), 400),
     (lines(("lfsFile", {"path": "a", "oid": DIGEST})), 400), (lines(file("a"), summary="\0\ud800\n\r"), 200)],
)  # fmt: skip
def test_odd_commits(server: HubServer, body: bytes, status: int) -> None:
    found, _, text = ask(server, "POST", f"/api/models/{ID}/commit/main", body)
    assert found == status and b"Traceback" not in text


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


def test_large_files_are_what_their_sha256_says(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    where = address(server)
    assert ask(server, "PUT", where, b"w" * len(DATA))[0] == 400
    assert ask(server, "PUT", where, DATA[1:])[0] == 400
    for bad in (where.replace("key=", "key=0"), where.replace("size=7", "size=8"), where.split("?")[0],
                where.replace("until=", "until=1"), where.replace("acme", "other")):  # fmt: skip
        assert ask(server, "PUT", bad, DATA)[0] == 403
    assert (
        commit(server, ("lfsFile", {"path": "a", "oid": DIGEST, "size": 1})) == 400
    )  # nothing arrived so far
    assert ask(server, "PUT", where, DATA)[0] == ask(server, "PUT", where, DATA)[0] == 200
    monkeypatch.setattr(time, "time", lambda: 1e11)
    assert ask(server, "PUT", where, DATA)[0] == 403
    monkeypatch.undo()
    assert commit(server, ("lfsFile", {"path": "a", "oid": DIGEST, "size": 1})) == 200  # the size is its own
    status, headers, body = ask(server, "GET", f"/{ID}/resolve/main/a")
    assert (status, headers["x-linked-size"], body) == (200, str(len(DATA)), DATA)
    forged = f"version https://git-lfs.github.com/spec/v1\noid sha256:{DIGEST}\nsize 1\n"
    assert commit(server, file("b", forged.encode())) == 400
    for odd in (
        {},
        {"operation": "upload", "objects": [{"oid": "../x", "size": 1}]},
        {"operation": "upload", "objects": [7]},
    ):
        assert ask(server, "POST", f"/{ID}.git/info/lfs/objects/batch", odd)[0] == 422
    (server.api.folder / f"{ID}.git" / "lfs" / "objects" / DIGEST[:2] / DIGEST[2:4] / DIGEST).write_bytes(
        b"cut"
    )
    assert ask(server, "GET", f"/{ID}/resolve/main/a")[0] == 404  # rather than the wrong bytes


@pytest.mark.parametrize(
    ("header", "status", "start", "end"),
    [("bytes=0-0", 206, 0, 1), ("bytes=10-", 206, 10, 7000), ("bytes=-5", 206, 6995, 7000),
     ("bytes=5-99999", 206, 5, 7000),
     ("bytes=-99999", 206, 0, 7000), ("bytes=7000-", 416, 0, 0), ("bytes=-0", 416, 0, 0), ("bytes=9-3", 416, 0, 0),
     ("bytes=0-1,4-5", 200, 0, 7000), ("lines=1-2", 200, 0, 7000), ("bytes=-", 200, 0, 7000)],
)  # fmt: skip
def test_ranges(server: HubServer, header: str, status: int, start: int, end: int) -> None:
    commit(server, file("w.safetensors", DATA))
    found, headers, body = ask(server, "GET", f"/{ID}/resolve/main/w.safetensors", Range=header)
    assert found == status
    if status == 416:
        assert headers["content-range"] == "bytes */7000"
    else:
        assert body == DATA[start:end] and headers["etag"] == f'"{DIGEST}"'
        assert headers.get("content-range") == (f"bytes {start}-{end - 1}/7000" if status == 206 else None)


def test_bodies_have_limits(server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    path = f"/api/models/{ID}/commit/main"
    assert ask(server, "POST", path, b"", Content_Length=str(http.MAX_JSON + 1))[0] == 413
    for bad in ("-1", "1e3", "²", "9" * 20):
        assert ask(server, "POST", path, b"", Content_Length=bad.encode().decode("latin-1"))[0] == 400
    monkeypatch.setattr(uploads, "MAX_OBJECT", 100)
    where = address(server, 100, "0" * 64)
    assert ask(server, "PUT", where, b"x" * 101)[0] == 413
    asked = {"operation": "upload", "objects": [{"oid": DIGEST, "size": 101}]}
    _, _, answer = ask(server, "POST", f"/{ID}.git/info/lfs/objects/batch", asked)
    assert json.loads(answer)["objects"][0]["error"]["code"] == 413


def raw(server: HubServer, text: bytes) -> bytes:
    """What comes back for bytes that are sent as they are, when nothing follows them."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_requests_that_are_none(server: HubServer) -> None:
    start = f"POST /api/models/{ID}/commit/main HTTP/1.1\r\nHost: a\r\n".encode()
    chunked = raw(server, start + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n")
    assert chunked.startswith(b"HTTP/1.1 411") and b"Connection: close" in chunked
    assert raw(server, start + b"\r\n").startswith(b"HTTP/1.1 411")
    cut = raw(server, start + b"Content-Length: 1000\r\n\r\n" + lines(file("cut.txt")))
    assert cut == b"" and ask(server, "GET", f"/{ID}/resolve/main/cut.txt")[0] == 404
    for odd in (
        b"\xff\xfe\r\n\r\n",
        b"GET\r\n\r\n",
        b"PATCH / HTTP/1.1\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",
    ):
        assert b"Traceback" not in raw(server, odd) and b"Python" not in raw(server, odd)
    # After an answer that came early, the rest of the body is no request.
    smuggled = b"GET /api/models HTTP/1.1\r\nHost: a\r\n\r\n"
    refused = raw(
        server, b"POST /no HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(smuggled) + smuggled
    )
    assert refused.count(b"HTTP/1.1") == 1 and refused.startswith(b"HTTP/1.1 404")


def test_a_fault_of_the_server_is_told_plainly(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reading, "tags_of", lambda card: 1 / 0)
    status, _, body = ask(server, "GET", f"/api/models/{ID}")
    assert (status, json.loads(body)) == (500, {"error": "The server could not do this; its log says why."})
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    main = server.api.folder / f"{ID}.git" / "refs" / "heads" / "main"
    main.with_name("main.lock").touch()  # as a git that was killed leaves it
    assert commit(server, file("a")) == 500
    assert "main.lock" in capsys.readouterr().err
    main.write_text("0" * 40)
    assert ask(server, "GET", f"/api/models/{ID}")[0] in (404, 500)
    assert json.loads(ask(server, "GET", "/api/models")[2]) == []


def test_large_files_are_never_in_memory(server: HubServer, tmp_path: Path) -> None:
    size, path = 48 << 20, tmp_path / "large"
    connection = HTTPConnection(server.url.removeprefix("http://"))
    with path.open("wb") as out:
        out.truncate(size)
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        content.seek(0)
        where = address(server, size, digest)
        tracemalloc.start()
        try:
            assert ask(server, "PUT", where, content, Content_Length=str(size))[0] == 200
            assert commit(server, ("lfsFile", {"path": "large", "oid": digest})) == 200
            connection.request("GET", f"/{ID}/resolve/main/large")
            answer, left = connection.getresponse(), size
            while block := answer.read(1 << 16):
                left -= len(block)
            assert left == 0 and tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()
            connection.close()


def test_who_may_do_what(guarded: HubServer, tmp_path: Path) -> None:
    """Nothing without a token, reading with one kind, all with the other."""
    create(guarded, "w", visibility="private")
    reads = ["/api/whoami-v2", "/api/models", f"/api/models/{ID}", f"/{ID}/resolve/main/.gitattributes"]
    for token, status in ((None, 401), ("x", 401), ("r ", 200), ("r", 200), ("w", 200)):
        assert [ask(guarded, "GET", path, token=token)[0] for path in reads] == [status] * 4
    writes = [
        ("POST", "/api/repos/create", {"organization": "acme", "name": "new"}),
        ("POST", f"/api/models/{ID}/commit/main", None),
        ("POST", f"/api/models/{ID}/preupload/main", {"files": []}),
        ("POST", f"/api/models/{ID}/tag/main", {"tag": "v1"}),
        ("DELETE", f"/api/models/{ID}/branch/main", None),
        ("PUT", f"/api/models/{ID}/settings", {"visibility": "public"}),
        ("POST", f"/{ID}.git/info/lfs/objects/batch", {"operation": "upload", "objects": []}),
        ("GET", f"/api/models/{ID}/xet-write-token/main", None),
        ("DELETE", "/api/repos/delete", {"organization": "acme", "name": "rooms"}),
    ]
    for token, status in ((None, 401), ("x", 401), ("r", 403)):
        assert [ask(guarded, *write, token=token)[0] for write in writes] == [status] * len(writes)
    assert json.loads(ask(guarded, "GET", f"/api/models/{ID}", token="r")[2])["private"] is True
    done = [200, 400, 200, 201, 403, 200, 200, 501, 200]  # an empty commit, and main, are refused
    assert [ask(guarded, *write, token="w")[0] for write in writes] == done
    _, headers, _ = ask(guarded, "GET", f"/api/models/{ID}", token="x")
    assert headers["x-error-message"] == "Invalid credentials in Authorization header"


def test_what_is_private_is_hidden_where_nobody_has_a_token(server: HubServer) -> None:
    ask(server, "PUT", f"/api/models/{ID}/settings", {"visibility": "private"})
    assert ask(server, "GET", f"/api/models/{ID}")[0] == 200  # here everyone may change it
    with HubServer(server.api.folder) as reader:
        for path in (f"/api/models/{ID}", f"/{ID}/resolve/main/.gitattributes"):
            status, headers, _ = ask(reader, "GET", path)
            assert (status, headers["x-error-code"]) == (401, "RepoNotFound")
            assert ask(reader, "GET", path, token="any")[0] == 404
        assert json.loads(ask(reader, "GET", "/api/models")[2]) == []
        assert ask(reader, "POST", "/api/repos/create", {"organization": "a", "name": "b"})[0] == 403


def test_what_a_killed_server_left_is_removed(tmp_path: Path) -> None:
    staging = tmp_path / ".staging"
    for name in ("old", "new"):
        (staging / name).mkdir(parents=True)
        (staging / f"{name}.part").touch()
    for name in ("old", "old.part"):
        os.utime(staging / name, (0, 0))
    with HubServer(tmp_path, writable=True) as server:
        assert sorted(path.name for path in staging.iterdir()) == ["new", "new.part"]
        assert json.loads(ask(server, "GET", "/api/models")[2]) == []


def test_a_card_that_makes_no_sense_says_nothing(server: HubServer) -> None:
    commit(server, file("README.md", b"---\na: [\n---\n"))
    assert json.loads(ask(server, "GET", f"/api/models/{ID}")[2])["cardData"] == {}
