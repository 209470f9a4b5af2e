"""Keys: made for one reader, never written over, and what is none."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from registry.sign import check_signature, fingerprint, keygen, sign
from registry.trust import Trust
from specialists.errors import BadInput, RouterError, Unavailable
from specialists.paths import write_atomic

from .signed import NAMES, public_pem, refused

ROOT = Path(__file__).resolve().parents[2]


def private_pem(key: Any, password: bytes | None = None, form: Any = pem.PrivateFormat.PKCS8) -> bytes:
    lock = pem.BestAvailableEncryption(password) if password else pem.NoEncryption()
    data: bytes = key.private_bytes(pem.Encoding.PEM, form, lock)
    return data


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
