"""Our own Hub running, and the Hub's real client of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
)

from registry.server import HubServer

from .told import ID, create


@pytest.fixture
def server(tmp_path: Path) -> Iterator[HubServer]:
    with HubServer(tmp_path / "hub", writable=True) as running:
        yield running


@pytest.fixture
def api(server: HubServer) -> HfApi:
    return HfApi(endpoint=server.url, token="any")


@pytest.fixture
def commit(api: HfApi) -> Callable[..., str]:
    """Commit to a repository: commit({"path": b"content", "old": None})."""

    def make(files: dict[str, bytes | None], id: str = ID, **options: str) -> str:
        steps = [
            CommitOperationDelete(path) if data is None else CommitOperationAdd(path, data)
            for path, data in files.items()
        ]
        return api.create_commit(id, steps, commit_message="Change", **options).oid  # type: ignore[arg-type]

    api.create_repo(ID)
    return make


@pytest.fixture
def rooms(server: HubServer) -> None:
    """The repository that most tests ask about, made in plain HTTP."""
    create(server)
