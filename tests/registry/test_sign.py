"""Signatures with real keys: what they cover, what is refused, and whose are trusted."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from registry.sign import MAX_SIGNATURE, check_signature, claims, fingerprint, keygen, sign
from registry.store import Store
from registry.trust import Trust
from registry.version import MANIFEST, Version, file_names
from specialists.errors import BadInput, Damaged, RouterError, Unavailable
from specialists.paths import write_atomic

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("adapter_config.json", "adapter_model.safetensors", "card.json", "prompt.txt", "manifest.json")

# Says it is ready and waits for a line; then trusts each key of a folder.
TRUSTING = """
import sys
from pathlib import Path
from registry.trust import Trust

trust = Trust(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for path in sorted(Path(sys.argv[2]).iterdir()):
    trust.add("acme", path.read_bytes())
"""


@contextmanager
def refused(error: type[RouterError], said: str | None = None) -> Iterator[None]:
    """An error that is one sentence on one line, safe for a terminal."""
    with pytest.raises(error, match=said) as caught:
        yield
    text = str(caught.value)
    assert text.isprintable() and text.endswith(".") and ". " not in text and len(text) < 600, text


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the keys ours and stranger."""
    folder = tmp_path_factory.mktemp("keys")
    keygen(folder / "ours")
    keygen(folder / "stranger")
    return folder


@pytest.fixture
def ours(keys: Path) -> bytes:
    return (keys / "ours.pub").read_bytes()


@pytest.fixture
def stranger(keys: Path) -> bytes:
    return (keys / "stranger.pub").read_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version's files among others."""
    folder = tmp_path / "1.0.0"
    (folder / ".git").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(f"this is {name}\n")
    (folder / "README.md").write_text("read me")
    (folder / ".git" / "config").write_text("[core]")
    return folder


@pytest.fixture
def signature(folder: Path, keys: Path) -> bytes:
    return sign(folder, NAMES, keys / "ours")


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


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def meaning(signature: bytes) -> list[bytes]:
    """What was signed, and the signature itself."""
    envelope = json.loads(signature)["dsseEnvelope"]
    return [base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])]


def private_pem(key: Any, password: bytes | None = None, form: Any = pem.PrivateFormat.PKCS8) -> bytes:
    lock = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    data: bytes = key.private_bytes(pem.Encoding.PEM, form, lock)
    return data


def public_pem(key: Any) -> bytes:
    data: bytes = key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo)
    return data


# Keys


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_private_key_is_never_open_to_others(
    umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is created on the way is its owner's alone, from the first moment."""
    created: dict[str, int] = {}
    opening = os.open

    def watched(path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        handle = opening(path, flags, mode, **more)
        if flags & os.O_CREAT:
            created[str(path)] = os.fstat(handle).st_mode & 0o777
        return handle

    monkeypatch.setattr(os, "open", watched)
    before = os.umask(umask)
    try:
        public = keygen(tmp_path / "new" / "key")
    finally:
        os.umask(before)
    assert public == tmp_path / "new" / "key.pub"
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600
    assert len(created) == 4 and set(created.values()) == {0o600}
    assert sorted(path.name for path in public.parent.iterdir()) == ["key", "key.pub"]
    assert b"PRIVATE" not in public.read_bytes()


@pytest.mark.parametrize("there", ["key", "key.pub"])
def test_no_key_is_written_over(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("precious")
    with refused(BadInput, f"a key at {tmp_path / there}; choose another path"):
        keygen(tmp_path / "key")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_there_is_never_half_a_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        if path.suffix == ".pub":
            raise Unavailable("Could not write.")
        write_atomic(path, data)

    monkeypatch.setattr("registry.sign.write_atomic", full)
    with refused(Unavailable):
        keygen(tmp_path / "key")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with refused(RouterError):
        keygen(tmp_path / "file" / "key")
    with refused(BadInput):
        keygen(tmp_path)


def test_a_fingerprint_is_of_the_key_and_not_of_its_file(keys: Path, ours: bytes, stranger: bytes) -> None:
    der = pem.load_pem_public_key(ours).public_bytes(pem.Encoding.DER, pem.PublicFormat.SubjectPublicKeyInfo)
    assert fingerprint(ours) == hashlib.sha256(der).hexdigest()[:16] != fingerprint(stranger)
    assert fingerprint("Schlüssel von acme\n".encode() + ours.replace(b"\n", b"\r\n")) == fingerprint(ours)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (private_pem(ec.generate_private_key(ec.SECP256R1()), b"secret"), "has a password"),
        (
            private_pem(
                ec.generate_private_key(ec.SECP256R1()), b"secret", pem.PrivateFormat.TraditionalOpenSSL
            ),
            "has a password",
        ),
        (private_pem(ec.generate_private_key(ec.SECP384R1())), "not one on the curve P-256"),
        (private_pem(ec.generate_private_key(ec.SECP256K1())), "not one on the curve P-256"),
        (private_pem(ed25519.Ed25519PrivateKey.generate()), "not one on the curve P-256"),
        (private_pem(rsa.generate_private_key(65537, 2048)), "not one on the curve P-256"),
        (public_pem(ec.generate_private_key(ec.SECP256R1())), "is not a private key in PEM"),
        (private_pem(ec.generate_private_key(ec.SECP256R1()))[:90], "is not a private key in PEM"),
        (b"\x1b[31m\xff\0", "is not a private key in PEM"),
        (b"", "is not a private key in PEM"),
        (None, "There is no key file"),
    ],
    ids=[
        "password",
        "old-password",
        "P-384",
        "secp256k1",
        "ed25519",
        "RSA",
        "public",
        "cut",
        "binary",
        "empty",
        "none",
    ],
)
def test_a_private_key_that_cannot_be_used(
    key: bytes | None, said: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / "key"
    if key is not None:
        path.write_bytes(key)
    with refused(BadInput, said):
        sign(folder, NAMES, path)


@pytest.mark.parametrize(
    "key",
    [
        public_pem(ec.generate_private_key(ec.SECP384R1())),
        public_pem(ed25519.Ed25519PrivateKey.generate()),
        public_pem(rsa.generate_private_key(65537, 2048)),
        private_pem(ec.generate_private_key(ec.SECP256R1())),
        public_pem(ec.generate_private_key(ec.SECP256R1()))[:90],
        b"x" * 10_000_000,
        b"",
    ],
    ids=["P-384", "ed25519", "RSA", "private", "cut", "huge", "empty"],
)
def test_a_public_key_that_cannot_be_used(key: bytes, folder: Path, signature: bytes, tmp_path: Path) -> None:
    for use in (
        lambda: fingerprint(key),
        lambda: check_signature(folder, NAMES, signature, key),
        lambda: Trust(tmp_path / "home").add("acme", key),
    ):
        with refused(BadInput, "public key"):
            use()
    assert not (tmp_path / "home").exists()


def test_a_key_that_may_not_be_read(folder: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(path: Path, *_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    with refused(BadInput, "cannot be read .Permission denied."):
        sign(folder, NAMES, keys / "ours")


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


# Trust


def test_trust(
    folder: Path, signature: bytes, keys: Path, ours: bytes, stranger: bytes, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    trust, theirs = Trust(home), sign(folder, NAMES, keys / "stranger")
    for any_ in (None, b"garbage", signature, theirs):
        assert trust.check("acme", folder, NAMES, any_) is None
    assert not trust.required("acme") and trust.keys("acme") == [] and trust.all() == {} and not home.exists()

    mark = trust.add("AcMe", "Schlüssel\n".encode() + ours)
    today = time.strftime("%Y-%m-%d", time.gmtime())
    assert mark == fingerprint(ours)
    assert Trust(home).all() == {"acme": [(mark, today)]} and trust.keys("ACME") == [ours]
    assert trust.required("acme") and trust.required("ACME") and not trust.required("acme2")
    assert trust.check("Acme", folder, NAMES, signature) == mark
    assert trust.check("other", folder, NAMES, None) is None
    with refused(Damaged, "What came from acme is not signed"):
        trust.check("acme", folder, NAMES, None)
    with refused(Damaged, f"not the signature of acme, and you trust only its key {mark}"):
        trust.check("acme", folder, NAMES, theirs)
    with refused(Damaged, "not a signature"):
        trust.check("acme", folder, NAMES, b"garbage")

    second = trust.add("acme", stranger)
    assert trust.add("acme", ours) == mark and len(trust.keys("acme")) == 2
    assert trust.check("acme", folder, NAMES, signature) == mark
    assert trust.check("acme", folder, NAMES, theirs) == second
    (folder / "card.json").write_text("changed")
    for harmed in (signature, theirs):
        with refused(Damaged, "card.json was changed"):
            trust.check("acme", folder, NAMES, harmed)

    for unknown in ("ab", ""):
        with refused(BadInput, f"No key '{unknown}' of 'acme' is trusted"):
            trust.remove("acme", unknown)
    trust.remove("ACME", mark)
    assert trust.all() == {"acme": [(second, today)]}
    with refused(Damaged, f"you trust only its key {second}"):
        trust.check("acme", folder, NAMES, signature)
    trust.remove("acme")
    assert not trust.required("acme") and trust.all() == {}
    with refused(BadInput, "No key of 'acme' is trusted"):
        trust.remove("acme")


def test_the_day_a_key_was_first_trusted_stays(tmp_path: Path, ours: bytes) -> None:
    trust = Trust(tmp_path)
    mark = trust.add("acme", ours)
    found = trust._read()
    found["acme"][mark]["added"] = "2020-02-02"
    trust._write(found)
    trust.add("acme", ours)
    assert trust.all() == {"acme": [(mark, "2020-02-02")]}


@pytest.mark.parametrize("owner", ["", "a/b", "a b", "é", "a\n", "a" * 97])
def test_no_namespace_of_the_hub(owner: str, tmp_path: Path, ours: bytes) -> None:
    with refused(BadInput, "is not a namespace"):
        Trust(tmp_path / "home").add(owner, ours)
    assert not Trust(tmp_path / "home").required(owner)


def test_a_damaged_list_trusts_and_forgets_nobody(
    tmp_path: Path, folder: Path, signature: bytes, ours: bytes, stranger: bytes
) -> None:
    """A bit of any byte of it, or any part of it missing."""
    trust = Trust(tmp_path)
    trust.add("acme", ours)
    trust.add("other", stranger)
    whole = trust.path.read_bytes()
    harmed = [flipped(whole, 8 * byte + byte % 8) for byte in range(len(whole))]
    for data in harmed + [whole[:end] for end in range(0, len(whole) - 1, 9)]:
        trust.path.write_bytes(data)
        with pytest.raises(Damaged):
            trust.all()
    for data in (
        b"",
        b"null",
        b"{}",
        b"[]",
        b'{"owners": {}}',
        b'{"owners": {}, "sha256": 0}',
        b"[" * 100_000,
    ):
        trust.path.write_bytes(data)
        for use in (
            trust.all,
            lambda: trust.add("acme", ours),
            lambda: trust.remove("acme"),
            lambda: trust.required("acme"),
            lambda: trust.keys("acme"),
            lambda: trust.check("acme", folder, NAMES, signature),
            lambda: trust.check("nobody", folder, NAMES, None),
        ):
            with refused(Damaged, "does not say whom you trust; put it back"):
                use()
        assert trust.path.read_bytes() == data


def test_two_processes_trust_at_once(tmp_path: Path) -> None:
    """No key is lost, and the file is whole whenever it is read."""
    expected = set()
    for half in ("one", "two"):
        (tmp_path / half).mkdir()
        for number in range(25):
            key = public_pem(ec.generate_private_key(ec.SECP256R1()))
            (tmp_path / half / f"{number}.pub").write_bytes(key)
            expected.add(fingerprint(key))
    home = tmp_path / "home"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TRUSTING, str(home), str(tmp_path / half)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for half in ("one", "two")
    ]
    for run in runs:
        assert run.stdout and run.stdout.readline() == "ready\n"
    for run in runs:
        assert run.stdin
        run.stdin.write("go\n")
        run.stdin.flush()
    while any(run.poll() is None for run in runs):
        Trust(home).all()
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0, 0]
    assert {mark for mark, _ in Trust(home).all()["acme"]} == expected
    assert not [path for path in home.iterdir() if path.name not in ("trusted.json", ".lock")]
