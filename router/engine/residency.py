"""Which adapters are in memory: any number registered, those in use and the last used ones resident.

An adapter is known by the hash of what it computes with, never by its name: a name that is registered again with other
bytes is another adapter, and rows under way finish with the one they began with. Weights are read by one thread of
their own, so that rows of other adapters go on, and each once however many ask. What is in use or next in turn is
never dropped for what is not, so a working set larger than the budget costs each request its own reading and no more.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from registry.adapter import WEIGHTS, AdapterInfo, Shapes, check
from specialists.errors import BadInput, Damaged, RouterError, Unavailable

from .lora import Weights, read_adapter
from .threads import release

ADAPTER_BYTES = 1 << 30  # about 60 adapters of rank 16 on every linear layer of Qwen2.5-0.5B in bf16


@dataclass(eq=False)
class _Record:
    """A registered adapter. held: requests that were promised it. used: rows under way with it."""

    key: str
    folder: Path
    info: AdapterInfo
    stamp: tuple[int, ...]  # of the weights file, as it was checked
    bytes: int  # in memory
    names: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)  # the names for which it stays in memory
    held: int = 0
    used: int = 0
    loading: Future[None] | None = None
    error: RouterError | None = None


class Residency:
    """Registered adapters by name, resident ones by hash. Safe for use from several threads.

    shapes: (out, in) of the base's linear layers by name. place: makes of an adapter that was read what stays in
    memory, of type `kept`. budget: bytes of resident adapters, which one adapter larger than it and those pinned may
    exceed. `resident` is for reading only.
    """

    def __init__(
        self,
        shapes: Shapes,
        kept: torch.dtype,
        place: Callable[[Weights], Any],
        budget: int = ADAPTER_BYTES,
    ) -> None:
        self.shapes, self.kept, self.place, self.budget = shapes, kept, place, budget
        self.resident: OrderedDict[str, Any] = OrderedDict()  # the least recently used first
        self.on_change: Callable[[], None] = lambda: None  # called by the reading thread when it has read one
        self.loads = 0  # adapters read from disk so far
        self.bytes = 0  # memory that resident adapters take, and those being read
        self._lock = threading.RLock()
        self._names: dict[str, str] = {}
        self._records: dict[str, _Record] = {}
        self._dropped: list[str] = []
        self._forgotten: list[str] = []
        self._reader = ThreadPoolExecutor(1, "adapters")

    @property
    def names(self) -> Mapping[str, str]:
        """Name -> hash of every registered adapter."""
        with self._lock:
            return dict(self._names)

    def add(self, name: str, folder: Path, *, pinned: bool = False) -> str:
        """Check an adapter whole against the base and register it; its hash.

        It is read at once while there is room, else when it is first asked for. A pinned one is read and stays.
        Raises BadInput or Damaged, and then `name` is what it was before.
        """
        stamp = _stamp(folder)
        info = check(folder, self.shapes)
        try:
            key = _hash(folder, info)
        except OSError as error:  # removed since it was checked
            raise Damaged(
                f"The adapter in {folder} cannot be read ({error.strerror}); add it again."
            ) from error
        if stamp is None or stamp != _stamp(folder):
            raise Damaged(f"The adapter in {folder} was changed while it was read; add it again.")
        size = sum(
            rank * sum(self.shapes[module]) * self.kept.itemsize for module, (rank, _) in info.modules.items()
        )
        with self._lock:
            record = self._records.setdefault(key, _Record(key, folder, info, stamp, size))
            record.folder, record.stamp, record.error = folder, stamp, None  # read from there from now on
            record.names.add(name)
            (record.pinned.add if pinned else record.pinned.discard)(name)
            if (old := self._names.get(name)) not in (None, key):
                self._unname(name, old)
            self._names[name] = key
            there = key in self.resident or record.loading is not None
            # One that is pinned no more may have been beyond the budget.
            self._make_room(size if pinned and not there else 0, self._fixed())
            if pinned or self.bytes + size <= self.budget:
                self._read(record)
        self.wait(key)
        return key

    def remove(self, name: str) -> None:
        """Forget a name. Requests that were promised its adapter are still answered with it."""
        with self._lock:
            if (key := self._names.pop(name, None)) is not None:
                self._unname(name, key)
                self._make_room(0, self._fixed())

    def hold(self, name: str) -> str:
        """Promise a request the adapter that has this name now; its hash. Raises BadInput for an unknown name."""
        with self._lock:
            if name not in self._names:
                raise BadInput(f"No adapter {name!r} is loaded; loaded: {', '.join(self._names) or 'none'}.")
            record = self._records[self._names[name]]
            record.held += 1
            return record.key

    def let_go(self, key: str) -> None:
        """A request that was promised an adapter is over."""
        with self._lock:
            record = self._records[key]
            record.held -= 1
            self._drop_if_unwanted(record)

    def use(self, key: str) -> bool:
        """Take a resident adapter for a row; False when it is not resident yet. Raises why it could not be read."""
        with self._lock:
            record = self._records[key]
            if record.error is not None:
                error, record.error = record.error, None
                raise error
            if key not in self.resident:
                return False
            record.used += 1
            self.resident.move_to_end(key)
            return True

    def release(self, key: str) -> None:
        """A row that used an adapter is over."""
        with self._lock:
            self._records[key].used -= 1

    def want(self, keys: Iterable[str]) -> set[str]:
        """Begin to read what is not resident, in this order, dropping what is not used, pinned or wanted.

        Returns those for which there is no room until rows end: the first that does not fit and all non-resident ones
        after it.
        """
        with self._lock:
            fixed = self._fixed()
            busy = any(record.used or record.loading for record in self._records.values())
            full: set[str] = set()
            wanted = [self._records[key] for key in dict.fromkeys(keys)]
            for record in wanted:
                if record.key in fixed or record.error is not None:
                    continue
                if busy and (full or sum(fixed.values()) + record.bytes > self.budget):
                    full.add(record.key)
                    continue
                fixed[record.key] = record.bytes
                busy = True
                if record.key not in self.resident:
                    self._make_room(record.bytes, fixed)
                    self._read(record)
            return full

    def wait(self, key: str) -> None:
        """Until an adapter that is being read has been; whoever uses it is told of a failure."""
        with self._lock:
            future = self._records[key].loading if key in self._records else None
        if future:
            future.result()

    def wait_any(self, keys: Iterable[str | None]) -> None:
        """Until one of those that are being read has been; at once when none is."""
        with self._lock:
            found = {self._records[key].loading for key in keys if key is not None}
        wait([future for future in found if future], return_when=FIRST_COMPLETED)

    def swept(self) -> tuple[list[str], list[str]]:
        """The hashes that are resident no more and those registered no more, each told once."""
        if not self._dropped and not self._forgotten:
            return [], []
        with self._lock:
            dropped, forgotten = self._dropped, self._forgotten
            self._dropped, self._forgotten = [], []
            return [key for key in dropped if key not in self.resident], forgotten

    def _fixed(self) -> dict[str, int]:
        """Hash -> bytes of what cannot be dropped now."""
        return {
            record.key: record.bytes
            for record in self._records.values()
            if record.used or record.loading or (record.pinned and record.key in self.resident)
        }

    def _make_room(self, size: int, fixed: Mapping[str, int]) -> None:
        for key in list(self.resident):
            if self.bytes + size <= self.budget:
                return
            if key not in fixed:
                self._drop(self._records[key])

    def _drop(self, record: _Record) -> None:
        del self.resident[record.key]
        self.bytes -= record.bytes
        self._dropped.append(record.key)

    def _unname(self, name: str, key: str) -> None:
        record = self._records[key]
        record.names.discard(name)
        record.pinned.discard(name)
        self._drop_if_unwanted(record)

    def _drop_if_unwanted(self, record: _Record) -> None:
        if not record.names and not record.held and not record.used and not record.loading:
            del self._records[record.key]
            self._forgotten.append(record.key)
            if record.key in self.resident:
                self._drop(record)

    def _read(self, record: _Record) -> None:
        """Have an adapter read, unless it is there or on its way."""
        if record.key not in self.resident and record.loading is None:
            self.loads += 1
            self.bytes += record.bytes
            record.loading = self._reader.submit(self._fetch, record)

    def _fetch(self, record: _Record) -> None:
        while True:
            with self._lock:
                folder, stamp = record.folder, record.stamp
            adapter, error = self._attempt(folder, record.info, stamp)
            release()
            with self._lock:
                if error and (folder, stamp) != (record.folder, record.stamp):
                    continue  # added again meanwhile, from elsewhere
                record.loading, record.error = None, error
                if adapter is None:
                    self.bytes -= record.bytes
                else:
                    self.resident[record.key] = adapter
                self._drop_if_unwanted(record)
                break
        self.on_change()

    def _attempt(
        self, folder: Path, info: AdapterInfo, stamp: tuple[int, ...]
    ) -> tuple[Any | None, RouterError | None]:
        """An adapter, or why it could not be read."""
        try:
            return self._load(folder, info, stamp), None
        except RouterError as error:
            return None, error
        except Exception as error:
            return None, Unavailable(f"The adapter in {folder} could not be read: {error}")

    def _load(self, folder: Path, info: AdapterInfo, stamp: tuple[int, ...]) -> Any:
        """Read a checked adapter. Raises Damaged when the file is no longer the one that was checked."""
        if _stamp(folder) != stamp:
            raise Damaged(f"The adapter in {folder} was changed or removed after it was added; add it again.")
        placed = self.place(read_adapter(folder, info))
        if _stamp(folder) != stamp:
            raise Damaged(f"The adapter in {folder} was changed while it was read; add it again.")
        return placed


def _stamp(folder: Path) -> tuple[int, ...] | None:
    """What changes when a weights file does; None when there is none."""
    try:
        stat = (folder / WEIGHTS).stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _hash(folder: Path, info: AdapterInfo) -> str:
    """SHA-256 of the weights and the scales they are multiplied by, which the configuration decides."""
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(repr(sorted(info.modules.items())).encode())
    return digest.hexdigest()
