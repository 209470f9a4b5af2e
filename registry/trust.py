"""Whose signatures a user trusts: HOME/trusted.json, public keys by Hub namespace.

Once a namespace has a key, nothing of it is taken that this key or another of its keys did not sign.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

from .card import shown
from .sign import SIGNATURE, canonical, check_signature, claims, fingerprint
from .staging import Staging

_OWNER = re.compile(r"[A-Za-z0-9._-]{1,96}")

Owners = dict[str, dict[str, dict[str, str]]]  # namespace -> fingerprint -> {"added": date, "key": PEM}


class Trust:
    """The trusted publishers of a store. Namespaces are the same in any case, as on the Hub.

    Everything raises Damaged when trusted.json is there and not as it was written: a lost entry would mean that
    anything is taken.
    """

    def __init__(self, home: Path) -> None:
        self.path = home / "trusted.json"
        self._staging = Staging(home)

    def add(self, owner: str, public: bytes) -> str:
        """Trust a key (PEM) for a namespace, beside those it has; its fingerprint. Raises BadInput for either."""
        if not _OWNER.fullmatch(owner):
            raise BadInput(f"{shown(owner)} is not a namespace of the Hub; give one such as acme.")
        mark = fingerprint(public)
        entry = {"added": f"{datetime.now(UTC):%Y-%m-%d}", "key": canonical(public).decode()}
        with self._staging.writing():
            found = self._read()
            found.setdefault(owner.lower(), {}).setdefault(mark, entry)
            self._write(found)
        return mark

    def remove(self, owner: str, fingerprint: str | None = None) -> None:
        """Forget one key of a namespace, or all; without any, it need not sign. Raises BadInput when it has none."""
        with self._staging.writing():
            found = self._read()
            keys = found.pop(owner.lower(), {})
            left = {mark: entry for mark, entry in keys.items() if fingerprint not in (None, mark)}
            if len(left) == len(keys):
                which = "key" if fingerprint is None else f"key {shown(fingerprint)}"
                raise BadInput(
                    f"No {which} of {shown(owner)} is trusted; `router registry trust` lists those that are."
                )
            if left:
                found[owner.lower()] = left
            self._write(found)

    def keys(self, owner: str) -> list[bytes]:
        """The public keys (PEM) of a namespace."""
        return [entry["key"].encode() for entry in self._of(owner).values()]

    def all(self) -> Mapping[str, list[tuple[str, str]]]:
        """Namespace -> (fingerprint, date it was added) of its keys, the oldest first."""
        return {
            owner: sorted(
                ((mark, entry["added"]) for mark, entry in keys.items()), key=lambda pair: pair[::-1]
            )
            for owner, keys in sorted(self._read().items())
        }

    def required(self, owner: str) -> bool:
        """Whether what comes from a namespace must be signed."""
        return bool(self._of(owner))

    def check(self, owner: str, folder: Path, names: Sequence[str], signature: bytes | None) -> str | None:
        """The fingerprint of the trusted key that signed these files; None when nobody asked for signatures of `owner`.

        Raises Damaged when the namespace has keys and none of them signed exactly these files with these bytes.
        """
        keys = self._of(owner)
        if not keys:
            return None
        trusted = f"you trust only its key {', '.join(keys)}"
        if signature is None:
            raise Damaged(
                f"What came from {owner} is not signed, and {trusted}: ask its publisher for {SIGNATURE}, or "
                f"`router registry trust {owner} --remove`."
            )
        for mark, entry in keys.items():
            public = entry["key"].encode()
            if claims(signature, public):
                check_signature(folder, names, signature, public)
                return mark
        raise Damaged(
            f"{SIGNATURE} in {folder} is not the signature of {owner}, and {trusted}: ask its publisher, and if they "
            f"have a new key, `router registry trust {owner} KEY`."
        )

    def _of(self, owner: str) -> dict[str, dict[str, str]]:
        return self._read().get(owner.lower(), {})

    def _read(self) -> Owners:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            owners: Owners = found["owners"]
            if found["sha256"] == _digest(owners):
                return owners
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass
        raise Damaged(
            f"{self.path} does not say whom you trust; put it back as it was, or remove it to trust nobody and "
            "`router registry trust` each key again."
        )

    def _write(self, found: Owners) -> None:
        body = {"owners": found, "sha256": _digest(found)}
        write_atomic(self.path, json.dumps(body, indent=2, sort_keys=True).encode() + b"\n")


def _digest(owners: Owners) -> str:
    """What shows that a letter of a namespace was lost: the keys have checks of their own, and names have none."""
    return hashlib.sha256(json.dumps(owners, sort_keys=True).encode()).hexdigest()
