"""From scores to the confidence that a specialist is the right one: one logistic curve for all specialists.

One curve, because thresholds fitted per specialist follow the accidents of a few questions each. It is fitted
on questions written for the purpose (data/phrasings.jsonl and data/background.txt, no test question among
them), in many random sets of specialists: one to six of them, with few or many exemplars, those left out
counting as out of scope. So it has learnt nothing about any specialist by name. Run `python -m
router.calibrate` to fit it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .scores import GAMMA, RIDGE, Array, Scores, Vectors

ROUNDS = 80
TOPICS, HELD = 40, 0.4  # topics of the background, and the share of them that a round asks about
EXEMPLARS = (4, 8, 16, 25)  # how many exemplars a specialist has in a round


@dataclass(frozen=True)
class Calibrator:
    """The curve: confidence = logistic(weights . features + bias), with the features of Scores.of.

    The router abstains below threshold. least_typical: typical scores below it, as of one or two exemplars
    that have nothing in common, were hardly seen in the fit and count as it.
    """

    score: float
    lead: float
    typical: float
    bias: float
    least_typical: float
    threshold: float

    def confidence(self, features: Array) -> Array:
        """Features [n, specialists, 3] to confidences [n, specialists] in (0, 1)."""
        typical = np.maximum(features[..., 2], self.least_typical)
        logit = (
            self.score * features[..., 0] + self.lead * features[..., 1] + self.typical * typical + self.bias
        )
        confidence: Array = 1 / (1 + np.exp(-logit))
        return confidence


def _text(name: str) -> str:
    return (files("router") / "data" / name).read_text("utf-8")


@cache
def background() -> tuple[str, ...]:
    """Everyday questions that no built-in specialist is meant for."""
    return tuple(line for line in _text("background.txt").splitlines() if line)


def phrasings() -> dict[str, list[str]]:
    """Questions by the specialist they are for; besides the built-in ones some that exist only to fit on."""
    found: dict[str, list[str]] = {}
    for line in _text("phrasings.jsonl").splitlines():
        row = json.loads(line)
        found.setdefault(row["specialist"], []).append(row["question"])
    return found


def shipped() -> Calibrator:
    """The calibrator fitted for the default encoder and these scores."""
    return Calibrator(**json.loads(_text("calibration.json"))["calibrator"])


@dataclass(frozen=True)
class Round:
    """Features [n, specialists, 3] of questions, and the index of the right specialist of each, or -1."""

    features: Array
    right: NDArray[np.int64]


def deal(
    rng: np.random.Generator,
    questions: Mapping[str, Vectors],
    exemplars: Mapping[str, Vectors],
    outside: Sequence[Vectors],
    chosen: Sequence[str] | None = None,
    few: int | None = None,
) -> Round:
    """One round: exemplars of some specialists dealt out, all other questions to be routed.

    questions: vectors by specialist. exemplars: those that ship, used half of the time instead of dealing
    some out. outside: the background by topic; some topics are asked about and the others are the background
    of the round, because most of what people ask out of scope is in no list. chosen and few fix the
    specialists and the number of exemplars of each.
    """
    pool = sorted(questions)
    if chosen is None:
        chosen = [
            str(name) for name in rng.choice(pool, rng.integers(1, min(6, len(pool)) + 1), replace=False)
        ]
    shown, asked, right = [], [], []
    for index, name in enumerate(chosen):
        mixed = rng.permutation(questions[name])
        size = min(few or int(rng.choice(EXEMPLARS)), len(mixed) - 5)
        own = name in exemplars and few is None and bool(rng.integers(2))
        shown.append(exemplars[name] if own else mixed[:size])
        asked.append(mixed if own else mixed[size:])
        right += [index] * len(asked[-1])
    held = set(rng.permutation(len(outside))[: round(HELD * len(outside))].tolist())
    foreign = [questions[name] for name in pool if name not in chosen] + [outside[topic] for topic in held]
    right += [-1] * sum(map(len, foreign))
    known = [rows for topic, rows in enumerate(outside) if topic not in held]
    features = Scores(shown, np.concatenate(known)).of(np.concatenate([*asked, *foreign]))
    return Round(features, np.array(right))


def topics(vectors: Vectors) -> list[Vectors]:
    """The background cut into topics by k-means."""
    from sklearn.cluster import KMeans

    labels = KMeans(TOPICS, n_init=4, random_state=0).fit_predict(vectors)
    return [vectors[labels == topic] for topic in range(TOPICS)]


def fit(rounds: Sequence[Round]) -> Calibrator:
    """Logistic regression on the best specialist of each question; in and out of scope weigh the same."""
    from sklearn.linear_model import LogisticRegression

    rows, hits, weights = [], [], []
    for one in rounds:
        best = one.features[..., 0].argmax(axis=1)
        inside = one.right >= 0
        rows.append(one.features[np.arange(len(best)), best])
        hits.append(best == one.right)
        weights.append(np.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum()))
    row, hit, weight = np.concatenate(rows), np.concatenate(hits), np.concatenate(weights)
    model = LogisticRegression(C=100).fit(row, hit, sample_weight=weight * len(weight) / len(rounds))
    score, lead, usual = model.coef_[0]
    typical = np.concatenate([one.features[0, :, 2] for one in rounds])
    return Calibrator(
        score=float(score),
        lead=float(lead),
        typical=float(usual),
        bias=float(model.intercept_[0]),
        least_typical=float(np.quantile(typical, 0.05)),
        threshold=cut(hit, model.predict_proba(row)[:, 1], weight),
    )


def cut(hits: NDArray[np.bool_], confidences: Array, weight: Array | None = None) -> float:
    """The threshold with the largest share of hits kept less share of others kept (Youden 1950)."""
    from sklearn.metrics import roc_curve

    others, kept, thresholds = roc_curve(hits, confidences, sample_weight=weight)
    return float(thresholds[np.argmax(kept - others)])


def measure(curve: Calibrator, rounds: Sequence[Round]) -> dict[str, float]:
    """Top-1 accuracy in scope, and the shares refused in and out of scope, means over rounds."""
    rows = []
    for one in rounds:
        inside, confidence = one.right >= 0, curve.confidence(one.features)
        refused = confidence.max(axis=1) < curve.threshold
        hit = confidence.argmax(axis=1) == one.right
        rows.append([hit[inside].mean(), refused[inside].mean(), refused[~inside].mean()])
    top, inside_refused, outside_refused = np.mean(rows, axis=0).round(4)
    return {
        "top1": float(top),
        "in_scope_refused": float(inside_refused),
        "out_of_scope_refused": float(outside_refused),
    }


def refit(seed: int = 0) -> dict[str, Any]:
    """The object of data/calibration.json: a new fit, and how fits did on a specialist they had not seen."""
    from specialists.domain import BUILT_IN, load

    from .embed import cached_vectors, load_encoder

    encoder = load_encoder()
    questions = {name: cached_vectors(encoder, texts) for name, texts in phrasings().items()}
    exemplars = {name: cached_vectors(encoder, load(name).exemplars()) for name in BUILT_IN}
    outside = topics(cached_vectors(encoder, background()))

    def rounds(names: Sequence[str], n: int, **fixed: Any) -> list[Round]:
        rng = np.random.default_rng(seed)
        return [
            deal(rng, {name: questions[name] for name in names}, exemplars, outside, **fixed)
            for _ in range(n)
        ]

    names = sorted(questions)
    curve = fit(rounds(names, ROUNDS))
    checks = {}
    for name in names:
        unseen = fit(rounds([other for other in names if other != name], ROUNDS // 2))
        checks[f"{name} beside the built-in ones, 10 exemplars each"] = measure(
            unseen, rounds(names, 5, chosen=sorted({*BUILT_IN, name}), few=10)
        )
        checks[f"{name} alone, 10 exemplars"] = measure(unseen, rounds(names, 5, chosen=[name], few=10))
    return {
        "calibrator": asdict(curve),
        "fitted_on": {
            "encoder": encoder.id,
            "encoder_weights": encoder.weights,
            "phrasings": {name: len(texts) for name, texts in phrasings().items()},
            "background": len(background()),
            "rounds": ROUNDS,
            "topics": {"number": TOPICS, "held_out": HELD},
            "seed": seed,
            "kernel": {"gamma": GAMMA, "ridge": RIDGE},
            "command": "python -m router.calibrate",
        },
        "left_out_checks": checks,
    }


if __name__ == "__main__":
    from pathlib import Path

    from specialists.paths import write_atomic

    found = json.dumps(refit(), indent=1) + "\n"
    write_atomic(Path(__file__).with_name("data") / "calibration.json", found.encode())
    print(found, end="")
