"""Which specialist answers a question, with what confidence and why, or that none should."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specialists.errors import BadInput

from .calibrate import Calibrator, background, shipped
from .decision import Decision, Nearest, checked
from .embed import Encoder, cached_vectors
from .scores import Scores

SHOWN = 3  # nearest exemplars that a decision lists
SAME = 0.9  # a background question this near to an exemplar is what that specialist is for, so it is left out


@dataclass(frozen=True)
class Entry:
    """A specialist as the router sees it: the exemplars are questions as people phrase them."""

    name: str
    version: str
    exemplars: tuple[str, ...]


class Router:
    """Routes questions to specialists; ready when made, and then safe to share between threads.

    calibrator: the shipped one unless given. Raises BadInput for an entry without exemplars or a name given
    twice.
    """

    def __init__(
        self, entries: Sequence[Entry], encoder: Encoder, calibrator: Calibrator | None = None
    ) -> None:
        for entry in entries:
            if not entry.exemplars:
                raise BadInput(
                    f"{entry.name} has no exemplars, so no question can be routed to it; give it some."
                )
        names = [entry.name for entry in entries]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BadInput(
                f"The router was given {', '.join(twice)} more than once; register each name once."
            )
        self.entries = list(entries)
        self.encoder = encoder
        self.calibrator = calibrator or shipped()
        self._texts = [(text, entry.name) for entry in entries for text in entry.exemplars]
        if entries:
            vectors = [cached_vectors(encoder, entry.exemplars) for entry in entries]
            self._exemplars = np.concatenate(vectors)
            outside = cached_vectors(encoder, background())
            foreign = (outside @ self._exemplars.T).max(axis=1) < SAME
            self._scores = Scores(vectors, outside[foreign])

    def route(self, question: str) -> Decision:
        """The decision on one question. Raises BadInput when it is empty or has more than MAX_CHARACTERS."""
        return self.route_many([question])[0]

    def route_many(self, questions: Sequence[str]) -> list[Decision]:
        """The decisions on many questions, embedded together. Raises BadInput as `route` does."""
        texts = [checked(question) for question in questions]
        if not texts:
            return []
        if not self.entries:
            reason = "no specialist is registered"
            return [
                Decision(text, None, None, 0.0, self.calibrator.threshold, None, (), reason) for text in texts
            ]
        vectors = self.encoder.embed(texts)
        confidences = self.calibrator.confidence(self._scores.of(vectors))
        similarities = vectors @ self._exemplars.T
        return [self._decide(*row) for row in zip(texts, confidences, similarities, strict=True)]

    def _decide(
        self, text: str, confidences: NDArray[np.float64], similarities: NDArray[np.float32]
    ) -> Decision:
        order = np.argsort(-confidences, kind="stable")
        ranked = [(self.entries[i], float(confidences[i])) for i in order[:2]]
        scores = tuple(
            (entry.name, float(value)) for entry, value in zip(self.entries, confidences, strict=True)
        )
        (best, confidence), threshold = ranked[0], self.calibrator.threshold
        nearest = tuple(
            Nearest(text=exemplar, specialist=name, similarity=float(similarities[i]))
            for i in np.argsort(-similarities, kind="stable")[:SHOWN]
            for exemplar, name in [self._texts[i]]
        )
        if confidence < threshold:
            reason = f"no specialist reaches {threshold:.2f}; {best.name} comes closest with {confidence:.2f}"
            return Decision(
                text, None, None, confidence, threshold, (best.name, confidence), nearest, reason, scores
            )
        runner_up = (ranked[1][0].name, ranked[1][1]) if len(ranked) > 1 else None
        reason = f"{best.name} reaches {confidence:.2f}, and {threshold:.2f} is enough"
        return Decision(
            text, best.name, best.version, confidence, threshold, runner_up, nearest, reason, scores
        )
