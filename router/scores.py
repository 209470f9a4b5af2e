"""How well each specialist's exemplars explain a question: kernel ridge regression against a background.

Every specialist is a class, and so is the background: everyday questions that no specialist is meant for.
One-hot targets are regressed on a Gaussian kernel over unit vectors (kernel ridge: Saunders, Gammerman & Vovk
1998). An exemplar counts in inverse proportion to how many its class has, so that all classes weigh the same,
however many there are. It is solved in closed form at every start, so a new specialist needs no training, and
the background gives even a lone specialist something to be told apart from.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]
Vectors = NDArray[np.float32]
GAMMA, RIDGE = 0.5, 0.003  # chosen on the fit questions of calibrate.py


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
        self._first_background = len(self.points) - len(background)
        self._targets = np.eye(len(classes))[labels]
        ridge = np.diag(RIDGE * sizes[labels])
        self._factor = cho_factor(self._kernel(self.points) + ridge, lower=True)
        self._dual: Array = cho_solve(self._factor, self._targets)

    def _kernel(self, vectors: Vectors) -> Array:
        kernel: Array = np.exp(-2 * GAMMA * (1 - (vectors @ self.points.T).astype(np.float64)))
        return kernel

    def of(self, vectors: Vectors) -> Array:
        """Scores [n, specialists + 1], about 1 for the class of a vector, the background last."""
        scores: Array = self._kernel(vectors) @ self._dual
        return scores

    @cached_property
    def of_background(self) -> Array:
        """Scores of the background questions, each as if it were not among the points (leave-one-out)."""
        start = self._first_background
        inverse = cho_solve(self._factor, np.eye(len(self.points)))
        left_out: Array = self._targets[start:] - self._dual[start:] / np.diag(inverse)[start:, None]
        return left_out


def features(scores: Array) -> Array:
    """[n, specialists + 1] scores to [n, specialists, 2]: each specialist's score, and its lead over the best
    other.

    The background is one of the others, so there always is one. Nothing depends on how many specialists there
    are or what they are called, so one calibrator serves them all.
    """
    order = np.sort(scores, axis=1)
    best, second = order[:, -1:], order[:, -2:-1]
    own = scores[:, :-1]
    return np.stack([own, own - np.where(own == best, second, best)], axis=2)
