"""Text as it is written, in whole characters."""

from __future__ import annotations

from collections.abc import Sequence

from .chat import Chat


class Stream:
    """The pieces of one answer's text. Only the last tokens are decoded each time, whatever came before."""

    def __init__(self, chat: Chat) -> None:
        self._chat = chat
        self._start = 0  # where decoding begins: a whole character before `_end`
        self._end = 0  # tokens whose text has been given

    def more(self, written: Sequence[int], last: bool = False) -> str:
        """What is to be read now and was not before; nothing while a character is incomplete, unless it is the last.

        The pieces together are the text of all tokens.
        """
        if len(written) == self._end:
            return ""
        known = self._chat.decode(written[self._start : self._end])
        text = self._chat.decode(written[self._start :])
        if text.endswith("\ufffd") and not last:
            return ""
        self._start, self._end = self._end, len(written)
        return text[len(known) :]
