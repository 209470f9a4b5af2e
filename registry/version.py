"""One published version on disk: its files, and the manifest that says they are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.prompts import PROMPTS

from .adapter import WEIGHTS
from .card import PROMPT_FILE, PROMPT_REF, Card, shown
from .lora_config import CONFIG

CARD = "card.json"
MANIFEST = "manifest.json"
MAX_PROMPT = 20_000  # characters
_MAX_SMALL = 8 << 20  # bytes: a card or configuration beyond this is not one

Manifest = Mapping[str, tuple[str, int]]  # file name -> (sha256, bytes)


@dataclass(frozen=True)
class Version:
    """A version whose small files were checked against its manifest.

    source: "bundled" or "local". channel: "stable", "candidate" or None. yanked: why it was taken back, if it was.
    origin: ORG/NAME@COMMIT on the Hub, if it came from there. manifest: sha256 of the manifest's bytes.
    """

    card: Card
    path: Path
    source: str
    channel: str | None = None
    yanked: str | None = None
    origin: str | None = None
    manifest: str = ""

    @property
    def ref(self) -> str:
        """name@version"""
        return self.card.ref

    def prompt_text(self) -> str:
        """The system prompt itself: a named one, or the version's own file."""
        if self.card.prompt == PROMPT_REF:
            return read_prompt(self.path / PROMPT_FILE)
        return PROMPTS[self.card.prompt]


def read_prompt(path: Path) -> str:
    """A prompt from a file. Raises BadInput unless it is UTF-8 text of 1 to MAX_PROMPT characters."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"The prompt {path} cannot be read as UTF-8 text ({error}).") from error
    if not 0 < len(text) <= MAX_PROMPT:
        raise BadInput(f"The prompt {path} has {len(text)} characters; write between 1 and {MAX_PROMPT}.")
    return text


def file_names(card: Card) -> tuple[str, ...]:
    """The files of a version, besides its manifest."""
    return (CONFIG, WEIGHTS, CARD) + ((PROMPT_FILE,) if card.prompt == PROMPT_REF else ())


def sha256(path: Path) -> str:
    """The sha256 of a file in lower-case hex (about 10 ms for 9 MB)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_of(folder: Path, names: tuple[str, ...]) -> str:
    """The text of a manifest for these files of a folder."""
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in names
    }
    return json.dumps({"files": files}, indent=2, sort_keys=True) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Raises Damaged when the manifest is missing (the version was never finished) or is not one."""
    path = folder / MANIFEST
    try:
        files = json.loads(_small(path))["files"]
        manifest = {name: (entry["sha256"], entry["bytes"]) for name, entry in files.items()}
        if all(isinstance(digest, str) and type(size) is int for digest, size in manifest.values()):
            return manifest
    except FileNotFoundError as error:
        raise Damaged(
            f"{folder} is half-written: it has no {MANIFEST}; register it again or unregister it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Damaged(f"{path} is not a manifest; register the version again.")


def check_small(folder: Path) -> Manifest:
    """Check a version folder against its manifest: every small file's hash, and the size of the weights.

    Raises Damaged naming the file that is missing or changed.
    """
    manifest = read_manifest(folder)
    for name, (digest, size) in manifest.items():
        # Only these may be opened: a manifest is data from elsewhere, and could name any path.
        if name not in (CONFIG, WEIGHTS, CARD, PROMPT_FILE):
            raise Damaged(
                f"{folder / MANIFEST} lists {shown(name)}, no file of a version; register it again."
            )
        path = folder / name
        try:
            whole = path.stat().st_size == size
            whole = whole and (name == WEIGHTS or hashlib.sha256(_small(path)).hexdigest() == digest)
        except OSError as error:
            raise _changed(path, error.strerror or "unreadable") from error
        if not whole:
            raise _changed(path, "its bytes are others")
    return manifest


def read_card(folder: Path) -> Card:
    """The card in a folder. Raises Damaged, naming the file, for anything but a sound card."""
    try:
        return Card.from_json(_small(folder / CARD).decode())
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"{folder / CARD} cannot be read ({error}); register the version again.") from error
    except Damaged as error:
        raise Damaged(f"{folder / CARD}: {error}") from error


def load(folder: Path, source: str) -> Version | None:
    """Open a version folder NAME/VERSION; None when it is not there, or was removed while it was read.

    Raises Damaged when a small file is not as in the manifest, or card, manifest and folder disagree.
    """
    while (before := _identity(folder)) is not None:
        try:
            return _read(folder, source)
        except Damaged:
            if _identity(folder) == before:
                raise
    return None


def _identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from one put in its place later: removed inodes are used again, so the time too."""
    try:
        status = folder.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read(folder: Path, source: str) -> Version:
    digest = sha256(folder / MANIFEST) if (folder / MANIFEST).exists() else ""
    manifest = check_small(folder)
    card = read_card(folder)
    if (card.name, card.version) != (folder.parent.name, folder.name):
        raise Damaged(
            f"{folder / CARD} is the card of {card.ref}; register that version instead of moving folders."
        )
    if set(manifest) != set(file_names(card)) or manifest[WEIGHTS][0] != card.adapter:
        raise Damaged(f"{folder / MANIFEST} and {CARD} disagree; register the version again.")
    return Version(card, folder, source, manifest=digest)


def verify(version: Version) -> None:
    """Hash every file of a version against its manifest; call it before loading the weights.

    Raises Damaged naming the first file that is missing or has other bytes.
    """
    weights = version.path / WEIGHTS
    if load(version.path, version.source) is None:
        raise Damaged(f"{version.path} is gone; register {version.ref} again.")
    try:
        whole = sha256(weights) == version.card.adapter
    except OSError as error:
        raise _changed(weights, error.strerror or "unreadable") from error
    if not whole:
        raise _changed(weights, "its bytes are others")


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_MAX_SMALL + 1)
    if len(data) > _MAX_SMALL:
        raise OSError(0, f"larger than {_MAX_SMALL} bytes")
    return data


def _changed(path: Path, why: str) -> Damaged:
    return Damaged(f"{path} is not the file that was published ({why}); register the version again.")
