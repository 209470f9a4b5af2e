"""A clock that is a day wrong, either way or both in turns: order and safety do not depend on it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from registry import history, hub_channels
from registry import trust as trusting
from registry.card import Card
from registry.channels import promote, rollback
from registry.history import replay
from registry.hub import Hub
from registry.lock import pin_of
from registry.pull import pull, pull_pin
from registry.server import HubServer
from registry.sign import SIGNATURE, sign
from registry.store import Store, Version, verify
from registry.trust import Trust
from registry.version import MANIFEST, file_names
from specialists.errors import Damaged

ID = "acme/rooms"
DAY = 24.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Set this machine's clock so many hours wrong, for what is ours and for the libraries below."""
    real, wrong = time.time, [0.0]

    class Skewed(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.fromtimestamp(time.time(), tz)

    monkeypatch.setattr(time, "time", lambda: real() + 3600 * wrong[0])
    monkeypatch.setattr(history, "datetime", Skewed)
    monkeypatch.setattr(trusting, "datetime", Skewed)
    return lambda hours: wrong.__setitem__(0, hours)


@pytest.fixture
def versions(
    store: Store, make_adapter: Callable[..., Path], make_card: Callable[..., Card], tmp_path: Path
) -> Callable[[str], Version]:
    def made(number: str) -> Version:
        folder = make_adapter(tmp_path / number, seed=int(number[2]))
        return store.publish(folder, make_card(folder, name="rooms", version=number))

    return made


@pytest.fixture
def hub(server: HubServer, tmp_path: Path) -> Hub:
    return Hub(ID, HfApi(endpoint=server.url, token="any"), tmp_path / "cache")


def test_the_clock_of_this_test_is_wrong(clock: Callable[[float], None]) -> None:
    clock(-DAY)
    assert (
        history.event("yank", "1.0.0").when < f"{datetime.now(UTC) - timedelta(hours=23):%Y-%m-%dT%H:%M:%SZ}"
    )
    clock(DAY)
    assert (
        history.event("yank", "1.0.0").when > f"{datetime.now(UTC) + timedelta(hours=23):%Y-%m-%dT%H:%M:%SZ}"
    )


@pytest.mark.parametrize("hours", [-DAY, DAY])
def test_publish_and_pull(
    hours: float, clock: Callable[[float], None], versions: Callable[[str], Version], hub: Hub, keys: Path,
    ours: bytes, stranger: bytes, tmp_path: Path,
) -> None:  # fmt: skip
    """Publisher, Hub and whoever pulls each think it another day; bytes, signatures and pins are checked the same."""
    clock(hours)
    version = versions("1.0.0")
    signature = sign(version.path, [*file_names(version.card), MANIFEST], keys / "ours")
    commit = hub.publish(version, {SIGNATURE: signature})
    clock(-hours)
    other = Store(tmp_path / "other", bundled=tmp_path / "none")
    Trust(other.home).add("acme", ours)
    clock(hours)
    came = pull(other, ID, hub=hub)
    verify(came)
    assert (came.origin, came.manifest) == (f"{ID}@{commit}", version.manifest)
    pin = pin_of(came)
    assert (
        pin
        and pull_pin(Store(tmp_path / "third", tmp_path / "none"), came.ref, pin, hub=hub).card == came.card
    )
    strict = Store(tmp_path / "strict", bundled=tmp_path / "none")
    Trust(strict.home).add("acme", stranger)
    with pytest.raises(Damaged, match="not the signature of acme"):
        pull(strict, ID, hub=hub)


def test_the_order_is_that_of_the_lines(
    clock: Callable[[float], None], versions: Callable[[str], Version], store: Store, hub: Hub, tmp_path: Path
) -> None:
    """What was done last counts, at home and on the Hub, though the times beside it say the opposite."""
    for number, hours in (("1.0.0", DAY), ("1.1.0", 0), ("1.2.0", -DAY)):
        clock(hours)
        hub.publish(versions(number), {})
    clock(-2 * DAY)
    assert rollback(store, "rooms").ref == "rooms@1.1.0" and hub_channels.rollback(hub) == "1.1.0"
    clock(-3 * DAY)
    promote(store, "rooms@1.0.0")
    hub_channels.promote(hub, "1.0.0", over="1.1.0")
    for told in (store.histories.read("rooms"), hub.history()):
        assert [one.when for one in told] == sorted((one.when for one in told), reverse=True)
        assert [replay(told[:count]).channels["stable"] for count in range(1, 6)] == [
            "1.0.0", "1.1.0", "1.2.0", "1.1.0", "1.0.0",
        ]  # fmt: skip
    assert store.resolve("rooms").card.version == "1.0.0"
    assert pull(Store(tmp_path / "other", tmp_path / "none"), ID, hub=hub).card.version == "1.0.0"
    assert [commit.title for commit in hub.api.list_repo_commits(ID)][0] == "Promote 1.0.0 to stable"


@pytest.mark.parametrize("hours", [-DAY, DAY])
def test_times_of_files_mean_nothing(hours: float, versions: Callable[[str], Version], store: Store) -> None:
    """As after a restored backup, or a disk written by a machine whose clock was wrong."""
    version = versions("1.0.0")
    then = time.time() + 3600 * hours
    for path in store.home.rglob("*"):
        os.utime(path, (then, then))
    newer = versions("1.1.0")
    assert store.versions("rooms") == [newer, store.resolve(version.ref)] and store.problems == []
    for one in store.versions("rooms"):
        verify(one)
