"""router.lock: which commit and which bytes a team means by each name@version."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

from .version import Version, read_manifest

LOCK = "router.lock"


@dataclass(frozen=True)
class Pin:
    """A version on the Hub: its repository, the commit, and the sha256 of each file and of the manifest."""

    repo: str
    commit: str
    manifest: str
    files: Mapping[str, str]


Pins = Mapping[str, Pin]  # name@version -> where and what it is


def pin_of(version: Version) -> Pin | None:
    """The pin of a version that came from the Hub; None for one that did not."""
    if not version.origin:
        return None
    repo, _, commit = version.origin.partition("@")
    files = {name: digest for name, (digest, _) in sorted(read_manifest(version.path).items())}
    return Pin(repo, commit, version.manifest, files)


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock file. Raises BadInput when it is not there, Damaged when it is no lock file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["specialists"]
        pins = {ref: Pin(**pin) for ref, pin in found.items()}
        texts = [
            text
            for pin in pins.values()
            for text in (pin.repo, pin.commit, pin.manifest, *pin.files.values())
        ]
        if all(isinstance(text, str) for text in texts):
            return pins
    except FileNotFoundError as error:
        raise BadInput(f"There is no lock file {path}; `router registry lock` writes one.") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    raise Damaged(
        f"{path} is not a lock file; put it back as it was, or write it anew with `router registry lock`."
    )


def write_lock(path: Path, pins: Pins) -> None:
    """Write a lock file, the same bytes for the same pins."""
    body = {"specialists": {ref: asdict(pin) for ref, pin in sorted(pins.items())}}
    write_atomic(path, json.dumps(body, indent=2, sort_keys=True).encode() + b"\n")


def check_pin(ref: str, pin: Pin | None, found: Pin) -> None:
    """Raises Damaged when what was found under a locked reference is not what is locked."""
    if pin is None or pin == found:
        return
    if (pin.repo, pin.manifest, dict(pin.files)) == (found.repo, found.manifest, dict(found.files)):
        raise Damaged(
            f"{ref} is commit {found.commit[:12]} of {found.repo} now, and {pin.commit[:12]} in the lock file: "
            "its tag was moved. Ask its publisher, or lock it anew."
        )
    raise Damaged(
        f"{ref} of {found.repo} is not what the lock file has ({pin.repo} at {pin.commit[:12]}): its bytes are others. "
        "Ask its publisher, or lock it anew."
    )
