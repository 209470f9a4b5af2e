"""How well each specialist's exemplars explain a question: kernel ridge regression against a background.

Every specialist is a class, and so is the background: everyday questions that no specialist is meant for.
One-hot targets are regressed on a Gaussian kernel over unit vectors (kernel ridge: Saunders, Gammerman & Vovk
1998). An exemplar counts in inverse proportion to how many its class has, so that all classes weigh the same,
however many there are. It is solved in closed form at every start, so a new specialist needs no training, and
the background gives even a lone specialist something to be told apart from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import inv

Array = NDArray[np.float64]
Vectors = NDArray[np.float32]
GAMMA, RIDGE = 2.0, 0.003  # chosen on the fit questions of calibrate.py


class Scores:
    """Scores of questions for each of several specialists.

    exemplars: unit rows [n_i, d] of each specialist. background: unit rows [m, d]. Memory grows with the
    square of the number of all exemplars: 2,000 of them take 32 MB.
    """

    def __init__(self, exemplars: Sequence[Vectors], background: Vectors) -> None:
        classes = [*exemplars, background]
        self.points = np.concatenate(classes)
        sizes = np.array([len(rows) for rows in classes])
        labels = np.repeat(np.arange(len(classes)), sizes)
        targets = np.eye(len(classes))[labels]
        inverse = inv(self._kernel(self.points) + np.diag(RIDGE * sizes[labels]))
        self._dual: Array = inverse @ targets
        left_out = targets - self._dual / np.diag(inverse)[:, None]  # exact leave-one-out
        self._typical = np.array([left_out[labels == i, i].mean() for i in range(len(exemplars))])

    def _kernel(self, vectors: Vectors) -> Array:
        kernel: Array = np.exp(-2 * GAMMA * (1 - (vectors @ self.points.T).astype(np.float64)))
        return kernel

    def of(self, vectors: Vectors) -> Array:
        """Features [n, specialists, 3] of questions, unit rows [n, d].

        The score, about 1 for what a specialist is for; its lead over the best other, the background
        included; and the score that the specialist's own exemplars reach on average when each in turn is left
        out, which says what to expect: much of a narrow specialist, less of a broad one. Nothing depends on
        how many specialists there are or what they are called, so one calibrator serves them all.
        """
        scores = self._kernel(vectors) @ self._dual
        return np.stack([scores[:, :-1], lead(scores), np.tile(self._typical, (len(vectors), 1))], axis=2)


def lead(scores: Array) -> Array:
    """Scores [n, classes] to how far each but the last is above the best other [n, classes - 1]."""
    order = np.sort(scores, axis=1)
    best, second = order[:, -1:], order[:, -2:-1]
    own = scores[:, :-1]
    ahead: Array = own - np.where(own == best, second, best)
    return ahead
