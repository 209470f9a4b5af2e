"""What calls to Claude cost: the table of prices, the budget of a run, and the ledger of all that was paid."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from specialists.errors import BadInput, Refused, Unavailable
from specialists.paths import home

_WAIT = 60.0  # seconds to wait for another process that is writing
_TOKEN_KINDS = ("input", "output", "cache_write", "cache_read")


@dataclass(frozen=True)
class Usage:
    """Tokens of a call by what they cost; input is what was neither written to nor read from the prompt cache."""

    input: int = 0
    output: int = 0
    cache_write: int = 0
    cache_read: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, kind) + getattr(other, kind) for kind in _TOKEN_KINDS))


@cache
def prices() -> dict[str, Any]:
    """The table prices.json: dollars per million tokens by model, and the factors on them."""
    found: dict[str, Any] = json.loads((files("router") / "prices.json").read_text("utf-8"))
    return found


def cheapest() -> str:
    """The model that costs least by its table, input and output taken together."""
    models = prices()["models"]
    return min(models, key=lambda model: sum(models[model].values()))


def dollars(model: str, usage: Usage, batch: bool = False) -> float:
    """What a call cost, in dollars. Raises BadInput for a model whose price is not known.

    Writes to the prompt cache are priced as those that last five minutes, the only ones made here.
    """
    table = prices()
    if model not in table["models"]:
        known = ", ".join(table["models"])
        raise BadInput(
            f"There is no price for the model {model!r}, so it is not asked; choose one of {known}."
        )
    price, factor = table["models"][model], table["factors"]
    read = usage.cache_read * factor["cache_read"] + usage.cache_write * factor["cache_write"] + usage.input
    whole = (read * price["input"] + usage.output * price["output"]) / 1e6
    return whole * factor["batch"] if batch else whole


def money(amount: float) -> str:
    """Dollars for people, such as $0.000123 or $2.50; never a sum that was spent shown as nothing."""
    if amount >= 1 or amount == 0:
        return f"${amount:,.2f}"
    return f"${f'{max(amount, 1e-6):.6f}'.rstrip('0'):0<4}"


class OverBudget(Refused):
    """A call could cost more than is left of the budget, so it was not made."""


class Budget:
    """The dollars one run may spend. Every call is held at its worst until its price is known; threads may share it.

    Raises BadInput for a limit that is no sum of money.
    """

    def __init__(self, limit: float, spent: float = 0.0) -> None:
        if not math.isfinite(limit) or limit < 0:
            raise BadInput(f"A budget of {limit} is no sum of money; give dollars, such as 0.05.")
        self.limit = limit
        self.spent = spent
        self.held = 0.0
        self._lock = threading.Lock()

    def check(self, most: float) -> None:
        """Raise OverBudget if a call that costs so many dollars at most does not fit."""
        taken = self.spent + self.held
        if taken + most > self.limit:
            raise OverBudget(
                f"The next call could cost {money(most)} and {money(taken)} of the budget of {money(self.limit)} "
                "are taken, so it was not made; raise --budget, or allow a shorter answer."
            )

    def hold(self, most: float) -> None:
        """Set the worst a call may cost aside, or raise OverBudget."""
        with self._lock:
            self.check(most)
            self.held += most

    def settle(self, most: float, cost: float = 0.0) -> None:
        """Replace what was held for a call by what it did cost, in dollars."""
        with self._lock:
            self.held = max(0.0, self.held - most)
            self.spent += cost


@dataclass(frozen=True)
class Charge:
    """One paid call. time: UTC, ISO 8601. run: whose budget it came from. purpose: what it was for. ref: which call it
    was, so that it is written down once."""

    time: str
    run: str
    model: str
    purpose: str
    usage: Usage
    dollars: float
    ref: str = ""

    @classmethod
    def now(
        cls, run: str, model: str, purpose: str, usage: Usage, ref: str = "", batch: bool = False
    ) -> Charge:
        """A call just made, at its price."""
        time = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(time, run, model, purpose, usage, dollars(model, usage, batch), ref)

    def line(self) -> bytes:
        """The charge as a line of the ledger; ASCII, so that nothing inside it ends a line."""
        fields = {"time": self.time, "run": self.run, "model": self.model, "purpose": self.purpose}
        ref = {"ref": self.ref} if self.ref else {}
        return json.dumps({**fields, **asdict(self.usage), "dollars": self.dollars, **ref}).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Charge | None:
        """A line of the ledger; None when it is damaged. Fields of later versions are passed over."""
        try:
            record = json.loads(line)
            words = [record[name] for name in ("time", "run", "model", "purpose")]
            counts, cost = [record[kind] for kind in _TOKEN_KINDS], record["dollars"]
            whole = all(type(word) is str for word in words) and all(
                type(count) is int and count >= 0 for count in counts
            )
            if not whole or type(cost) not in (int, float) or not 0 <= cost < math.inf:
                return None
            time, run, model, purpose = words
            ref = record.get("ref", "")
            return cls(
                time, run, model, purpose, Usage(*counts), float(cost), ref if type(ref) is str else ""
            )
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return None


@dataclass(frozen=True)
class Totals:
    """Sums over charges: calls, tokens, dollars; and how many damaged lines of the ledger were passed over."""

    calls: int
    usage: Usage
    dollars: float
    damaged: int


class Ledger:
    """Every paid call as a JSON line in `path`, by default ledger.jsonl in the user's home; only appended to.

    Processes may append at the same time. A line cut short by a crash spoils no other. Raises Unavailable when
    the file cannot be read or written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or home() / "ledger.jsonl"

    def ready(self) -> None:
        """Find out that a charge could not be written before there is one."""
        self._append(())

    def add(self, charge: Charge) -> None:
        """Append a charge; it is on the disk when this returns."""
        self._append((charge,))

    def charges(self) -> tuple[list[Charge], int]:
        """All charges, oldest first, and the number of damaged lines."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return [], 0
        except OSError as error:
            raise Unavailable(
                f"Could not read the ledger {self.path} ({error.strerror}); make it readable, or move it away."
            ) from error
        found = [Charge.parse(line) for line in lines if line.strip()]
        return [charge for charge in found if charge], found.count(None)

    def totals(self, run: str | None = None) -> Totals:
        """What was spent: by everyone, or by one run."""
        charges, damaged = self.charges()
        mine = [charge for charge in charges if run is None or charge.run == run]
        usage = sum((charge.usage for charge in mine), Usage())
        return Totals(len(mine), usage, math.fsum(charge.dollars for charge in mine), damaged)

    def _append(self, charges: Iterable[Charge]) -> None:
        data = b"".join(charge.line() for charge in charges)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=_WAIT), self.path.open("a+b") as file:
                size = file.seek(0, os.SEEK_END)
                if data and size:
                    file.seek(size - 1)
                    if file.read(1) != b"\n":  # a crash cut the last line short
                        data = b"\n" + data
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except Timeout as error:
            raise Unavailable(
                f"Another process has been writing to {self.path} for {_WAIT:g} s; try again when it is done."
            ) from error
        except OSError as error:
            raise Unavailable(
                f"Could not write the ledger {self.path} ({error.strerror}); free some space, or set ROUTER_HOME."
            ) from error
