"""Who waits, and whose turn it is."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable

from .batch import Row


class Waiting:
    """Rows that wait, by adapter. Adapters take turns of `turn` rows; within one it is first come, first served."""

    def __init__(self, turn: int = 1) -> None:
        self.turn = turn
        self._of: OrderedDict[str | None, deque[Row]] = OrderedDict()  # the adapter whose turn it is first

    def __len__(self) -> int:
        return sum(map(len, self._of.values()))

    def add(self, row: Row) -> None:
        """Put a row last of its adapter."""
        self._of.setdefault(row.adapter, deque()).append(row)

    def rows(self) -> list[Row]:
        """All rows."""
        return [row for rows in self._of.values() for row in rows]

    def turns(self) -> list[str | None]:
        """The adapters that have rows here, in the order of their turns."""
        return list(self._of)

    def take(self, most: int, may: Callable[[Row], bool]) -> list[Row]:
        """The next rows, at most so many. An adapter whose next row may not keeps its turn."""
        taken: list[Row] = []
        turns = deque(self._of)
        while turns and len(taken) < most:
            adapter = turns.popleft()
            rows = self._of[adapter]
            before = len(taken)
            while rows and len(taken) < min(most, before + self.turn) and may(rows[0]):
                taken.append(rows.popleft())
            if not rows:
                del self._of[adapter]
            elif len(taken) > before:
                self._of.move_to_end(adapter)
                turns.append(adapter)
        return taken

    def remove(self, gone: Iterable[Row]) -> None:
        """Take rows out."""
        for row in gone:
            self._of[row.adapter].remove(row)
            if not self._of[row.adapter]:
                del self._of[row.adapter]
