"""Stages of a run: each is done once, leaves a file that says so last, and is found done by the next start.

A run may be given more arms later: a stage that is asked for more than it was done for is done again, and what it kept
of the first time (adapters, answers) it does not do twice.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from router.ledger import Charge, Ledger
from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

PLAN = "plan.json"


class Run:
    """A folder in which stages are done one after another, by one process at a time.

    grows: lists of the plan that may become longer. Raises BadInput when the folder holds a run of
    another plan, or another process is at work in it.
    """

    def __init__(
        self, folder: Path, plan: dict[str, Any], say: Callable[[str], object], grows: Sequence[str] = ()
    ) -> None:
        self.folder, self.grows = folder, grows
        self.plan = json.loads(json.dumps(plan))
        self.say = say
        self.ledger = Ledger()
        self.name = f"distill {folder.resolve()}"  # whose payments these are

    @contextmanager
    def held(self) -> Any:
        """The folder, for this process alone."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".lock", timeout=0)
            lock.acquire()
        except Timeout as error:
            raise BadInput(f"Another process is at work in {self.folder}; wait until it is done.") from error
        except OSError as error:
            raise BadInput(
                f"Could not write in {self.folder} ({error.strerror}); choose another --out."
            ) from error
        try:
            self._same_plan()
            yield self
        finally:
            lock.release()

    def _same_plan(self) -> None:
        path = self.folder / PLAN
        if path.exists():
            found = _read(path)
            keys = sorted({*found, *self.plan})
            other = [
                key for key in keys if found.get(key) != self.plan.get(key) and not self._grew(found, key)
            ]
            if other:
                raise BadInput(
                    f"{self.folder} holds a run with another {', '.join(other)}; "
                    "give the same, or choose another --out."
                )
            if found == self.plan:
                return
        write_atomic(path, json.dumps(self.plan, indent=1).encode())

    def _grew(self, found: dict[str, Any], key: str) -> bool:
        return key in self.grows and set(found[key]) <= set(self.plan[key])

    def stage(
        self, name: str, purposes: Sequence[str], work: Callable[[], Any], asked: Sequence[str] = ()
    ) -> Any:
        """What `work` returns (JSON), now or when it was done; its minutes and what its `purposes` cost beside it.

        asked: what it is to be done for, such as names of trainings; it is done again when that is more than it was.
        """
        path = self.folder / f"{name}.json"
        before = _read(path) if path.exists() else None
        if before and set(asked) <= set(before.get("asked", ())):
            return before["result"]
        self.say(f"{name} ...")
        begun = time.monotonic()
        result = work()
        mine = [one for one in self.charges() if one.purpose in purposes]
        cost = {
            "seconds": round(time.monotonic() - begun + (before["cost"]["seconds"] if before else 0), 1),
            "calls": len(mine),
            "tokens_in": sum(one.usage.input + one.usage.cache_read + one.usage.cache_write for one in mine),
            "tokens_out": sum(one.usage.output for one in mine),
            "dollars": sum(one.dollars for one in mine),
            "cache_read": sum(one.usage.cache_read for one in mine),
        }
        done = {"cost": cost, "asked": list(asked), "result": result}
        write_atomic(path, json.dumps(done, indent=1, ensure_ascii=False).encode())
        return json.loads(json.dumps(result))

    def costs(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """What the stages that are done took, in the order given."""
        paths = [(name, self.folder / f"{name}.json") for name in names]
        return [{"name": name, **_read(path)["cost"]} for name, path in paths if path.exists()]

    def charges(self) -> list[Charge]:
        return [charge for charge in self.ledger.charges()[0] if charge.run == self.name]


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Damaged(f"{path} cannot be read ({error}); delete it to do that stage again.") from error
