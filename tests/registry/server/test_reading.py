"""Our own Hub, by the Hub's real client: repositories, finding, revisions and fetching."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

import pytest
from huggingface_hub import (
    HfApi,
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

from registry.server import HubServer
from specialists.errors import BadInput, Unavailable

from .told import BIG, CARD, ID, WEIGHTS, ask, sha256, status


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
