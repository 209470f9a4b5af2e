"""Registering an adapter folder, a version folder, or what is neither."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from registry.register import register
from registry.store import Store, verify
from registry.version import Version
from specialists.errors import BadInput, Damaged

from .trees import tree


def test_register_a_plain_adapter(
    store: Store, adapter: Path, exemplars: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    version = register(store, adapter, "rooms", exemplars, "scheduling")
    assert version.ref == "rooms@1.0.0"
    assert version.card.exemplars == ("Do two rooms do?", "Reichen zwei Räume?")
    assert (version.card.parser, version.card.base_weights) == ("answer_line", "unknown")
    assert version.card.base == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    verify(version)
    assert register(store, adapter, "rooms", exemplars, "scheduling") == version
    (version.path / "adapter_model.safetensors").write_bytes(
        b"gone".ljust((adapter / "adapter_model.safetensors").stat().st_size, b"!")
    )
    assert register(store, adapter, "rooms", exemplars, "scheduling") == version
    verify(version)
    other = make_adapter(tmp_path / "other", seed=1)
    assert register(store, other, "rooms", exemplars, "scheduling").ref == "rooms@1.0.1"
    assert (
        register(store, adapter, "rooms", exemplars, "scheduling").ref == "rooms@1.0.2"
    )  # the present one again
    assert (
        register(store, adapter, "rooms", exemplars, "scheduling", parser="scheduling").ref == "rooms@1.0.3"
    )


def test_register_takes_a_prompt_from_a_file(
    store: Store, adapter: Path, exemplars: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("Plan.")
    version = register(store, adapter, "rooms", exemplars, f"file:{tmp_path / 'mine.txt'}")
    assert version.prompt_text() == "Plan."
    assert register(store, adapter, "rooms", exemplars, f"file:{tmp_path / 'mine.txt'}") == version
    (tmp_path / "mine.txt").write_text("Plan well.")
    assert register(store, adapter, "rooms", exemplars, f"file:{tmp_path / 'mine.txt'}").ref == "rooms@1.0.1"
    (adapter / "prompt.txt").write_text("Beside.")
    assert register(store, adapter, "rooms", exemplars, "file:prompt.txt").prompt_text() == "Beside."


def test_register_says_what_is_missing(
    store: Store, adapter: Path, exemplars: Path, make_adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        BadInput, match=r"give also a name, exemplars \(a file, one question a line\), a prompt\."
    ):
        register(store, adapter)
    with pytest.raises(BadInput, match="the prompt 'nonsense' is not one of"):
        register(store, adapter, "rooms", exemplars, "nonsense")
    with pytest.raises(BadInput, match="nowhere.txt"):
        register(store, adapter, "rooms", tmp_path / "nowhere.txt", "plain")
    with pytest.raises(BadInput, match="nowhere.txt"):
        register(store, adapter, "rooms", exemplars, "file:nowhere.txt")
    with pytest.raises(BadInput, match="reserved"):
        register(store, adapter, "base", exemplars, "plain")
    with pytest.raises(BadInput, match="There is no folder"):
        register(store, tmp_path / "nowhere")
    with pytest.raises(BadInput, match="There is no folder"):
        register(store, exemplars)
    baseless = make_adapter(tmp_path / "baseless", base_model_name_or_path=None)
    with pytest.raises(BadInput, match="which base"):
        register(store, baseless, "rooms", exemplars, "plain")
    assert register(store, baseless, "rooms", exemplars, "plain", base="org/base").card.base == "org/base"
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(Damaged, match=r"adapter_config\.json is missing"):
        register(store, empty, "rooms", exemplars, "plain")


def test_register_a_version_folder(store: Store, published: Version, exemplars: Path, tmp_path: Path) -> None:
    other = Store(tmp_path / "other", bundled=tmp_path / "nothing")
    assert register(other, published.path).card == published.card
    assert tree(other.home) == tree(store.home)
    with pytest.raises(BadInput, match="leave out"):
        register(other, published.path, "rooms", exemplars, "plain")
    config = published.path / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    with pytest.raises(Damaged, match=r"adapter_config\.json is not the file"):
        register(other, published.path)
    (published.path / "card.json").write_text("{}")
    (published.path / "manifest.json").unlink()
    with pytest.raises(Damaged, match=r"card\.json: This card cannot be used: missing field"):
        register(other, published.path)
