"""Who may ask what and how often: API keys of tenants, from a file."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specialists.errors import BadInput, RouterError
from specialists.paths import stamp

_FIELDS = {"key", "sha256", "specialists", "requests_per_minute", "admin"}
LOOK = 1.0  # seconds between two looks at the file
EXAMPLE = "such as `payroll: {key: SECRET, specialists: [dates], requests_per_minute: 60}`"


log = logging.getLogger(__name__)


class Unauthorized(RouterError):
    """No key, or one that is not known."""


class TooMany(RouterError):
    """More requests than the key may make; `seconds` until the next one."""

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


@dataclass(frozen=True)
class Tenant:
    """Whoever has a key. allowed: the specialists it may ask; per_minute: requests; None for all and any number."""

    name: str
    allowed: frozenset[str] | None = None
    per_minute: float | None = None
    admin: bool = False


ANYONE = Tenant("anyone")


class Keys:
    """The tenants of a server. Without a file anyone may ask, and nobody is an admin.

    The file is YAML, a tenant a line or block: `NAME: {key: SECRET}`, or `sha256:` of the secret in place of it;
    `specialists:` a list of names, `requests_per_minute:` a number, `admin: true` for who may register. A key is at
    least 16 characters. A file that changes is read again within a second; while it cannot be read, the keys read last
    hold, with a line in the log. `clock` gives seconds.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._clock = path, clock
        self._looked, self._stamp = clock(), stamp(path) if path else None
        self._tenants = {} if path is None else read_keys(path)
        self._buckets: dict[Tenant, Bucket] = {}

    def tenant(self, key: str | None) -> Tenant:
        """Whose key this is. Raises Unauthorized."""
        if self._path is None:
            return ANYONE
        self._look(self._path)
        if not key:
            raise Unauthorized("An API key is needed: send the header `Authorization: Bearer KEY`.")
        # By hash, so that how long this takes says nothing of how much of a key was right.
        if found := self._tenants.get(_digest(key)):
            return found
        raise Unauthorized("This API key is not known.")

    def spend(self, tenant: Tenant) -> None:
        """Count a request. Raises TooMany when it is one too many."""
        if tenant.per_minute is not None:
            bucket = self._buckets.setdefault(tenant, Bucket(tenant.per_minute, self._clock))
            if (seconds := bucket.take()) > 0:
                raise TooMany(
                    f"{tenant.name} may make {tenant.per_minute:g} requests a minute; ask again in {seconds:.1f} s.",
                    seconds,
                )

    def _look(self, path: Path) -> None:
        """Read the file again if it has changed."""
        if self._clock() - self._looked < LOOK:
            return
        self._looked, before, self._stamp = self._clock(), self._stamp, stamp(path)
        if self._stamp == before:
            return
        try:
            self._tenants = read_keys(path)
        except BadInput as error:
            log.warning("the keys read before go on to hold: %s", error)
            return
        known = set(self._tenants.values())
        self._buckets = {tenant: bucket for tenant, bucket in self._buckets.items() if tenant in known}
        log.info("the keys in %s were read again", path)


class Bucket:
    """A token bucket: as many as a minute allows at once, and then as they drip in."""

    def __init__(self, per_minute: float, clock: Callable[[], float]) -> None:
        self._rate, self._most, self._clock = per_minute / 60, max(1.0, per_minute), clock
        self._left, self._at = self._most, clock()

    def take(self) -> float:
        """Take one: 0, or the seconds until there is one."""
        now = self._clock()
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0.0
        return (1 - self._left) / self._rate


def read_keys(path: Path) -> Mapping[str, Tenant]:
    """sha256 of a key -> tenant. Raises BadInput for a file that says something else."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"Could not read the keys in {path} ({error}).") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise BadInput(
            f"The keys in {path} are not valid YAML{place}; write a tenant a line, {EXAMPLE}."
        ) from error
    if not isinstance(found, dict) or not found:
        raise BadInput(f"{path} has no keys; write a tenant a line, {EXAMPLE}.")
    tenants: dict[str, Tenant] = {}
    for name, said in found.items():
        digest, tenant = _tenant(str(name), said, path)
        if digest in tenants:
            raise BadInput(
                f"{tenants[digest].name} and {name} have the same key in {path}; give each its own."
            )
        tenants[digest] = tenant
    return tenants


def _tenant(name: str, said: Any, path: Path) -> tuple[str, Tenant]:
    def fault(what: str) -> BadInput:
        return BadInput(f"{name} in {path} {what}; write {EXAMPLE}.")

    if not isinstance(said, dict) or not said.keys() <= _FIELDS:
        raise fault("is not a mapping of key or sha256, specialists, requests_per_minute and admin")
    key, digest = said.get("key"), said.get("sha256")
    if (key is None) == (digest is None):
        raise fault("needs either a key or its sha256")
    if key is not None and (not isinstance(key, str) or len(key) < 16 or not key.isascii() or " " in key):
        raise fault("has a key that is not text of at least 16 letters, digits and signs")
    if digest is not None and (
        not isinstance(digest, str) or len(digest) != 64 or set(digest) - set("0123456789abcdef")
    ):
        raise fault("has a sha256 that is not 64 hexadecimal digits")
    names = said.get("specialists")
    if names is not None and (not isinstance(names, list) or not all(isinstance(one, str) for one in names)):
        raise fault("has specialists that are not a list of names")
    rate = said.get("requests_per_minute")
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or rate <= 0):
        raise fault("has requests_per_minute that are no number above 0")
    if not isinstance(admin := said.get("admin", False), bool):
        raise fault("has an admin that is neither true nor false")
    allowed = None if names is None else frozenset(names)
    return digest or _digest(key or ""), Tenant(name, allowed, rate, admin)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
