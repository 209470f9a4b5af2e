"""What our own Hub takes as a body and gives as one: sizes, hashes, ranges, and requests that are none."""

from __future__ import annotations

import hashlib
import json
import time
import tracemalloc
from http.client import HTTPConnection
from pathlib import Path

import pytest

from registry.server import HubServer, http, reading, uploads

from .told import DATA, DIGEST, ID, address, ask, commit, file, lines, raw

pytestmark = pytest.mark.usefixtures("rooms")


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


def test_a_card_that_makes_no_sense_says_nothing(server: HubServer) -> None:
    commit(server, file("README.md", b"---\na: [\n---\n"))
    assert json.loads(ask(server, "GET", f"/api/models/{ID}")[2])["cardData"] == {}
