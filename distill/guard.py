"""Is a model under training still well? Its dev answers, its loss and its gradient are watched for collapse.

Collapse is a sudden fall to one answer, to endless repetition or to noise; it shows in the answers before it shows in
the mean loss. The thresholds are meant to be passed by every healthy run: they mark the plainly broken, not the weak.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

ONE_ANSWER = (
    0.9  # share of the most common answer that is collapse, where the gold answers' stays under USUAL
)
USUAL = 0.75
ENTROPY = 0.25  # of the gold answers' entropy: less is collapse
REPEATING = 0.5  # share of texts that go round in circles
LONGER = 3.0  # times the median length of the worked solutions
WINDOW = 20  # steps whose mean loss is compared
RISE = 5.0  # times the lowest mean loss of an earlier window
LOUD = 0.3  # nats a token: a rise that stays below this is noise
TURNS = 8  # how often the same lines come round in a text that repeats itself


@dataclass(frozen=True)
class Check:
    """What an adapter under training did on n dev items; `symptom` is None when it is well, else a plain phrase."""

    right: int
    n: int
    symptom: str | None = None


def entropy(answers: Sequence[str]) -> float:
    """Shannon entropy of the answers' frequencies, in bits."""
    n = len(answers)
    return -sum(count / n * math.log2(count / n) for count in Counter(answers).values()) if n else 0.0


def repeats(text: str) -> bool:
    """Whether the end of a text goes round in circles: a stretch of at most 64 characters, TURNS times in a row."""
    return any(
        len(text) >= width * TURNS and text[-width:] * TURNS == text[-width * TURNS :]
        for width in range(1, min(64, len(text) // TURNS) + 1)
    )


def symptom(
    texts: Sequence[str],
    answers: Sequence[str | None],
    golds: Sequence[str],
    solutions: Sequence[str],
) -> str | None:
    """What is broken about answers to dev items, in words that end a sentence "the model ..."; None if nothing is.

    texts: what was generated; answers: what was parsed from it, None for nothing; golds: the right answers;
    solutions: the worked solutions, whose length is the measure of a normal one.
    """
    n = len(texts)
    said = [answer if answer is not None else "(none)" for answer in answers]
    circles = sum(map(repeats, texts))
    if circles >= REPEATING * n:
        return f"repeats itself without end in {circles} of {n} dev answers"
    long = median(map(len, texts))
    if long > LONGER * median(map(len, solutions)):
        return f"writes {long:.0f} characters where {median(map(len, solutions)):.0f} are usual"
    top, count = Counter(said).most_common(1)[0]
    usual = Counter(golds).most_common(1)[0][1]
    if count >= ONE_ANSWER * n and usual <= USUAL * n:
        return f"answers {top!r} to {count} of {n} dev questions, where the right answers are mixed"
    if entropy(golds) >= 0.5 and entropy(said) < ENTROPY * entropy(golds):
        return (
            f"hardly varies its answers: {entropy(said):.2f} bits, the right ones have {entropy(golds):.2f}"
        )
    return None


def risen(losses: Sequence[float]) -> str | None:
    """Whether the loss has blown up: the mean of the last 20 steps against the lowest of 20 before them."""
    if len(losses) < 2 * WINDOW:
        return None
    means = [
        sum(losses[at : at + WINDOW]) / WINDOW for at in range(len(losses) % WINDOW, len(losses), WINDOW)
    ]
    now, lowest = means[-1], min(means[:-1])
    if now > LOUD and now > RISE * lowest:
        return f"has a loss of {now:.2f} a token, {now / lowest:.0f} times what it had been"
    return None
