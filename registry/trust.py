"""Whose signatures a user trusts: HOME/trusted.json, public keys by Hub namespace.

Once a namespace has a key, nothing of it is taken that this key or another of its keys did not sign.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

from .card import shown
from .sign import SIGNATURE, check_signature, fingerprint
from .staging import Staging

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


class Trust:
    """The trusted publishers of a store."""

    def __init__(self, home: Path) -> None:
        self.path = home / "trusted.json"
        self._staging = Staging(home)

    def add(self, owner: str, public: bytes) -> str:
        """Trust a key (PEM) for a namespace; its fingerprint."""
        if not _OWNER.fullmatch(owner):
            raise BadInput(f"{shown(owner)} is not a namespace of the Hub, such as acme.")
        mark = fingerprint(public)
        with self._staging.writing():
            found = self._read()
            found.setdefault(owner.lower(), {})[mark] = public.decode("ascii")
            self._write(found)
        return mark

    def remove(self, owner: str) -> None:
        """Forget the keys of a namespace. Raises BadInput when it has none."""
        with self._staging.writing():
            found = self._read()
            if found.pop(owner.lower(), None) is None:
                raise BadInput(f"No key of {shown(owner)} is trusted; nothing to remove.")
            self._write(found)

    def all(self) -> dict[str, list[str]]:
        """Namespace -> fingerprints of its keys."""
        return {owner: sorted(keys) for owner, keys in sorted(self._read().items())}

    def check(self, owner: str, folder: Path, names: Sequence[str], signature: bytes | None) -> str | None:
        """The fingerprint of the trusted key that signed these files; None when nobody asked for signatures of `owner`.

        Raises Damaged when the namespace has keys and none of them signed these very bytes.
        """
        keys = self._read().get(owner.lower())
        if not keys:
            return None
        if signature is None:
            raise Damaged(
                f"What came from {owner} is not signed, and you trust only its key {', '.join(keys)}: ask its "
                f"publisher for {SIGNATURE}, or `router registry trust {owner} --remove`."
            )
        why: Damaged | None = None
        for mark, public in keys.items():
            try:
                check_signature(folder, names, signature, public.encode("ascii"))
                return mark
            except Damaged as error:
                why = error
        assert why
        raise why

    def _read(self) -> dict[str, dict[str, str]]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and all(_are_keys(keys) for keys in found.values()):
                return found
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            pass
        raise Damaged(
            f"{self.path} does not say whom you trust; put it back as it was, or remove it to trust nobody."
        )

    def _write(self, found: dict[str, dict[str, str]]) -> None:
        write_atomic(self.path, json.dumps(found, indent=2, sort_keys=True).encode() + b"\n")


def _are_keys(keys: object) -> bool:
    return isinstance(keys, dict) and bool(keys) and all(isinstance(key, str) for key in keys.values())
