"""What connections, publishers and strangers can do to a repository, and that it is noticed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

from registry.card import Card
from registry.history import event, replay
from registry.hub import Hub
from registry.lock import pin_of
from registry.pull import pull, pull_pin
from registry.server import HubServer
from registry.store import Store, Version
from specialists.errors import BadInput, Damaged, RouterError, Unavailable

from .trees import bytes_of, fsck

ID = "acme/rooms"


@pytest.fixture
def rival(make_adapter: Callable[..., Path], make_card: Callable[..., Card], tmp_path: Path) -> Version:
    """scheduling@1.0.0 too, of another adapter, in the store of another publisher."""
    folder = make_adapter(tmp_path / "else", seed=5)
    return Store(tmp_path / "theirs", bundled=tmp_path / "bundled").publish(folder, make_card(folder))


def test_a_number_never_means_other_bytes(hub: Hub, published: Version, rival: Version) -> None:
    hub.publish(published, {})
    with pytest.raises(BadInput, match="versions never change"):
        hub.publish(rival, {})


def test_of_two_publishers_one_is_told(
    hub: Hub, published: Version, newer: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second sees that the head moved, reads it again, and adds to it; the history has both."""
    hub.publish(published, {})
    real, raced = hub.api.create_commit, []

    def overtaken(*args: Any, **more: Any) -> Any:
        if not raced:
            raced.append(True)
            hub.note("meanwhile", lambda state: event("yank", "1.0.0", reason="wrong on Sundays"))
        return real(*args, **more)

    monkeypatch.setattr(hub.api, "create_commit", overtaken)
    hub.publish(newer, {})
    told = hub.history()
    assert [one.action for one in told] == ["publish", "yank", "publish"]
    assert replay(told).yanked == {"1.0.0": "wrong on Sundays"}


def test_of_two_publishers_of_one_number_one_wins(
    published: Version, rival: Version, server: HubServer, other: Store, tmp_path: Path
) -> None:
    """Both at once, into a repository that is not there yet: one is told, and the version is the other's."""
    start, said = Barrier(2), {}

    def publish(name: str, version: Version) -> None:
        hub = Hub(ID, HfApi(endpoint=server.url, token="any"), tmp_path / name)
        start.wait()
        try:
            said[name] = hub.publish(version, {})
        except BadInput as error:
            said[name] = str(error)

    both = {"ours": published, "theirs": rival}
    threads = [Thread(target=publish, args=one) for one in both.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (loser,) = [name for name, text in said.items() if "with other bytes" in text]
    (winner,) = both.keys() - {loser}
    hub = Hub(ID, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")
    assert [one.manifest for one in hub.history()] == [both[winner].manifest]
    assert bytes_of(pull(other, f"{ID}@{said[winner]}", hub=hub)) == bytes_of(both[winner])
    fsck(server)


@pytest.mark.parametrize(("how", "lfs"), [("before", True), ("after", True), ("half", False)])
def test_cut_at_every_request_of_a_publish(
    how: str,
    lfs: bool,
    hub: Hub,
    other: Store,
    published: Version,
    server: HubServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run again after whatever cut, there is exactly one version, and it is whole."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own retries
    monkeypatch.setattr(
        constants, "HF_HUB_DISABLE_XET", lfs
    )  # large files as a part of the commit, or before it
    cuts = 0
    for at in range(60):
        shutil.rmtree(server.api.folder / "acme", ignore_errors=True)
        start = len(server.requests)
        server.fault = lambda number, method, path, at=at + start: how if number == at else None  # type: ignore[misc]
        try:
            hub.publish(published, {"README.md": b"# Rooms\n"})
        except RouterError:
            cuts += 1
        server.fault = lambda number, method, path: None
        if len(server.requests) - start <= at:
            break
        commit = hub.publish(published, {"README.md": b"# Rooms\n"})
        assert [one.action for one in hub.history()] == ["publish"]
        assert [(ref.name, ref.target_commit) for ref in hub.api.list_repo_refs(ID).tags] == [
            ("v1.0.0", commit)
        ]
        fsck(server)
    assert at > 5 and cuts > 2
    assert bytes_of(pull(other, ID, hub=hub)) == bytes_of(published)


def test_a_moved_tag_is_noticed(
    hub: Hub, other: Store, published: Version, newer: Version, tmp_path: Path
) -> None:
    first, second = hub.publish(published, {}), hub.publish(newer, {})
    old = pull(other, f"{ID}@1.0.0", hub=hub)
    hub.api.delete_tag(ID, tag="v1.0.0")
    fresh = Store(tmp_path / "fresh", bundled=tmp_path / "bundled")
    with pytest.raises(Damaged, match="no tag v1.0.0"):
        pull(fresh, f"{ID}@1.0.0", hub=hub)
    hub.api.create_tag(ID, tag="v1.0.0", revision=second)
    with pytest.raises(Damaged, match="somebody moved it"):
        pull(fresh, f"{ID}@1.0.0", hub=hub)
    assert pull(other, f"{ID}@1.0.0", hub=hub) == old  # what is here stays
    assert pull(fresh, f"{ID}@{first}", hub=hub).card == published.card
    hub.api.delete_tag(ID, tag="v1.0.0")
    moved = hub.api.create_commit(
        ID, [CommitOperationAdd("note", b"x"), *(
            CommitOperationAdd(name, data) for name, data in bytes_of(published).items()
        )], commit_message="the same bytes elsewhere"
    ).oid  # fmt: skip
    hub.api.create_tag(ID, tag="v1.0.0", revision=moved)
    pin = pin_of(old)
    assert pin
    locked = Store(tmp_path / "locked", bundled=tmp_path / "bundled")
    with pytest.raises(Damaged, match="its tag was moved"):
        pull(locked, f"{ID}@1.0.0", {old.ref: pin}, hub=hub)
    assert pull_pin(locked, old.ref, pin, hub=hub).card == published.card


@pytest.mark.parametrize("how", ["deleted", "private"])
def test_a_repository_that_is_gone(
    how: str, hub: Hub, other: Store, published: Version, server: HubServer, tmp_path: Path
) -> None:
    """What came before stays and needs it no more; whoever has nothing yet is told in one sentence."""
    commit = hub.publish(published, {})
    version = pull(other, ID, hub=hub)
    pin = pin_of(version)
    assert pin
    if how == "deleted":
        hub.api.delete_repo(ID)
    else:
        hub.api.update_repo_settings(ID, private=True)
    # Where nobody may write, nobody sees what is private either.
    with HubServer(server.api.folder) as public:
        theirs = Hub(ID, HfApi(endpoint=public.url, token=False), tmp_path / "their-cache")
        for ref in (f"{ID}@1.0.0", f"{ID}@{commit}"):
            assert pull(other, ref, {version.ref: pin}, hub=theirs) == version
        assert pull_pin(other, version.ref, pin, hub=theirs) == version == other.resolve("scheduling")
        assert public.requests == []
        fresh = Store(tmp_path / "fresh", bundled=tmp_path / "bundled")
        for asked in (
            lambda: pull(fresh, ID, hub=theirs),
            lambda: pull_pin(fresh, version.ref, pin, hub=theirs),
        ):
            with pytest.raises(Unavailable, match="The Hub has no model acme/rooms, or it is private"):
                asked()
        assert fresh.list() == []


def test_a_bit_flipped_in_the_cache_is_mended(
    hub: Hub, published: Version, server: HubServer, tmp_path: Path
) -> None:
    """Each file of a download that stays in the cache of the Hub's client; only that one is fetched again."""
    hub.publish(published, {})
    first = pull(Store(tmp_path / "first", bundled=tmp_path / "bundled"), ID, hub=hub)
    for name in [*(file.name for file in first.path.iterdir()), "history.jsonl"]:
        (cached,) = (tmp_path / "cache").rglob(f"snapshots/*/{name}")
        data = bytearray(cached.read_bytes())
        data[len(data) // 2] ^= 1
        cached.write_bytes(data)
        before = len(server.requests)
        came = pull(Store(tmp_path / name, bundled=tmp_path / "bundled"), ID, hub=hub)
        assert bytes_of(came) == bytes_of(published)
        fetched = [
            path for method, path in server.requests[before:] if method == "GET" and "/resolve/" in path
        ]
        assert len(fetched) == 1 and fetched[0].endswith(name)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "adapter_config.json", "card.json", "manifest.json"]
)
def test_changed_bytes_are_noticed(name: str, hub: Hub, other: Store, published: Version) -> None:
    """A bit flipped in any file, under the tag of the version, is refused by name, and nothing stays."""
    hub.publish(published, {})
    data = bytearray((published.path / name).read_bytes())
    data[-3] ^= 1
    commit = hub.api.create_commit(ID, [CommitOperationAdd(name, bytes(data))], commit_message="?").oid
    hub.api.delete_tag(ID, tag="v1.0.0")
    hub.api.create_tag(ID, tag="v1.0.0", revision=commit)
    for ref in (f"{ID}@1.0.0", f"{ID}@{commit}"):
        with pytest.raises(RouterError):
            pull(other, ref, hub=hub)
    assert other.list() == []
