"""Who may do what on our own Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.server import HubServer

from .told import ID, ask, create


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "guarded", tokens={"r": "read", "w": "write"}) as running:
        yield running


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


@pytest.mark.usefixtures("rooms")
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
