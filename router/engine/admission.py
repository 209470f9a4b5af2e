"""Who may enter the batch, and whose prompts are computed together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from specialists.errors import RouterError

from .batch import Row
from .residency import Residency
from .waiting import Waiting

AHEAD = 4  # adapters read from disk before their turn
PATIENCE = 16  # rows of other adapters that may enter before one for which there is no memory
UNEVEN = 64  # tokens by which prompts computed together may differ in length, and a factor of two
TOGETHER = 256  # tokens of prompts that are computed together while somebody waits: longer ones go one by one


class Admission:
    """Lets rows in whose adapters are in memory, at most `rows` under way, and has others' adapters read.

    An adapter's first row may take any place and its further ones leave an eighth of them free, so that one in demand
    does not keep the others out. patient: nobody waits for single rows, so they enter in fewer and larger groups.
    """

    def __init__(self, waiting: Waiting, adapters: Residency, rows: int, patient: bool) -> None:
        self.waiting, self.adapters, self.rows, self.patient = waiting, adapters, rows, patient
        # rows that entered while there was no memory for an adapter
        self._passed: Counter[str | None] = Counter()

    def admit(
        self, under_way: Sequence[Row], longest: int | None = None
    ) -> tuple[list[list[Row]], list[Row]]:
        """Take rows out of `waiting`: groups whose prompts are computed together, and those that cannot enter ever.

        longest: of the prompts that may enter, in tokens.
        """
        if not len(self.waiting) or (self.patient and len(under_way) > self.rows * 3 // 4):
            return [], []
        turns = self.waiting.turns()
        room = self.rows - len(under_way)
        full = self.adapters.want([key for key in turns if key is not None][: room + AHEAD])
        # One for which there has been no memory for long is not passed by those whose turn comes after its own.
        late = next((i for i, key in enumerate(turns) if key in full and self._passed[key] >= PATIENCE), None)
        ahead = set(turns if late is None or self.patient else turns[:late])
        have = Counter(row.adapter for row in under_way)
        broken: dict[str | None, RouterError] = {}

        def may(row: Row) -> bool:
            adapter = row.adapter
            if longest is not None and len(row.prompt) > longest:
                return False
            spare = 0 if self.patient or not have[adapter] else self.rows // 8
            if adapter not in ahead or have.total() >= self.rows - spare:
                return False
            try:
                if adapter is not None and not self.adapters.use(adapter):
                    return False
            except RouterError as error:
                broken[adapter] = error
                return False
            have[adapter] += 1
            if late is not None and not self.patient:
                ahead.discard(adapter)
            self._passed.update(full)
            self._passed.pop(adapter, None)
            return True

        groups = _groups(self.waiting.take(room, may), None if self.patient else TOGETHER)
        gone = [row for row in self.waiting.rows() if row.adapter in broken]
        for row in gone:
            row.done, row.error = True, broken[row.adapter]
        self.waiting.remove(gone)
        return groups, gone


def _groups(rows: Iterable[Row], most: int | None) -> list[list[Row]]:
    """Rows of one adapter and of like length, for the shorter are padded.

    most: tokens of a group, padding included, that has more than one row.
    """
    groups: list[list[Row]] = []
    open_groups: dict[str | None, list[Row]] = {}
    for row in sorted(rows, key=lambda row: len(row.prompt)):
        group, length = open_groups.get(row.adapter), len(row.prompt)
        if (
            group is None
            or length > 2 * len(group[0].prompt) + UNEVEN
            or (most is not None and (len(group) + 1) * length > most)
        ):
            group = open_groups[row.adapter] = []
            groups.append(group)
        group.append(row)
    return groups
