"""Channels of a repository on the Hub: promoted, rolled back, taken back and allowed again, one commit each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from registry import hub_channels
from registry.card import Card
from registry.channels import promoted
from registry.history import replay
from registry.hub import Hub
from registry.pull import pull
from registry.server import HubServer
from registry.store import Store
from specialists.errors import BadInput, Unavailable

ID = "acme/rooms"


@pytest.fixture
def hub(
    server: HubServer, store: Store, make_adapter: Callable[..., Path], make_card: Callable[..., Card], tmp_path: Path
) -> Hub:  # fmt: skip
    """rooms 1.0.0, 1.1.0, and 2.0.0 as a candidate."""
    hub = Hub(ID, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")
    for seed, number in enumerate(("1.0.0", "1.1.0", "2.0.0")):
        folder = make_adapter(tmp_path / f"a{seed}", seed=seed)
        version = store.publish(folder, make_card(folder, name="rooms", version=number))
        hub.publish(version, {}, channel="candidate" if number == "2.0.0" else "stable")
    return hub


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Store]:
    """Stores of other machines."""
    return lambda name: Store(tmp_path / name, bundled=tmp_path / "bundled")


def commits(hub: Hub) -> list[str]:
    """Titles, the newest first."""
    return [commit.title for commit in hub.api.list_repo_commits(ID)]


def test_promoted_in_one_commit_on_the_head(hub: Hub, fresh: Callable[[str], Store]) -> None:
    head, before = hub.find("main").commit, commits(hub)
    tree = {file.path: file.blob_id for file in hub.api.list_repo_tree(ID)}  # type: ignore[union-attr]
    hub_channels.promote(hub, "2.0.0", reason="passed", over="1.1.0")
    assert commits(hub) == ["Promote 2.0.0 to stable", *before]
    after = {file.path: file.blob_id for file in hub.api.list_repo_tree(ID)}  # type: ignore[union-attr]
    assert [path for path in after if after[path] != tree.get(path)] == ["history.jsonl"]
    assert hub.api.list_repo_commits(ID)[1].commit_id == head
    last = hub.history()[-1]
    assert (last.action, last.version, last.channel, last.reason) == (
        "promote", "2.0.0", "stable", "passed",
    )  # fmt: skip
    assert pull(fresh("one"), ID, hub=hub).card.version == "2.0.0"
    hub_channels.promote(hub, "2.0.0")  # nothing to do
    assert len(commits(hub)) == len(before) + 1
    assert hub_channels.rollback(hub, reason="worse") == "1.1.0"
    assert pull(fresh("two"), ID, hub=hub).card.version == "1.1.0"


def test_taken_back_and_allowed_again(hub: Hub, fresh: Callable[[str], Store]) -> None:
    assert hub_channels.yank(hub, "1.1.0", "wrong on Sundays") == "1.1.0"
    assert hub_channels.yank(hub, "1.1.0", "again") == "1.1.0"  # nothing to do
    assert pull(fresh("one"), ID, hub=hub).card.version == "1.0.0"  # what stable meant before
    assert pull(fresh("two"), f"{ID}@1.1.0", hub=hub).card.version == "1.1.0"  # still answers to its number
    with pytest.raises(BadInput, match=r"taken back \(wrong on Sundays\).*yank acme/rooms@1.1.0 --undo"):
        hub_channels.promote(hub, "1.1.0", over="1.0.0")
    assert hub_channels.restore(hub, "1.1.0") == hub_channels.restore(hub, "1.1.0") == "1.1.0"
    hub_channels.promote(hub, "1.1.0", over="1.0.0")
    told = hub.history()
    assert [(one.action, one.version) for one in told[3:]] == [
        ("yank", "1.1.0"), ("restore", "1.1.0"), ("promote", "1.1.0"),
    ]  # fmt: skip
    assert commits(hub)[:3] == ["Promote 1.1.0 to stable", "Allow 1.1.0 again", "Take 1.1.0 back"]
    states = [replay(told[:count]).channels.get("stable") for count in range(len(told) + 1)]
    assert states == [None, "1.0.0", "1.1.0", "1.1.0", "1.0.0", "1.0.0", "1.1.0"]


def test_what_cannot_be_done_is_one_sentence(hub: Hub) -> None:
    before = commits(hub)
    with pytest.raises(BadInput, match="Say why"):
        hub_channels.yank(hub, "1.0.0", " ")
    with pytest.raises(BadInput, match=r"no version 9.9.9; it has: 2.0.0, 1.1.0, 1.0.0"):
        hub_channels.yank(hub, "9.9.9", "no")
    with pytest.raises(BadInput, match="acme/rooms@main. is no published version"):
        hub_channels.restore(hub, "main")
    with pytest.raises(BadInput, match="no channel 'nightly'"):
        hub_channels.promote(hub, "1.0.0", "nightly")
    with pytest.raises(Unavailable, match="no model acme/other"):
        hub_channels.yank(Hub("acme/other", hub.api), "1.0.0", "no")
    assert commits(hub) == before


def overtaken(hub: Hub, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> None:
    """Somebody else is faster than the next commit."""
    real, raced = hub.api.create_commit, []

    def slow(*args: Any, **more: Any) -> Any:
        if not raced:
            raced.append(True)
            meanwhile()
        return real(*args, **more)

    monkeypatch.setattr(hub.api, "create_commit", slow)


def test_overtaken_by_another_change_it_is_made_on_top(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    overtaken(hub, monkeypatch, lambda: hub_channels.yank(hub, "1.0.0", "leaks"))
    hub_channels.promote(hub, "2.0.0", over="1.1.0")
    assert [one.action for one in hub.history()[3:]] == ["yank", "promote"]
    assert hub.state().channels["stable"] == "2.0.0" and hub.state().yanked == {"1.0.0": "leaks"}


def test_compared_with_what_is_no_longer_stable_it_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    overtaken(hub, monkeypatch, lambda: hub_channels.rollback(hub))
    with pytest.raises(BadInput, match=r"became 1.0.0 meanwhile, and 2.0.0 was compared with 1.1.0"):
        hub_channels.promote(hub, "2.0.0", over="1.1.0")
    assert hub.state().channels["stable"] == "1.0.0"


@pytest.mark.parametrize("how", ["before", "after", "half"])
def test_a_lost_answer_is_no_second_rollback(
    how: str, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut at any one request, a rollback was made once or not at all, and what is said is true."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the client's own retries
    said = set()
    for at in range(20):
        hub_channels.promote(hub, "2.0.0", over=hub.state().channels["stable"])
        before, start = hub.history(), len(server.requests)
        server.fault = lambda number, method, path, at=at + start: how if number == at else None  # type: ignore[misc]
        try:
            assert hub_channels.rollback(hub) == "1.1.0"
            ok = True
        except Unavailable as error:
            assert "router registry history acme/rooms" in str(error) or "needs the Hub" in str(error)
            ok = False
        server.fault = lambda number, method, path: None
        made = hub.history()[len(before) :]
        assert [one.action for one in made] == ["rollback"] * ok
        said.add(ok)
        if len(server.requests) - start <= at:
            break
        if not ok:
            hub_channels.rollback(hub)
    assert at > 2 and True in said


def test_promoted_says_what_a_channel_means_now(hub: Hub) -> None:
    state = hub.state()
    assert promoted(state, ID, "1.1.0", "stable", None) is None
    assert promoted(state, ID, "1.1.0", "candidate", None) is not None
