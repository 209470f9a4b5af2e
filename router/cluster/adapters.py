"""Which adapters are loaded on a server, under names that never mean other weights."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Container, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from registry.lora_config import CONFIG
from registry.store import Version, verify
from specialists.errors import Damaged

from .wire import Lost, Refused, Worker


@dataclass(frozen=True)
class Adapter:
    """An adapter as servers know it: its name there, and where they find it."""

    ref: str
    name: str
    path: str


def adapter_of(version: Version, roots: Mapping[str, str]) -> Adapter:
    """Check every byte of a version (10 ms for 9 MB); its adapter.

    vLLM keeps what it computed of a prompt by the adapter's name (vllm#42125), so the name has what the text depends
    on: twelve digits of the hash of weights and configuration, which holds their scale. roots: folders here -> the same
    ones as the servers see them; the longest that fits counts. Raises Damaged.
    """
    verify(version)
    try:
        digest = hashlib.sha256(version.card.adapter.encode() + (version.path / CONFIG).read_bytes())
    except OSError as error:
        raise Damaged(
            f"{version.path / CONFIG} cannot be read ({error}); register the version again."
        ) from error
    path = version.path.resolve()
    for here in sorted(roots, key=len, reverse=True):
        with suppress(ValueError):
            path = Path(roots[here]) / path.relative_to(Path(here).resolve())
            break
    return Adapter(version.ref, f"{version.card.name}@{digest.hexdigest()[:12]}", str(path))


@dataclass(eq=False)
class _Slot:
    """An adapter on a server. uses: requests that need it. task: loading or unloading it."""

    loaded: bool = False
    uses: int = 0
    task: asyncio.Task[None] | None = None


class Loaded:
    """The adapters of one server: loaded when they are first needed, the least recently used unloaded.

    most: so many stay loaded, besides those in use. wanted: the names that are registered; others go when idle.
    Adapters that somebody else loaded are left alone.
    """

    def __init__(self, worker: Worker, most: int, wanted: Container[str]) -> None:
        self._worker, self._most, self._wanted = worker, most, wanted
        self._slots: OrderedDict[str, _Slot] = OrderedDict()  # the least recently used first
        self._unloading: set[asyncio.Task[None]] = set()

    def __contains__(self, name: str) -> bool:
        """Whether an adapter is there or on its way."""
        slot = self._slots.get(name)
        return slot is not None and (slot.loaded or slot.uses > 0)

    def __len__(self) -> int:
        return sum(slot.loaded for slot in self._slots.values())

    @property
    def room(self) -> bool:
        """Whether one more may stay."""
        return len(self) < self._most

    def found(self, names: Collection[str]) -> None:
        """What the server says it has, when it begins or comes back."""
        for name in self._slots.keys() | {name for name in names if name in self._wanted}:
            self._slots.setdefault(name, _Slot()).loaded = name in names

    def forget(self, name: str) -> None:
        """It is not there, whatever was thought."""
        if slot := self._slots.get(name):
            slot.loaded = False

    @asynccontextmanager
    async def use(self, adapter: Adapter) -> AsyncIterator[None]:
        """Have an adapter there for as long as the context lasts. Raises Lost or Refused when it cannot be loaded."""
        slot = self._slots.setdefault(adapter.name, _Slot())
        self._slots.move_to_end(adapter.name)
        slot.uses += 1
        try:
            while slot.task or not slot.loaded:
                if slot.task is None:
                    slot.task = asyncio.create_task(self._load(slot, adapter))
                    slot.task.add_done_callback(_seen)
                # Others wait for it too, so whoever does not want to wait any more must not end it.
                await asyncio.shield(slot.task)
            self.trim()
            yield
        finally:
            slot.uses -= 1
            self.trim()

    def trim(self) -> None:
        """Unload what is not registered any more, and the least recently used of what is too much."""
        over = len(self) - self._most
        for name, slot in list(self._slots.items()):
            if slot.uses or slot.task:
                continue
            if not slot.loaded:
                del self._slots[name]
            elif over > 0 or name not in self._wanted:
                over -= 1
                slot.loaded = False  # even if it fails: loading what is there is no fault
                slot.task = asyncio.create_task(self._unload(name, slot))
                self._unloading.add(slot.task)
                slot.task.add_done_callback(self._unloading.discard)

    async def close(self) -> None:
        """Wait for what is being unloaded."""
        await asyncio.gather(*self._unloading)

    async def _load(self, slot: _Slot, adapter: Adapter) -> None:
        try:
            await self._worker.load(adapter.name, adapter.path)
            slot.loaded = True
        finally:
            slot.task = None

    async def _unload(self, name: str, slot: _Slot) -> None:
        try:
            with suppress(Lost, Refused):
                await self._worker.unload(name)
        finally:
            slot.task = None
            if not slot.uses:
                self._slots.pop(name, None)


def _seen(task: asyncio.Task[None]) -> None:
    """An error that nobody waits for any more is no error."""
    if not task.cancelled():
        task.exception()
