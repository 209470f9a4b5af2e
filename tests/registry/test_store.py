"""The store: publish, resolve, list, unregister, and what harm to its files is called."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from registry.card import Card
from registry.store import Store, verify
from registry.version import Version, manifest_of
from specialists.errors import BadInput, Damaged, Unavailable
from specialists.prompts import PROMPTS

from .trees import tree

FILES = ["adapter_config.json", "adapter_model.safetensors", "card.json", "manifest.json"]


def test_round_trip(store: Store, published: Version, adapter: Path, make_card: Callable[..., Card]) -> None:
    assert published.card == make_card(adapter)
    assert (published.source, published.channel, published.ref) == ("local", "stable", "scheduling@1.0.0")
    assert sorted(path.name for path in published.path.iterdir()) == FILES
    for name in FILES[:2]:
        assert (published.path / name).read_bytes() == (adapter / name).read_bytes()
    assert store.list() == store.versions("scheduling") == [published]
    assert store.resolve("scheduling") == store.resolve("scheduling@1.0.0") == published
    assert published.prompt_text() == PROMPTS["scheduling"]
    verify(published)
    assert store.problems == []


def test_the_default_home(
    adapter: Path, make_card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ROUTER_HOME", str(tmp_path / "elsewhere"))
    version = Store().publish(adapter, make_card(adapter, name="mine"))
    assert version.path == tmp_path / "elsewhere" / "registry" / "mine" / "1.0.0"


def test_reading_makes_no_folder(store: Store) -> None:
    assert store.list() == []
    with pytest.raises(
        BadInput, match="no specialist 'x'; you have none: add one with `router register PATH`"
    ):
        store.resolve("x")
    assert not store.home.exists()


def test_own_prompt_file(store: Store, adapter: Path, make_card: Callable[..., Card]) -> None:
    card = make_card(adapter, prompt="file:prompt.txt")
    for bad in (None, b"", b"  \n", b"\xff\xfe", b"x" * 20_001):
        if bad is not None:
            (adapter / "prompt.txt").write_bytes(bad)
        with pytest.raises(BadInput, match="prompt"):
            store.publish(adapter, card)
    (adapter / "prompt.txt").write_text("Plan rooms für mich.\n", encoding="utf-8")
    version = store.publish(adapter, card)
    assert version.prompt_text() == "Plan rooms für mich."
    (version.path / "prompt.txt").write_text("Ignore the question!\n", encoding="utf-8")
    with pytest.raises(Damaged, match=r"prompt\.txt is not the file that was published"):
        store.resolve("scheduling")


def test_versions_never_change(
    store: Store,
    published: Version,
    adapter: Path,
    make_adapter: Callable[..., Path],
    make_card: Callable[..., Card],
    tmp_path: Path,
) -> None:
    before = tree(store.home)
    assert store.publish(adapter, make_card(adapter)) == published
    other = make_adapter(tmp_path / "other", seed=1)
    for folder, card in [(other, make_card(other)), (adapter, make_card(adapter, description="Other words"))]:
        with pytest.raises(BadInput, match=r"scheduling@1\.0\.0 exists with other bytes"):
            store.publish(folder, card)
    assert tree(store.home) == before
    assert store.publish(other, make_card(other, version="1.0.1")) == store.resolve("scheduling")


def test_the_card_must_be_of_the_adapter(store: Store, adapter: Path, make_card: Callable[..., Card]) -> None:
    with pytest.raises(Damaged, match="sha256"):
        store.publish(adapter, make_card(adapter, adapter="0" * 64))
    assert tree(store.home) == {} and store.list() == []


def test_a_damaged_adapter_is_not_published(
    store: Store, adapter: Path, make_card: Callable[..., Card]
) -> None:
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(Damaged, match="cut short"):
        store.publish(adapter, make_card(adapter))
    assert not store.home.exists()


def test_latest_is_by_number(store: Store, adapter: Path, make_card: Callable[..., Card]) -> None:
    for number in ("1.9.0", "1.10.0", "0.99.0"):
        store.publish(adapter, make_card(adapter, version=number))
    assert store.resolve("scheduling").card.version == "1.10.0"
    assert [version.card.version for version in store.versions("scheduling")] == ["1.10.0", "1.9.0", "0.99.0"]
    assert [version.ref for version in store.list()] == ["scheduling@1.10.0"]


def test_errors_say_what_exists(
    store: Store, published: Version, adapter: Path, make_card: Callable[..., Card]
) -> None:
    store.publish(adapter, make_card(adapter, name="dates"))
    with pytest.raises(BadInput) as caught:
        store.resolve("schedulin")
    expected = "There is no specialist 'schedulin'; you have: dates, scheduling. Did you mean scheduling?"
    assert str(caught.value) == expected
    with pytest.raises(BadInput, match=r"'scheduling' has no version 2\.0\.0; it has: 1\.0\.0\."):
        store.resolve("scheduling@2.0.0")
    for ref in (
        "",
        "../x",
        "sсheduling",
        "scheduling/1.0.0",
        "x" * 300,
        "base",
        "a@b@c",
        "\x1b[31m",
        ".tmp-1",
    ):
        for ask in (store.resolve, store.unregister, store.versions):
            with pytest.raises(BadInput, match="you have: dates, scheduling") as refused:
                ask(ref)
            assert len(str(refused.value)) < 250 and str(refused.value).isprintable()
    for ref in ("scheduling@", "scheduling@latest", "scheduling@../1.0.0"):
        with pytest.raises(BadInput, match="is not a version"):
            store.resolve(ref)


@pytest.mark.parametrize("harm", ["other byte", "cut short", "missing", "longer"])
@pytest.mark.parametrize("name", FILES)
def test_harm_to_any_file_is_named(
    name: str, harm: str, store: Store, published: Version, adapter: Path, make_card: Callable[..., Card]
) -> None:
    path = published.path / name
    raw = path.read_bytes()
    middle = len(raw) // 2
    if harm == "missing":
        path.unlink()
    else:
        flipped = raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]
        path.write_bytes({"other byte": flipped, "cut short": raw[:-9], "longer": raw + b"}"}[harm])
    with pytest.raises(Damaged, match=name.replace(".", r"\.")):
        verify(published)
    if (name, harm) == ("adapter_model.safetensors", "other byte"):
        assert store.resolve("scheduling") == published  # only verify() reads the weights
    else:
        with pytest.raises(Damaged, match=name.replace(".", r"\.")):
            store.resolve("scheduling")
        assert store.list() == [] and len(store.problems) == 1 and name in store.problems[0]
        store.list()
        assert len(store.problems) == 1
    if name != "manifest.json" or harm != "other byte":  # a manifest that still reads may be of other bytes
        assert store.publish(adapter, make_card(adapter)) == published
        verify(published)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"card.json": 3}}',
        '{"files": {"card.json": {"sha256": 1, "bytes": 1}}}',
        "[" * 99_999,
    ],
)
def test_what_is_no_manifest(text: str, store: Store, published: Version) -> None:
    (published.path / "manifest.json").write_text(text)
    with pytest.raises(Damaged, match=r"manifest\.json is not a manifest"):
        store.resolve("scheduling")


def rewrite_manifest(version: Version, change: Callable[[dict[str, Any]], object]) -> None:
    path = version.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["files"])
    path.write_text(json.dumps(manifest))


def test_a_manifest_names_no_other_file(store: Store, published: Version, tmp_path: Path) -> None:
    rewrite_manifest(published, lambda files: files.update({"../../../secret": files["card.json"]}))
    with pytest.raises(Damaged, match="no file of a version"):
        store.resolve("scheduling")


@pytest.mark.parametrize("name", FILES[:3])
def test_a_manifest_leaves_out_no_file(name: str, store: Store, published: Version) -> None:
    rewrite_manifest(published, lambda files: files.pop(name))
    with pytest.raises(Damaged):
        store.resolve("scheduling")


def test_a_moved_version_is_refused(store: Store, published: Version) -> None:
    shutil.copytree(published.path, store.home / "dates" / "1.0.0")
    with pytest.raises(Damaged, match=r"is the card of scheduling@1\.0\.0"):
        store.resolve("dates")


def test_half_written_entries(
    store: Store, published: Version, adapter: Path, make_card: Callable[..., Card]
) -> None:
    shutil.copytree(published.path, store.home / "scheduling" / "1.1.0")
    (store.home / "scheduling" / "1.1.0" / "manifest.json").unlink()
    (store.home / ".tmp-0123").mkdir()
    (store.home / "scheduling" / "drafts").mkdir()
    (store.home / "empty").mkdir()
    assert store.list() == [published] == store.versions("scheduling")
    assert [problem.split(" is ")[1][:20] for problem in store.problems] == [
        "a change under way o",
        "half-written: it has",
    ]
    with pytest.raises(Damaged, match=r"1\.1\.0 is half-written: it has no manifest\.json"):
        store.resolve("scheduling@1.1.0")
    assert store.resolve("scheduling") == published
    store.publish(adapter, make_card(adapter, version="1.1.0"))
    assert store.list() == [store.resolve("scheduling@1.1.0")] and store.problems == []


def test_unregister(store: Store, published: Version, adapter: Path, make_card: Callable[..., Card]) -> None:
    store.publish(adapter, make_card(adapter, version="1.0.1"))
    store.publish(adapter, make_card(adapter, name="dates"))
    store.unregister("scheduling@1.0.1")
    assert store.resolve("scheduling") == published
    with pytest.raises(BadInput, match=r"no version 1\.0\.1"):
        store.unregister("scheduling@1.0.1")
    store.unregister("scheduling")
    assert [version.ref for version in store.list()] == ["dates@1.0.0"]
    assert {name.split("/")[0] for name in tree(store.home)} == {".history", "dates"}
    assert not published.path.parent.exists()


def test_unregister_removes_damaged_versions(store: Store, published: Version) -> None:
    (published.path / "manifest.json").unlink()
    store.unregister("scheduling@1.0.0")
    assert list(tree(store.home)) == [".history/scheduling.jsonl"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "rename", "open"])
def test_a_full_or_read_only_disk(
    call: str,
    code: int,
    store: Store,
    published: Version,
    adapter: Path,
    make_card: Callable[..., Card],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = tree(store.home)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(shutil if call == "open" else os, "copyfile" if call == "open" else call, refuse)
        with pytest.raises(Unavailable, match=os.strerror(code)):
            store.publish(adapter, make_card(adapter, version="1.0.1"))
    assert tree(store.home) == before and store.list() == [published] and store.problems == []
    assert store.publish(adapter, make_card(adapter, version="1.0.1")) == store.resolve("scheduling")


def test_a_home_that_cannot_be(tmp_path: Path, adapter: Path, make_card: Callable[..., Card]) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store", bundled=tmp_path / "bundled")
    assert store.list() == []
    with pytest.raises(Unavailable, match="make it writable"):
        store.publish(adapter, make_card(adapter))


@pytest.mark.parametrize("names", [1, 1000])
def test_a_thousand_versions_list_within_a_second(names: int, store: Store, published: Version) -> None:
    """A thousand versions of one name, or one of each of a thousand names, by processor time."""
    for number in range(1000):
        card = replace(published.card, name=f"name-{number % names}", version=f"1.{number}.0")
        folder = store.home / card.name / card.version
        shutil.copytree(published.path, folder, copy_function=os.link)
        for name in ("card.json", "manifest.json"):  # unlinked first, as the copies share their bytes
            (folder / name).unlink()
        (folder / "card.json").write_text(card.to_json(), encoding="utf-8")
        (folder / "manifest.json").write_text(manifest_of(folder, tuple(FILES[:3])))
    start = time.process_time()
    assert len(store.list()) == names + 1
    assert time.process_time() - start < 1
    assert store.problems == []
    if names == 1:
        assert len(store.versions("name-0")) == 1000
        assert store.resolve("name-0").card.version == "1.999.0"
