"""Guessing the next tokens from what was written before, so that one step checks several.

A step of one row reads every weight whether it scores one position or five. Specialists write in set phrases: the
longest run of tokens that has been seen before, in the question, in this answer or in earlier ones, is followed by what
followed it then. What the model itself would have written is kept and the rest is dropped, so the answer is the same.
Prompt lookup (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding) and its use of a store of earlier texts
(He et al. 2023, REST, arXiv:2311.08252).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GUESSED = 4  # tokens guessed at once: eight were hardly better (docs/engine.md)
RUNS = (4, 3, 2)  # lengths of the runs looked up, longest first
KEPT = 1 << 16  # tokens of earlier texts kept


class Lookup:
    """What was written before, and what followed every run of tokens in it."""

    def __init__(self, texts: Iterable[Sequence[int]] = ()) -> None:
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # run -> index of what followed it last
        for text in texts:
            self.extend(text)

    def __len__(self) -> int:
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in what comes next."""
        for token in tokens:
            at = len(self._tokens)
            for run in RUNS:
                if at >= run:
                    self._after[tuple(self._tokens[at - run :])] = at
            self._tokens.append(token)

    def guess(self, most: int = GUESSED) -> list[int]:
        """Up to `most` tokens that may come next; none when the last ones were never seen before."""
        for run in RUNS:
            at = self._after.get(tuple(self._tokens[-run:])) if len(self._tokens) >= run else None
            if at is not None:
                return self._tokens[at : at + most]
        return []

    def copy(self) -> Lookup:
        """One of its own that begins with the same texts."""
        other = Lookup()
        other._tokens, other._after = list(self._tokens), dict(self._after)
        return other


def agreed(guessed: Sequence[int], chosen: Sequence[int]) -> int:
    """How many guessed tokens the model itself chose; chosen[i] comes after the last token and i guesses."""
    return next((i for i, token in enumerate(guessed) if token != chosen[i]), len(guessed))
