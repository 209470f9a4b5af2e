"""Versions published to a Hub and pulled from it again, by the real client, against our own server on loopback."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi

from registry.card import Card
from registry.history import Event, replay
from registry.hub import Hub
from registry.hub_refs import parse_ref
from registry.lock import pin_of, read_lock, write_lock
from registry.lora_config import sound_config
from registry.model_card import beside
from registry.pull import pull, pull_pin
from registry.server import HubServer
from registry.sign import SIGNATURE, keygen, sign
from registry.store import Store, verify
from registry.trust import Trust
from registry.version import MANIFEST, Version, file_names
from specialists.errors import BadInput, Damaged, Unavailable

from .trees import bytes_of, fsck

ID = "acme/rooms"


def test_there_and_back(
    hub: Hub, other: Store, published: Version, newer: Version, server: HubServer
) -> None:
    first = hub.publish(published, {"README.md": b"---\ntags: [specialist-router]\n---\n# Rooms\n"})
    assert hub.publish(published, {}) == first  # there already
    second = hub.publish(newer, {"README.md": b"# Rooms\n"})
    old = pull(other, f"{ID}@1.0.0", hub=hub)
    assert (old.origin, old.card, bytes_of(old)) == (f"{ID}@{first}", published.card, bytes_of(published))
    new = pull(other, ID, hub=hub)
    assert (new.origin, bytes_of(new), new.channel) == (f"{ID}@{second}", bytes_of(newer), "stable")
    assert other.resolve("scheduling") == new
    verify(new)
    assert replay(hub.history()).channels == {"stable": "1.1.0"}
    assert [ref.name for ref in hub.api.list_repo_refs(ID).tags] == ["v1.0.0", "v1.1.0"]
    fsck(server)


def test_the_revision_of_the_base_comes_along(
    hub: Hub, other: Store, store: Store, make_adapter: Callable[..., Path], make_card: Callable[..., Card],
    tmp_path: Path,
) -> None:  # fmt: skip
    """It is in adapter_config.json since the training, so publishing changes no byte."""
    folder = make_adapter(tmp_path / "trained", revision="ea3f2471cf1b1f0db85067f1ef93848e38e88c25")
    version = store.publish(folder, make_card(folder))
    commit = hub.publish(version, beside(version, ID))
    came = pull(other, ID, hub=hub)
    assert bytes_of(came) == bytes_of(version)
    there = Path(
        hub.api.hf_hub_download(ID, "adapter_config.json", revision=commit, cache_dir=tmp_path / "c")
    )
    assert there.read_bytes() == (folder / "adapter_config.json").read_bytes()
    assert sound_config(came.path).revision == "ea3f2471cf1b1f0db85067f1ef93848e38e88c25"


def test_what_is_here_costs_no_network(hub: Hub, other: Store, published: Version, server: HubServer) -> None:
    commit = hub.publish(published, {})
    first = pull(other, f"{ID}@1.0.0", hub=hub)
    before = len(server.requests)
    pins = {first.ref: pin_of(first)}
    assert pull(other, f"{ID}@1.0.0", hub=hub) == pull(other, f"{ID}@{commit}", hub=hub) == first
    assert pins[first.ref] and pull_pin(other, first.ref, pins[first.ref], hub=hub) == first  # type: ignore[arg-type]
    assert len(server.requests) == before


def test_a_pinned_version_that_is_here_takes_milliseconds(
    hub: Hub,
    other: Store,
    published: Version,
    newer: Version,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """And no connection: by the lock file, by number, by commit. Best of twenty, as others use the machine too."""
    for version in (published, newer):
        hub.publish(version, {})
        pull(other, f"{ID}@{version.card.version}", hub=hub)
    version = other.resolve("scheduling@1.0.0")
    pin = pin_of(version)
    assert pin
    write_lock(tmp_path / "router.lock", {version.ref: pin})

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr("registry.pull.Hub", refuse)
    for ask in (
        lambda: pull_pin(other, version.ref, read_lock(tmp_path / "router.lock")[version.ref]),
        lambda: pull(other, f"{ID}@1.0.0", {version.ref: pin}),
        lambda: pull(other, f"{ID}@{pin.commit}"),
    ):
        took = []
        for _ in range(20):
            started = time.perf_counter()
            assert ask() == version
            took.append(time.perf_counter() - started)
        assert min(took) < 0.005


def test_what_is_bundled_too_is_recorded_as_from_the_hub(
    hub: Hub, published: Version, store: Store, server: HubServer, tmp_path: Path
) -> None:
    """So that a lock file can name it, and what is locked is found again without a request."""
    theirs = Store(tmp_path / "theirs", bundled=store.home)
    assert theirs.resolve("scheduling").source == "bundled"
    commit = hub.publish(published, {})
    version = pull(theirs, f"{ID}@1.0.0", hub=hub)
    assert (version.source, version.origin, version.channel) == ("local", f"{ID}@{commit}", "stable")
    assert bytes_of(version) == bytes_of(published)
    assert [(one.action, one.origin) for one in theirs.histories.read("scheduling")] == [
        ("publish", f"{ID}@{commit}")
    ]
    pin = pin_of(version)
    assert pin and (pin.repo, pin.commit) == (ID, commit)
    before = len(server.requests)
    assert pull_pin(theirs, version.ref, pin, hub=hub) == version == theirs.resolve("scheduling")
    assert pull(theirs, f"{ID}@1.0.0", {version.ref: pin}, hub=hub) == version
    assert len(server.requests) == before
    assert theirs.publish(published.path, published.card) == version  # by hand: nothing new
    assert [one.ref for one in theirs.versions("scheduling")] == ["scheduling@1.0.0"]
    theirs.unregister("scheduling")
    assert theirs.names() == []
    assert pull(theirs, ID, hub=hub).origin == version.origin  # which leaves the bundled one hidden
    theirs.unregister("scheduling@1.0.0")
    assert theirs.names() == []


def test_what_was_made_here_is_recorded_as_from_the_hub_once_it_is_pulled(
    hub: Hub, published: Version, store: Store
) -> None:
    commit = hub.publish(published, {})
    assert published.origin is None and pin_of(published) is None
    version = pull(store, f"{ID}@1.0.0", hub=hub)
    assert (version.origin, version.path) == (f"{ID}@{commit}", published.path)
    history = store.histories.read("scheduling")
    assert [(one.action, one.origin) for one in history] == [("publish", None), ("publish", version.origin)]
    assert pull(store, ID, hub=hub) == version and store.histories.read("scheduling") == history


def test_an_earlier_download_is_enough_without_a_network(
    hub: Hub, other: Store, published: Version, server: HubServer, tmp_path: Path
) -> None:
    commit = hub.publish(published, {})
    pull(other, ID, hub=hub)
    third = Store(tmp_path / "third", bundled=tmp_path / "bundled")
    gone = Hub(ID, HfApi(endpoint="http://127.0.0.1:9", token="any"), tmp_path / "cache")
    assert bytes_of(pull(third, f"{ID}@{commit}", hub=gone)) == bytes_of(published)
    with pytest.raises(Unavailable):
        pull(Store(tmp_path / "fourth", bundled=tmp_path / "bundled"), f"{ID}@1.0.0", hub=gone)


def test_signatures(hub: Hub, other: Store, published: Version, newer: Version, tmp_path: Path) -> None:
    key, stranger = tmp_path / "key.pem", tmp_path / "stranger.pem"
    public = keygen(key).read_bytes()
    keygen(stranger)
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput, match="a key at"):
        keygen(key)
    names = [*file_names(published.card), MANIFEST]
    hub.publish(published, {SIGNATURE: sign(published.path, names, key)})
    hub.publish(newer, {SIGNATURE: sign(newer.path, names, stranger)})
    trust = Trust(other.home)
    mark = trust.add("ACME", public)
    assert [known for known, _ in trust.all()["acme"]] == [mark]
    assert bytes_of(pull(other, f"{ID}@1.0.0", hub=hub)) == bytes_of(published)
    with pytest.raises(Damaged, match="not the signature"):
        pull(other, f"{ID}@1.1.0", hub=hub)
    with pytest.raises(Damaged, match="is not signed"):
        trust.check("acme", published.path, names, None)
    signature = sign(published.path, names, key)
    for harmed in (signature[:-40], b"", b"{}", b"x" * 2_000_000):
        with pytest.raises(Damaged):
            trust.check("acme", published.path, names, harmed)
    trust.path.write_text("{")
    with pytest.raises(Damaged, match="does not say whom you trust"):
        pull(other, f"{ID}@1.1.0", hub=hub)
    trust.path.unlink()
    assert pull(other, f"{ID}@1.1.0", hub=hub).card == newer.card


def test_a_plain_adapter_from_the_hub(
    hub: Hub, other: Store, adapter: Path, exemplars: Path, tmp_path: Path
) -> None:
    hub.api.create_repo(ID)
    files = [CommitOperationAdd(file.name, str(file)) for file in adapter.iterdir()]
    hub.api.create_commit(ID, files, commit_message="plain")
    with pytest.raises(BadInput, match="give also a name"):
        pull(other, ID, hub=hub)
    Trust(other.home).add("acme", keygen(tmp_path / "key.pem").read_bytes())
    with pytest.raises(Damaged, match="only what is signed"):
        pull(other, ID, hub=hub, name="rooms", exemplars=exemplars, prompt="plain")
    Trust(other.home).remove("acme")
    version = pull(other, ID, hub=hub, name="rooms", exemplars=exemplars, prompt="plain")
    assert (version.ref, (version.origin or "").partition("@")[0]) == ("rooms@1.0.0", ID)


def test_what_is_no_adapter(hub: Hub, other: Store, published: Version) -> None:
    with pytest.raises(Unavailable, match="no model acme/rooms"):
        pull(other, ID, hub=hub)
    hub.api.create_repo(ID)
    with pytest.raises(BadInput, match="holds no adapter"):
        pull(other, ID, hub=hub)
    hub.api.create_commit(ID, [CommitOperationAdd("adapter_model.bin", b"\x80")], commit_message="pickle")
    with pytest.raises(Damaged, match="adapter_model.bin, a pickle"):
        pull(other, ID, hub=hub)
    hub.api.delete_repo(ID)
    hub.publish(published, {})
    with pytest.raises(BadInput, match="more than the 0 MB allowed"):
        pull(other, ID, hub=hub, limit=100)
    with pytest.raises(BadInput, match=r"no version 3\.0\.0; it has: 1\.0\.0"):
        pull(other, f"{ID}@3.0.0", hub=hub)
    with pytest.raises(BadInput, match="no revision 'nowhere'"):
        pull(other, f"{ID}@nowhere", hub=hub)


def test_channels_on_the_hub(hub: Hub, other: Store, published: Version, newer: Version) -> None:
    hub.publish(published, {})
    hub.publish(newer, {}, channel="candidate")
    assert pull(other, ID, hub=hub).card.version == "1.0.0"
    assert pull(other, f"{ID}@candidate", hub=hub, channel="candidate").card.version == "1.1.0"
    hub.note("Yank", lambda state: Event(action="yank", version="1.0.0", reason="wrong"))
    with pytest.raises(BadInput, match="no stable version"):
        hub.find("stable")


def test_tokens(tmp_path: Path, published: Version, other: Store) -> None:
    with HubServer(tmp_path / "guarded", tokens={"r": "read", "w": "write"}) as server:

        def as_(token: str | bool) -> Hub:
            return Hub(ID, HfApi(endpoint=server.url, token=token), tmp_path / "cache")

        with pytest.raises(Unavailable, match="token|login"):
            as_("r").publish(published, {})
        with pytest.raises(Unavailable, match="token|login"):
            as_("wrong").publish(published, {})
        as_("w").publish(published, {}, private=True)
        with pytest.raises(Unavailable, match="login"):
            pull(other, ID, hub=as_(False))
        assert pull(other, ID, hub=as_("r")).card == published.card


def test_the_lock_file(hub: Hub, other: Store, published: Version, tmp_path: Path) -> None:
    hub.publish(published, {})
    version = pull(other, ID, hub=hub)
    pin = pin_of(version)
    assert pin and pin.repo == ID
    write_lock(tmp_path / "router.lock", {version.ref: pin})
    assert read_lock(tmp_path / "router.lock") == {version.ref: pin}
    with pytest.raises(BadInput, match="no lock file"):
        read_lock(tmp_path / "nothing")
    (tmp_path / "router.lock").write_text('{"specialists": {"a": {"repo": 1}}}')
    with pytest.raises(Damaged, match="not a lock file"):
        read_lock(tmp_path / "router.lock")


@pytest.mark.parametrize(
    "ref",
    [
        "rooms",
        "../x/y",
        "acme/..",
        "acme/rооms",
        "a/" + "b" * 300,
        "acme/rooms@",
        "acme/x@\x1b[2J",
        "/etc/passwd",
        "-a/b",
    ],
)
def test_hostile_references(ref: str) -> None:
    with pytest.raises(BadInput, match="is not on the Hub"):
        parse_ref(ref)
