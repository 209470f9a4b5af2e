"""Signatures of a version's files by model-signing, with a key on this machine and nothing of the network.

Anyone else can check one with that library alone: `model_signing verify key --ignore_unsigned_files ...`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from specialists.errors import BadInput, Damaged, Unavailable
from specialists.paths import write_atomic

from .card import shown
from .version import sha256

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SIGNATURE = "model.sig"
MAX_SIGNATURE = 1 << 20  # bytes; that of five files has about 2,000

_MAX_KEY = 1 << 16  # bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHOWN = 5  # differences in a message
_KEYGEN = "make one with `router registry keygen`"


def keygen(path: Path) -> Path:
    """Write a new P-256 key to `path`, for its owner's eyes only, and the public one to `path`.pub; the latter's path.

    Raises BadInput rather than write over a file, Unavailable when the folder cannot be written.
    """
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ec.generate_private_key(ec.SECP256R1())
    public = Path(f"{path}.pub")
    with ExitStack() as undo:
        for file in (path, public):
            _claim(file)
            undo.callback(file.unlink, missing_ok=True)
        # The temporary file beside it is its owner's alone from the start, whatever the umask.
        write_atomic(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_atomic(public, _pem(key.public_key()))
        undo.pop_all()
    return public


def sign(folder: Path, names: Sequence[str], key: Path) -> bytes:
    """The signature of these files of a folder, whatever else lies there, as model-signing writes it.

    Raises BadInput for a key or names it cannot use, Damaged when a file is missing, Unavailable when one cannot be
    read.
    """
    library = _library()
    _check_private(key)
    _check_there(folder, names)
    with _scratch(folder) as scratch:
        written = scratch / SIGNATURE
        config = library.signing.Config().use_elliptic_key_signer(private_key=key)
        config.set_hashing_config(_Only(names)).sign(folder, written)
        return written.read_bytes()


def check_signature(folder: Path, names: Sequence[str], signature: bytes, public: bytes) -> None:
    """Raises Damaged unless the owner of the public key (PEM) signed exactly these files with these bytes."""
    library = _library()
    from cryptography.exceptions import InvalidSignature

    key = public_key(public)
    _check_there(folder, names)
    refused = f"{SIGNATURE} in {folder} is not the signature of these files by key {fingerprint(public)}"
    if not claims(signature, public):
        raise Damaged(f"{refused}, but says it is by another; ask its publisher which key is the right one.")
    with _scratch(folder) as scratch:
        written, pem = scratch / SIGNATURE, scratch / "key.pub"
        written.write_bytes(signature)
        pem.write_bytes(_pem(key))
        config = library.verifying.Config().use_elliptic_key_verifier(public_key=pem)
        try:
            config.set_hashing_config(_Only(names)).verify(folder, written)
        except OSError:  # says nothing about the signature
            raise
        except InvalidSignature as error:
            raise Damaged(
                f"{refused} (it was changed itself); get it again, or ask its publisher."
            ) from error
        except Exception as error:  # the library raises whatever the bytes made it stumble over
            why = _differences(folder, names, signature)
            raise Damaged(f"{refused} ({why}); get the files again, or ask its publisher.") from error


def claims(signature: bytes, public: bytes) -> bool:
    """Whether a signature says that it is by this public key (PEM), which proves nothing.

    Raises Damaged for what is not a signature, or one that does not say, as of model-signing before 1.1.
    """
    try:
        if len(signature) <= MAX_SIGNATURE:
            said = json.loads(signature)["verificationMaterial"]["publicKey"]["hint"]
            if isinstance(said, str) and said:
                return said == hashlib.sha256(_pem(public_key(public))).hexdigest()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Damaged(
        f"These {len(signature)} bytes are not a signature that model-signing 1.1 made with a key; get {SIGNATURE} "
        "again, or ask its publisher."
    )


def public_key(public: bytes) -> EllipticCurvePublicKey:
    """The key of a PEM. Raises BadInput for anything but a public P-256 key."""
    _library()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(public[:_MAX_KEY])
    except Exception as error:  # of several kinds, by what the bytes are
        raise BadInput(
            "This is not a public key in PEM; give the .pub file of `router registry keygen`."
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadInput(f"This public key is not one on the curve P-256; {_KEYGEN}.")
    return key


def fingerprint(public: bytes) -> str:
    """16 hex digits that tell public keys (PEM) apart: of the sha256 of their SubjectPublicKeyInfo."""
    key = public_key(public)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()[:16]


def canonical(public: bytes) -> bytes:
    """The one PEM of a public key, without whatever text stood around it."""
    return _pem(public_key(public))


class _Only:
    """A hashing configuration for model-signing: these files of a folder, whatever else lies there."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def hash(self, folder: Path, *, files_to_hash: object = None) -> Any:
        """The manifest of the files. Links count as what they lead to, since the Hub's cache is made of them."""
        config = _library().hashing.Config().set_allow_symlinks(True)
        config.set_ignored_paths(paths=(), ignore_git_paths=False)
        return config.hash(folder, files_to_hash=[folder / name for name in self._names])

    def add_ignored_paths(self, **_: object) -> None:
        """The library would let a signature leave files out of what it checks."""


def _check_there(folder: Path, names: Sequence[str]) -> None:
    """Raises BadInput for odd names, Damaged for what is no file: the library passes over a folder."""
    if not names or len(set(names)) != len(names):
        raise BadInput(f"A signature is of one file or more, each named once, and not of {shown(names)}.")
    for name in names:
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"A file called {shown(name)} cannot be signed; rename it with letters, digits, '.', '_' and '-'."
            )
        if not (folder / name).is_file():
            raise Damaged(f"{folder / name} is missing or not a file; get the version again.")


def _differences(folder: Path, names: Sequence[str], signature: bytes) -> str:
    """How the files differ from those a signature lists, for people."""
    try:
        payload = json.loads(base64.b64decode(json.loads(signature)["dsseEnvelope"]["payload"]))
        resources = payload["predicate"]["resources"]
        signed: Mapping[str, object] = {
            str(one["name"]): one["digest"] for one in resources if one["algorithm"] == "sha256"
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        return "it lists no files"
    found = [
        f"{name} was changed" for name in names if name in signed and signed[name] != sha256(folder / name)
    ]
    found += [f"it has no sha256 of {name}" for name in names if name not in signed]
    found += [f"it also lists {shown(name)}" for name in signed if name not in names]
    return ", ".join(found[:_SHOWN]) or "it is not in the form that was expected"


def _check_private(path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not path.is_file():  # a pipe could not be read twice, and the library reads it too
        raise BadInput(f"There is no key file {path}; {_KEYGEN}.")
    try:
        with path.open("rb") as file:
            key = load_pem_private_key(file.read(_MAX_KEY), None)
    except OSError as error:
        raise BadInput(
            f"The key {path} cannot be read ({error.strerror}); make it readable to you."
        ) from error
    except TypeError as error:  # how cryptography says that it is encrypted
        raise BadInput(
            f"The key {path} has a password; write it without one with `openssl pkey -in {path} -out NEW`."
        ) from error
    except Exception as error:  # of several kinds, by what the bytes are
        raise BadInput(f"{path} is not a private key in PEM; {_KEYGEN}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BadInput(f"The key {path} is not one on the curve P-256; {_KEYGEN}.")


def _claim(path: Path) -> None:
    """Make an empty file that nobody but its owner may read, unless there is something already."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError as error:
        raise BadInput(
            f"Nothing is written over what may be a key at {error.filename}; choose another path."
        ) from error
    except OSError as error:
        raise Unavailable(
            f"Could not write {path} ({error.strerror}); choose a folder you may write."
        ) from error


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what the library wants as files."""
    try:
        with TemporaryDirectory() as temporary:
            yield Path(temporary)
    except OSError as error:
        raise Unavailable(
            f"Could not read {folder}, or write a temporary file ({error.strerror}); make it readable, or free some "
            "space."
        ) from error


def _pem(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _library() -> Any:
    try:
        import model_signing
    except ImportError as error:
        raise Unavailable("Signatures need model-signing: pip install 'specialist-router[sign]'.") from error
    return model_signing
