"""What tests of our own Hub tell it and look for: by its client's bytes, and in plain HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import subprocess
from http.client import HTTPConnection
from typing import Any

import pytest
from huggingface_hub.errors import HfHubHTTPError

from registry.server import HubServer

ID = "acme/rooms"
CARD = b"---\ntags: [lora, rooms]\nlibrary_name: peft\nlicense: mit\n---\n# Rooms\n"
WEIGHTS = bytes(range(256)) * 100
BIG = b"big" * (1 << 20)

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def fsck(server: HubServer) -> None:
    for folder in server.api.folder.glob("*/*.git"):
        subprocess.run(["git", "fsck", "--strict"], cwd=folder, check=True, capture_output=True)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


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


def raw(server: HubServer, text: bytes) -> bytes:
    """What comes back for bytes that are sent as they are, when nothing follows them."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))
