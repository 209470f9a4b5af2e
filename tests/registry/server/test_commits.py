"""Our own Hub, by the Hub's real client: sending files, and what goes wrong on the way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
)

from registry.server import HubServer, uploads

from .told import BIG, CARD, ID, WEIGHTS, blob, fsck, sha256, status


@pytest.mark.parametrize("way", ["in the commit", "by file handle", "without xet"])
def test_every_way_to_send_files_stores_the_same(
    way: str, api: HfApi, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small and large files arrive as they are, and large ones are LFS files however they came."""
    files = {"README.md": CARD, "model.safetensors": WEIGHTS, "sub/big.bin": BIG, "empty.txt": b""}
    for name, data in files.items():
        (tmp_path / Path(name).name).write_bytes(data)
    if way != "in the commit":
        monkeypatch.setattr(uploads, "INLINE", 0)
    if way == "without xet":
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    api.create_repo(ID)
    handles = [(name, (tmp_path / Path(name).name).open("rb")) for name in files]
    adding = [
        CommitOperationAdd(name, handle if way == "by file handle" else handle.name)
        for name, handle in handles
    ]
    sha = api.create_commit(ID, adding, commit_message="All", commit_description="of them").oid
    for _, handle in handles:
        handle.close()

    info = api.model_info(ID, files_metadata=True)
    assert info.sha == sha and info.siblings
    found = {file.rfilename: file for file in info.siblings}
    assert {name: found[name].size for name in files} == {name: len(data) for name, data in files.items()}
    assert found["README.md"].blob_id == blob(CARD) and found["README.md"].lfs is None
    for name in ("model.safetensors", "sub/big.bin"):
        large = found[name].lfs
        assert large and (large.sha256, large.size) == (sha256(files[name]), len(files[name]))
    sent = [path for method, path in server.requests if method == "PUT"]
    assert len(sent) == (0 if way == "in the commit" else 2)
    for name, data in files.items():
        assert (
            Path(hf_hub_download(ID, name, endpoint=server.url, cache_dir=tmp_path / "c")).read_bytes()
            == data
        )
    fsck(server)


def test_removing(api: HfApi, commit: Callable[..., str], server: HubServer) -> None:
    commit({"a/1.txt": b"1", "a/b/2.txt": b"2", "ab.txt": b"3", "x": b"4"})
    commit({"a/": None, "x": None, "x/y": b"5"})  # a folder takes the place of a file
    assert api.list_repo_files(ID) == [".gitattributes", "ab.txt", "x/y"]
    for odd in ({"a/": None}, {"no.txt": None}):
        with pytest.raises(EntryNotFoundError):
            commit(odd)
    for odd in ({"x": b"a file and a folder"}, {"ab.txt/c": b"the same"}):
        with pytest.raises(HfHubHTTPError):
            commit(odd)
    assert api.list_repo_files(ID) == [".gitattributes", "ab.txt", "x/y"]
    fsck(server)


def test_a_stale_parent_is_told(api: HfApi, commit: Callable[..., str]) -> None:
    first = commit({"a.txt": b"1"})
    second = commit({"a.txt": b"2"}, parent_commit=first)
    with pytest.raises(HfHubHTTPError) as stale:
        commit({"a.txt": b"3"}, parent_commit=first)
    assert status(stale) == 412 and api.model_info(ID).sha == second


def test_no_change_is_no_commit(commit: Callable[..., str]) -> None:
    first = commit({"a.txt": b"1", "w.safetensors": WEIGHTS})
    assert commit({"w.safetensors": WEIGHTS}) == commit({"a.txt": b"1"}) == first


def test_many_at_once(api: HfApi, commit: Callable[..., str], server: HubServer) -> None:
    """Of those who name a parent one wins; those who name none all do. Two servers share the folder."""
    base = commit({"a.txt": b"0"})
    with HubServer(server.api.folder, writable=True) as second, ThreadPoolExecutor(6) as pool:
        apis = [api, HfApi(endpoint=second.url, token="any")]

        def attempt(number: int, parent: str | None) -> int:
            step = CommitOperationAdd(f"{number}.txt", str(number).encode())
            try:
                apis[number % 2].create_commit(ID, [step], commit_message="m", parent_commit=parent)
            except HfHubHTTPError as error:
                return error.response.status_code
            return 200

        assert sorted(pool.map(lambda number: attempt(number, base), range(6))) == [200] + 5 * [412]
        assert set(pool.map(lambda number: attempt(10 + number, None), range(6))) == {200}
    assert len(api.list_repo_commits(ID)) == 2 + 1 + 6
    fsck(server)


@pytest.mark.parametrize("how", ["before", "after", "half"])
def test_a_publisher_cut_off_anywhere_harms_nothing(
    how: str, api: HfApi, commit: Callable[..., str], server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each request of a commit the connection ends; the repository has all of the commit, or nothing of it."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(uploads, "INLINE", 0)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits before it tries again
    old = commit({"a.txt": b"0", "w.safetensors": b"0"})
    cut: list[str] = []

    def fault(number: int, method: str, path: str) -> str | None:
        if number != start + at:
            return None
        cut.append(path.split("?")[0].split("/")[-1])
        return how

    for at in range(20):
        start, data = len(server.requests), str(at + 1).encode()
        server.fault = fault
        with suppress(Exception):
            commit({"a.txt": data, "w.safetensors": data, "README.md": CARD})
        server.fault = lambda number, method, path: None
        fsck(server)
        head = api.model_info(ID, files_metadata=True)
        if head.sha != old:
            files = {file.rfilename: file.lfs and file.lfs.sha256 for file in head.siblings or []}
            assert files["w.safetensors"] == sha256(data) and "README.md" in files
        old = head.sha or ""
        if len(cut) == at:
            break
    assert {"validate-yaml", "batch", "verify"} <= set(cut) and len(cut) >= 6
    assert not list((server.api.folder / ".staging").iterdir())
