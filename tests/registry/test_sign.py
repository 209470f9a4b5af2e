"""Signatures with real keys: what they cover, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.sign import MAX_SIGNATURE, check_signature, claims, fingerprint, keygen, sign
from registry.store import Store
from registry.trust import Trust
from registry.version import MANIFEST, Version, file_names
from specialists.errors import BadInput, Damaged, Unavailable

from .signed import NAMES, flipped, refused

ROOT = Path(__file__).resolve().parents[2]


def library_signature(folder: Path, key: Path, **hashing: Any) -> bytes:
    """A signature of a whole folder by the library alone."""
    from model_signing import hashing as library_hashing
    from model_signing import signing

    config: Any = library_hashing.Config()  # type: ignore[no-untyped-call]
    for method, options in hashing.items():
        getattr(config, method)(**options)
    path = folder.parent / "library.sig"
    signer: Any = signing.Config()  # type: ignore[no-untyped-call]
    signer.use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(folder, path)
    return path.read_bytes()


def meaning(signature: bytes) -> list[bytes]:
    """What was signed, and the signature itself."""
    envelope = json.loads(signature)["dsseEnvelope"]
    return [base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])]


# What a signature covers


def test_a_signature_is_of_the_named_files_alone(
    folder: Path, signature: bytes, ours: bytes, keys: Path
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in ("README.md", "model.sig", ".git/config"):
        (folder / name).write_text("another")
    (folder / "more").mkdir()
    check_signature(folder, NAMES, signature, ours)
    check_signature(folder, NAMES[::-1], signature, ours)
    again = sign(folder, NAMES, keys / "ours")
    check_signature(folder, NAMES, again, ours)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {path for path in after if before.get(path) != after[path]} == {
        folder / name for name in ("README.md", "model.sig", ".git/config")
    }
    assert str(folder.parent) not in str(base64.b64decode(json.loads(again)["dsseEnvelope"]["payload"]))


@pytest.mark.parametrize("name", NAMES)
def test_one_bit_of_any_file(name: str, folder: Path, signature: bytes, ours: bytes) -> None:
    data = (folder / name).read_bytes()
    for bit in (0, 4 * len(data), 8 * len(data) - 1):
        (folder / name).write_bytes(flipped(data, bit))
        with refused(Damaged, rf"\({name} was changed\)"):
            check_signature(folder, NAMES, signature, ours)
    for other in (b"", data[:-1], data + b"\n"):
        (folder / name).write_bytes(other)
        with refused(Damaged, rf"\({name} was changed\)"):
            check_signature(folder, NAMES, signature, ours)
    (folder / name).write_bytes(data)
    check_signature(folder, NAMES, signature, ours)


def test_removed_renamed_swapped_and_added_files(
    folder: Path, signature: bytes, ours: bytes, keys: Path
) -> None:
    with refused(Damaged, "it also lists 'manifest.json'"):
        check_signature(folder, NAMES[:-1], signature, ours)
    with refused(Damaged, "it has no sha256 of README.md"):
        check_signature(folder, (*NAMES, "README.md"), signature, ours)
    os.rename(folder / "prompt.txt", folder / "prompt2.txt")
    with refused(Damaged, "it has no sha256 of prompt2.txt, it also lists 'prompt.txt'"):
        check_signature(folder, [name.replace("prompt", "prompt2") for name in NAMES], signature, ours)
    with refused(Damaged, "prompt.txt is missing"):
        check_signature(folder, NAMES, signature, ours)
    with refused(Damaged, "prompt.txt is missing"):
        sign(folder, NAMES, keys / "ours")
    os.rename(folder / "card.json", folder / "prompt.txt")
    os.rename(folder / "prompt2.txt", folder / "card.json")
    with refused(Damaged, "card.json was changed, prompt.txt was changed"):
        check_signature(folder, NAMES, signature, ours)


def test_the_signature_of_another_version(
    store: Store,
    published: Version,
    adapter: Path,
    make_card: Callable[..., Any],
    keys: Path,
    ours: bytes,
) -> None:
    """The same weights as 1.1.0 are another version: what was signed is 1.0.0."""
    newer = store.publish(adapter, make_card(adapter, version="1.1.0"))
    names = [*file_names(published.card), MANIFEST]
    old = sign(published.path, names, keys / "ours")
    check_signature(published.path, names, old, ours)
    with refused(Damaged, r"\(card.json was changed, manifest.json was changed\)"):
        check_signature(newer.path, names, old, ours)


@pytest.mark.parametrize(
    "hashing",
    [
        {"set_ignored_paths": {"paths": ["card.json"]}},
        {"set_ignored_paths": {"paths": NAMES}},
        {"use_file_serialization": {"hashing_algorithm": "blake2"}},
        {"use_shard_serialization": {"shard_size": 8}},
    ],
)
def test_a_signature_does_not_choose_what_is_checked(
    hashing: dict[str, Any], folder: Path, keys: Path, ours: bytes
) -> None:
    """The library goes by what the signature says to leave out, even for a file that was changed since."""
    for other in set(folder.iterdir()) - {folder / name for name in NAMES}:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    partial = library_signature(folder, keys / "ours", **hashing)
    with refused(Damaged, "it has no sha256 of|it lists no files"):
        check_signature(folder, NAMES, partial, ours)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../key",
        "a/b",
        "/etc/passwd",
        "a b",
        "a\nb",
        "a\\b",
        "-x",
        ".git",
        "é",
        "a\x1b[31m",
        "C:a",
        "a" * 101,
    ],
)
def test_odd_names_are_refused(name: str, folder: Path, signature: bytes, keys: Path, ours: bytes) -> None:
    with refused(BadInput, "cannot be signed; rename it"):
        sign(folder, [*NAMES, name], keys / "ours")
    with refused(BadInput, "cannot be signed; rename it"):
        check_signature(folder, [*NAMES, name], signature, ours)


@pytest.mark.parametrize("names", [(), ("card.json", "card.json")])
def test_nothing_and_twice_the_same_are_refused(names: tuple[str, ...], folder: Path, keys: Path) -> None:
    with refused(BadInput, "each named once"):
        sign(folder, names, keys / "ours")


def test_links_empty_files_and_what_is_no_file(
    folder: Path, signature: bytes, keys: Path, ours: bytes, tmp_path: Path
) -> None:
    """A link is what it leads to, as in the Hub's cache; the library passes over folders and cannot read pipes."""
    os.rename(folder / "card.json", tmp_path / "blob")
    (folder / "card.json").symlink_to("../blob")
    check_signature(folder, NAMES, signature, ours)
    assert claims(sign(folder, NAMES, keys / "ours"), ours)
    (tmp_path / "blob").write_text("changed")
    with refused(Damaged, "card.json was changed"):
        check_signature(folder, NAMES, signature, ours)
    (tmp_path / "blob").write_bytes(b"")
    empty = sign(folder, NAMES, keys / "ours")
    check_signature(folder, NAMES, empty, ours)
    (tmp_path / "blob").write_bytes(b"\0")
    with refused(Damaged, "card.json was changed"):
        check_signature(folder, NAMES, empty, ours)
    (tmp_path / "blob").unlink()
    for make in (lambda path: None, Path.mkdir, os.mkfifo):
        make(tmp_path / "blob")
        with refused(Damaged, "card.json is missing or not a file"):
            sign(folder, NAMES, keys / "ours")
        with refused(Damaged, "card.json is missing or not a file"):
            check_signature(folder, NAMES, signature, ours)
        if (tmp_path / "blob").is_dir():
            (tmp_path / "blob").rmdir()


def test_a_file_that_may_not_be_read(
    folder: Path, signature: bytes, keys: Path, ours: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("model_signing.hashing.Config.hash", forbidden)
    with refused(Unavailable, "Permission denied"):
        sign(folder, NAMES, keys / "ours")
    with refused(Unavailable, "Permission denied"):
        check_signature(folder, NAMES, signature, ours)


# Signatures that are none


def test_another_key(folder: Path, signature: bytes, keys: Path, ours: bytes, stranger: bytes) -> None:
    with refused(Damaged, f"by key {fingerprint(stranger)}, but says it is by another"):
        check_signature(folder, NAMES, signature, stranger)
    theirs = json.loads(sign(folder, NAMES, keys / "stranger"))
    theirs["verificationMaterial"] = json.loads(signature)["verificationMaterial"]
    with refused(Damaged, "it was changed itself"):
        check_signature(folder, NAMES, json.dumps(theirs).encode(), ours)


def test_a_list_of_files_that_was_not_signed(folder: Path, signature: bytes, ours: bytes) -> None:
    forged = json.loads(signature)
    statement = json.loads(base64.b64decode(forged["dsseEnvelope"]["payload"]))
    (folder / "card.json").write_text("evil")
    for one in statement["predicate"]["resources"]:
        one["digest"] = hashlib.sha256((folder / one["name"]).read_bytes()).hexdigest()
    digests = b"".join(bytes.fromhex(one["digest"]) for one in statement["predicate"]["resources"])
    statement["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()
    forged["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    with refused(Damaged, "it was changed itself"):
        check_signature(folder, NAMES, json.dumps(forged).encode(), ours)


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b'{"verificationMaterial": {"publicKey": {"hint": null}}}',
        b'{"verificationMaterial": {"publicKey": {"hint": {"a": 1}}}}',
        b"[" * 100_000,
        b"1" * 10_000,
        b"\xff\xfe\x00",
        bytes(range(256)) * 20,
        b" " * (MAX_SIGNATURE + 1),
        b"x" * 20_000_000,
    ],
    ids=lambda garbage: repr(garbage[:30]),
)
def test_garbage_is_no_signature(garbage: bytes, folder: Path, ours: bytes) -> None:
    with refused(Damaged, "not a signature"):
        check_signature(folder, NAMES, garbage, ours)


def test_a_signature_cut_short_or_changed(
    folder: Path, signature: bytes, ours: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    for end in range(0, len(signature), 97):
        with refused(Damaged):
            check_signature(folder, NAMES, signature[:end], ours)
    with refused(Damaged, "not a signature"):
        check_signature(folder, NAMES, signature + b" " * MAX_SIGNATURE, ours)
    for byte in range(0, len(signature), 5):
        changed_bit = flipped(signature, 8 * byte + byte % 8)
        try:
            check_signature(folder, NAMES, changed_bit, ours)
        except Damaged:
            continue
        assert meaning(changed_bit) == meaning(signature)  # the last letter of base64 has bits to spare
    bundle = json.loads(signature)
    envelope, material = bundle["dsseEnvelope"], bundle["verificationMaterial"]
    for changed in (
        bundle | {"mediaType": "\x1b[31m\nred"},
        bundle | {"dsseEnvelope": None},
        bundle | {"dsseEnvelope": {**envelope, "signatures": []}},
        bundle | {"dsseEnvelope": {**envelope, "payload": "?"}},
        bundle | {"dsseEnvelope": {**envelope, "payload": base64.b64encode(b"[" * 9999).decode()}},
        bundle | {"dsseEnvelope": {**envelope, "payloadType": "text/html"}},
        bundle | {"verificationMaterial": {**material, "public_key": {"hint": None}}},
        bundle | {"verificationMaterial": {**material, "publicKey": {"hint": None}}},
        bundle | {"verificationMaterial": {**material, "publicKey": {}}},
    ):
        with refused(Damaged):
            check_signature(folder, NAMES, json.dumps(changed).encode(), ours)
    assert capfd.readouterr() == (
        "",
        "",
    )  # the library would warn on standard output of a signature without a hint


def test_without_the_library(
    monkeypatch: pytest.MonkeyPatch, folder: Path, ours: bytes, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing", None)
    for use in (
        lambda: keygen(tmp_path / "key"),
        lambda: sign(folder, NAMES, tmp_path / "key"),
        lambda: check_signature(folder, NAMES, b"", ours),
        lambda: fingerprint(ours),
    ):
        with refused(Unavailable, r"pip install 'specialist-router\[sign\]'"):
            use()
    assert Trust(tmp_path / "home").check("acme", folder, NAMES, b"x") is None


def test_the_library_alone_agrees(folder: Path, signature: bytes, keys: Path, ours: bytes) -> None:
    """Its command checks our signatures, and we take its own of the same files."""
    (folder.parent / "model.sig").write_bytes(signature)
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(folder), "--ignore_unsigned_files"]
    command += ["--signature", str(folder.parent / "model.sig"), "--public_key", str(keys / "ours.pub")]
    assert subprocess.run(command, timeout=60).returncode == 0
    (folder / "card.json").write_text("changed")
    assert subprocess.run(command, timeout=60, stderr=subprocess.DEVNULL).returncode != 0
    (folder / "README.md").unlink()
    check_signature(folder, NAMES, library_signature(folder, keys / "ours"), ours)


def test_nine_megabytes(tmp_path: Path, keys: Path, ours: bytes) -> None:
    (tmp_path / "adapter_model.safetensors").write_bytes(os.urandom(9_000_000))
    names = ["adapter_model.safetensors"]
    start = time.perf_counter()
    signature = sign(tmp_path, names, keys / "ours")
    signed = time.perf_counter()
    check_signature(tmp_path, names, signature, ours)
    checked = time.perf_counter()
    print(
        f"signed 9 MB in {(signed - start) * 1e3:.0f} ms, checked in {(checked - signed) * 1e3:.0f} ms, "
        f"{len(signature)} bytes"
    )
    assert checked - start < 5
