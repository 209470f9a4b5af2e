"""What each adapter wrote before, from which a row alone is decoded by guesses (lookup.py)."""

from __future__ import annotations

from .batch import Row
from .chat import Chat
from .lookup import KEPT, Lookup


class Guesses:
    """A Lookup for every adapter, by the hash of its bytes; None for the bare base."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._of: dict[str | None, Lookup] = {}

    def of(self, row: Row) -> Lookup:
        """What a row's adapter wrote before, up to the row's own last token."""
        found = self._of.get(row.adapter)
        if found is None or len(found) > KEPT:
            found = self._of[row.adapter] = Lookup(
                [*self._chat.encode(hint), self._chat.stop] for hint in row.hints
            )
        if row.noted < 0:
            found.extend(row.prompt)
            row.noted = 0
        found.extend(row.written[row.noted :])
        row.noted = len(row.written)
        return found

    def forget(self, adapter: str | None) -> None:
        """Drop what an adapter wrote."""
        self._of.pop(adapter, None)
