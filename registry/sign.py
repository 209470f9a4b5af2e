"""Signatures of a version's files by model-signing, with a key on this machine and nothing of the network.

Anyone else can check one with that library alone: `model_signing verify key --ignore-unsigned-files ...`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from specialists.errors import BadInput, Damaged, Unavailable
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE = "model.sig"
MAX_SIGNATURE = 1 << 20  # bytes


def keygen(path: Path) -> Path:
    """Write a new P-256 key to `path`, for its owner's eyes only, and the public one beside it; the latter's path.

    Raises BadInput rather than write over a key, Unavailable when the folder cannot be written.
    """
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    public = path.with_name(path.name + ".pub")
    key = ec.generate_private_key(ec.SECP256R1())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise BadInput(f"There is a key at {path} already; choose another path.") from error
    except OSError as error:
        raise Unavailable(
            f"Could not write {path} ({error.strerror}); choose a folder you may write."
        ) from error
    with os.fdopen(handle, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_atomic(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return public


def sign(folder: Path, names: Sequence[str], key: Path) -> bytes:
    """The signature of these files of a folder, as model-signing writes it. Raises BadInput for a key it cannot use."""
    library = _library()
    _private(key)
    with _alone(folder, names) as files:
        signature = files.parent / SIGNATURE
        library.signing.Config().use_elliptic_key_signer(private_key=key).sign(files, signature)
        return signature.read_bytes()


def check_signature(folder: Path, names: Sequence[str], signature: bytes, public: bytes) -> None:
    """Raises Damaged unless the owner of the public key (PEM) signed exactly these files with these bytes."""
    library = _library()
    public_key(public)
    if len(signature) > MAX_SIGNATURE:
        raise Damaged(f"{SIGNATURE} in {folder} is no signature: it has {len(signature)} bytes.")
    with _alone(folder, names) as files:
        written, key = files.parent / SIGNATURE, files.parent / "key.pub"
        written.write_bytes(signature)
        key.write_bytes(public)
        try:
            library.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(files, written)
        except Exception as error:  # the library raises whatever the bytes made it stumble over
            raise Damaged(
                f"{SIGNATURE} in {folder} is not the signature of these files by key {fingerprint(public)} "
                f"({_first_line(error)})."
            ) from error


def public_key(public: bytes) -> EllipticCurvePublicKey:
    """The key of a PEM. Raises BadInput for anything but a public P-256 key."""
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public)
    except Exception as error:  # see above
        raise BadInput(
            "This is not a public key in PEM; give the .pub file of `router registry keygen`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadInput(
            "This public key is not one on the curve P-256; make one with `router registry keygen`."
        )
    return key


def fingerprint(public: bytes) -> str:
    """16 hex digits that tell public keys (PEM) apart: of the sha256 of their SubjectPublicKeyInfo."""
    key = public_key(public)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def _private(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise BadInput(
            f"The key {path} cannot be read ({error.strerror}); `router registry keygen` makes one."
        ) from error
    except Exception as error:  # see above
        raise BadInput(
            f"{path} is not a private key in PEM without a password; make one with `router registry keygen`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadInput(
            f"The key {path} is not one on the curve P-256; make one with `router registry keygen`."
        )


@contextmanager
def _alone(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """The named files in a folder of their own, since the library takes whole folders."""
    with TemporaryDirectory() as temporary:
        files = Path(temporary) / "version"
        files.mkdir()
        for name in names:
            try:
                shutil.copyfile(folder / name, files / name)
            except OSError as error:
                raise Damaged(f"{folder / name} cannot be read ({error.strerror}).") from error
        yield files


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _library() -> Any:
    try:
        import model_signing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise Unavailable("Signatures need model-signing: pip install 'specialist-router[sign]'.") from error
    return model_signing
