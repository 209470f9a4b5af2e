"""What ships with the package: read, hidden, shown again, never written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.card import Card
from registry.register import register
from registry.store import Store, verify
from registry.version import Version
from specialists.errors import BadInput

from .trees import tree


@pytest.fixture
def bundled(tmp_path: Path, adapter: Path, make_card: Callable[..., Card]) -> Version:
    """scheduling@1.1.0 and @1.0.0 ship with the package."""
    shipped = Store(tmp_path / "bundled", bundled=tmp_path / "nothing")
    shipped.publish(adapter, make_card(adapter))
    return shipped.publish(adapter, make_card(adapter, version="1.1.0"))


def test_what_ships_is_sound() -> None:
    """Every bundled version loads and has the bytes of its manifest."""
    store = Store()
    for name in [version.card.name for version in store.list()]:
        for version in store.versions(name):
            verify(version)
    assert store.problems == []


def test_bundled(store: Store, bundled: Version, adapter: Path, make_card: Callable[..., Card]) -> None:
    before = tree(store.bundled)
    found = store.resolve("scheduling")
    assert (found.source, found.path, found.card) == ("bundled", bundled.path, bundled.card)
    with pytest.raises(BadInput, match="other bytes"):
        store.publish(adapter, make_card(adapter, version="1.1.0", description="Other words"))
    assert store.publish(adapter, make_card(adapter, version="1.1.0")) == found
    own = store.publish(adapter, make_card(adapter, version="1.0.5"))
    assert store.resolve("scheduling") == own and store.list() == [own]
    assert [version.ref for version in store.versions("scheduling")] == [
        "scheduling@1.0.5", "scheduling@1.1.0", "scheduling@1.0.0",
    ]  # fmt: skip
    store.unregister("scheduling@1.0.5")
    assert store.resolve("scheduling") == found
    assert tree(store.bundled) == before


def test_bundled_is_hidden_and_shown_again(
    store: Store, bundled: Version, adapter: Path, make_card: Callable[..., Card]
) -> None:
    store.unregister("scheduling@1.1.0")
    assert store.resolve("scheduling").card.version == "1.0.0"
    store.unregister("scheduling")
    assert store.list() == []
    with pytest.raises(BadInput, match="`router register scheduling` brings it back"):
        store.resolve("scheduling")
    with pytest.raises(BadInput, match="brings it back"):
        store.unregister("scheduling")
    own = store.publish(adapter, make_card(adapter, version="3.0.0"))
    assert store.versions("scheduling") == [own]
    store.unregister("scheduling")
    assert register(store, Path("scheduling")).card == bundled.card
    assert len(store.versions("scheduling")) == 2


def test_the_bundled_store_is_filled_by_the_store_itself(
    tmp_path: Path, adapter: Path, make_card: Callable[..., Card]
) -> None:
    """As registry/bundled/README.md says: the same folder as both."""
    shipped = Store(tmp_path / "bundled", bundled=tmp_path / "bundled")
    version = shipped.publish(adapter, make_card(adapter))
    assert shipped.publish(adapter, make_card(adapter)).card == version.card
    assert shipped.list() == shipped.versions("scheduling") == [version]


def test_the_own_copy_stands_in_for_a_damaged_bundled_one(
    store: Store, bundled: Version, adapter: Path, make_card: Callable[..., Card]
) -> None:
    (bundled.path / "adapter_model.safetensors").write_bytes(b"gone")
    version = store.publish(adapter, make_card(adapter, version="1.1.0"))
    assert version.source == "local" and store.resolve("scheduling@1.1.0") == version
    verify(version)
