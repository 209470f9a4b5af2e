"""Our own Hub, by the Hub's real client: publishing, finding, fetching, and what goes wrong on the way."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    hf_hub_download,
    snapshot_download,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.hf_api import RepoFile

from registry.server import HubServer, uploads
from specialists.errors import BadInput, Unavailable

ID = "acme/rooms"
CARD = b"---\ntags: [lora, rooms]\nlibrary_name: peft\nlicense: mit\n---\n# Rooms\n"
WEIGHTS = bytes(range(256)) * 100
BIG = b"big" * (1 << 20)


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


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def fsck(server: HubServer) -> None:
    for folder in server.api.folder.glob("*/*.git"):
        subprocess.run(["git", "fsck", "--strict"], cwd=folder, check=True, capture_output=True)


def status(error: pytest.ExceptionInfo[HfHubHTTPError]) -> int:
    return error.value.response.status_code


def test_repositories(api: HfApi) -> None:
    assert api.create_repo(ID).repo_id == ID
    with pytest.raises(HfHubHTTPError) as taken:
        api.create_repo(ID)
    assert status(taken) == 409
    assert api.create_repo(ID, exist_ok=True).repo_id == ID
    assert api.create_repo("alone").repo_id == f"{api.whoami()['name']}/alone"
    assert not api.model_info(ID).private
    api.update_repo_settings(ID, private=True)
    assert api.model_info(ID).private
    api.delete_repo(ID)
    api.delete_repo(ID, missing_ok=True)
    assert not api.repo_exists(ID)
    with pytest.raises(HfHubHTTPError):
        api.create_repo("acme/data", repo_type="dataset")


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


def test_a_model_and_its_files(api: HfApi, commit: Callable[..., str], server: HubServer) -> None:
    sha = commit({"README.md": CARD, "a/b/c.txt": b"c", "a/model.safetensors": WEIGHTS})
    assert api.list_repo_files(ID) == [".gitattributes", "README.md", "a/b/c.txt", "a/model.safetensors"]
    assert [entry.path for entry in api.list_repo_tree(ID)] == [".gitattributes", "README.md", "a"]
    assert [entry.path for entry in api.list_repo_tree(ID, "a")] == ["a/b", "a/model.safetensors"]
    assert [entry.path for entry in api.list_repo_tree(ID, "a", recursive=True)] == [
        "a/b", "a/b/c.txt", "a/model.safetensors"
    ]  # fmt: skip
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(ID, "b"))
    folder, file = api.get_paths_info(ID, ["a", "a/model.safetensors", "not/there"])
    assert isinstance(file, RepoFile) and file.lfs and file.lfs.sha256 == sha256(WEIGHTS)
    assert (folder.path, file.size) == ("a", len(WEIGHTS))
    newest, first = api.list_repo_commits(ID)
    assert (newest.commit_id, newest.title, first.title) == (sha, "Change", "initial commit")
    info = api.model_info(ID)
    assert info.tags == ["lora", "rooms", "peft"] and info.card_data
    front = info.card_data.to_dict()
    assert (front["library_name"], front["license"]) == ("peft", "mit")
    assert info.last_modified == newest.created_at and info.created_at
    with urlopen(f"{server.url}/api/models/{ID}") as answer:
        assert json.load(answer)["lastModified"].endswith(".000Z")


def test_finding(api: HfApi, commit: Callable[..., str]) -> None:
    commit({"README.md": CARD})
    api.create_repo("other/rooms")
    api.create_repo("other/dates")

    def found(**asked: str | int) -> list[str]:
        return [model.id for model in api.list_models(**asked)]  # type: ignore[arg-type]

    assert found() == ["acme/rooms", "other/dates", "other/rooms"]
    assert found(limit=2) == ["acme/rooms", "other/dates"]
    assert found(search="ROOM") == ["acme/rooms", "other/rooms"]
    assert found(author="other") == ["other/dates", "other/rooms"]
    assert found(filter="lora") == found(filter="peft") == ["acme/rooms"]
    assert found(filter="nothing") == []


def test_revisions(api: HfApi, commit: Callable[..., str], tmp_path: Path) -> None:
    """Branches, tags and commit ids, whole or short."""
    old = commit({"a.txt": b"1"})
    api.create_tag(ID, tag="v1.0.0", tag_message="First")
    new = commit({"a.txt": b"2"})
    api.create_branch(ID, branch="next", revision="v1.0.0")
    other = commit({"a.txt": b"3"}, revision="next")
    for revision, sha in (
        ("main", new),
        ("HEAD", new),
        ("v1.0.0", old),
        ("next", other),
        (old, old),
        (old[:8], old),
    ):
        assert api.model_info(ID, revision=revision).sha == sha
    refs = api.list_repo_refs(ID, include_pull_requests=True)
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": new, "next": other}
    assert [(ref.name, ref.ref, ref.target_commit) for ref in refs.tags] == [
        ("v1.0.0", "refs/tags/v1.0.0", old)
    ]
    for again in (lambda: api.create_tag(ID, tag="v1.0.0"), lambda: api.create_branch(ID, branch="next")):
        with pytest.raises(HfHubHTTPError) as taken:
            again()
        assert status(taken) == 409
    api.create_tag(ID, tag="v1.0.0", exist_ok=True)
    assert api.model_info(ID, revision="v1.0.0").sha == old
    api.delete_tag(ID, tag="v1.0.0")
    api.delete_branch(ID, branch="next")
    for gone in ("v1.0.0", "next", "0" * 40, "main~1"):
        with pytest.raises(RevisionNotFoundError):
            api.model_info(ID, revision=gone)
    for remove in (lambda: api.delete_tag(ID, tag="v1.0.0"), lambda: api.delete_branch(ID, branch="main")):
        with pytest.raises(HfHubHTTPError):
            remove()
    with pytest.raises(HfHubHTTPError):
        api.create_tag(ID, tag=new[:8], revision=old)  # a commit id must never come to mean another commit
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(ID, "no.txt", endpoint=api.endpoint, cache_dir=tmp_path)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/no")


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


def test_fetching(api: HfApi, commit: Callable[..., str], server: HubServer, tmp_path: Path) -> None:
    """A snapshot of a tag, and the same again without the network."""
    old = commit({"README.md": CARD, "model.safetensors": WEIGHTS})
    api.create_tag(ID, tag="v1")
    commit({"model.safetensors": BIG})
    url = f"{server.url}/{ID}/resolve/v1/model.safetensors"
    about = get_hf_file_metadata(url, endpoint=server.url)
    assert (about.commit_hash, about.etag, about.size) == (old, sha256(WEIGHTS), len(WEIGHTS))
    asked = {"revision": "v1", "cache_dir": tmp_path / "cache"}
    folder = snapshot_download(ID, endpoint=server.url, **asked)
    assert (Path(folder) / "model.safetensors").read_bytes() == WEIGHTS and Path(folder).name == old
    asked_before = len(server.requests)
    assert snapshot_download(ID, local_files_only=True, **asked) == folder
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(ID, "model.safetensors", local_files_only=True, cache_dir=tmp_path / "empty")
    assert len(server.requests) == asked_before
    checked = api.verify_repo_checksums(ID, revision="v1", cache_dir=tmp_path / "cache")
    assert (checked.checked_count, checked.mismatches, checked.missing_paths) == (3, [], [])


def test_a_download_goes_on_where_it_was(
    commit: Callable[..., str], server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    commit({"big.bin": BIG})
    url, path = f"{server.url}/{ID}/resolve/main/big.bin", tmp_path / "big.bin"
    path.write_bytes(BIG[:1000])
    with path.open("ab") as file:
        http_get(url, file, resume_size=1000, expected_size=len(BIG))
    assert path.read_bytes() == BIG
    start = len(server.requests)
    server.fault = lambda number, method, path: "half" if number == start + 1 else None  # after the HEAD
    found = hf_hub_download(ID, "big.bin", endpoint=server.url, cache_dir=tmp_path / "cache")
    assert Path(found).read_bytes() == BIG
    assert [method for method, _ in server.requests[start:]] == ["HEAD", "GET", "GET"]


def test_a_client_that_knows_nothing_else(tmp_path: Path) -> None:
    """A process of its own, with HF_ENDPOINT, a token, and xet as it is: a card, a folder, and a file too large."""
    script = """
import sys
from pathlib import Path
from huggingface_hub import HfApi, ModelCard, snapshot_download
api, folder = HfApi(), Path(sys.argv[1])
api.create_repo("acme/rooms", private=True)
api.upload_folder(repo_id="acme/rooms", folder_path=folder)
ModelCard("---\\nlicense: mit\\n---\\n# Rooms").push_to_hub("acme/rooms")
for bad in (b"---\\na: [\\n---\\n", b"---\\na: &a [1]\\nb: *a\\n---\\n"):
    try:
        api.upload_file(repo_id="acme/rooms", path_in_repo="README.md", path_or_fileobj=bad)
    except ValueError as error:
        print("refused", "not plain YAML" in str(error))
print(sorted(path.name for path in Path(snapshot_download("acme/rooms")).iterdir()))
with (folder / "large.safetensors").open("wb") as file:
    file.truncate(45 << 20)
try:
    api.upload_folder(repo_id="acme/rooms", folder_path=folder)
except OSError as error:
    print("HF_HUB_DISABLE_XET=1" in str(error))
"""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(WEIGHTS)
    with HubServer(tmp_path / "hub", tokens={"secret": "write"}) as server:
        settings = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "secret"}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", script, folder],
            env={**inherited, **settings}, capture_output=True, text=True, timeout=100,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == [
            "refused True", "refused True", "['.gitattributes', 'README.md', 'model.safetensors']", "True"
        ]  # fmt: skip


def test_starting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer(tmp_path / "hub") as server:
        port = int(server.url.rsplit(":", 1)[1])
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}.*choose another"):
            HubServer(tmp_path / "hub", port=port)
    with pytest.raises(Unavailable, match="Could not listen"):
        HubServer(tmp_path / "hub", host="no.such.host.invalid")
    with pytest.raises(Unavailable, match="Could not listen"):
        HubServer(tmp_path / "hub", port=70000)
    with pytest.raises(BadInput, match="admin"):
        HubServer(tmp_path / "hub", tokens={"t": "admin"})
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="name a folder"):
        HubServer(tmp_path / "file")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="install git"):
        HubServer(tmp_path / "hub")
