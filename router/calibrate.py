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

from .scores import GAMMA, RIDGE, Array, Scores, Vectors, features

ROUNDS = 80
EXEMPLARS = (6, 10, 20, 25)  # how many exemplars a specialist has in a round


@dataclass(frozen=True)
class Calibrator:
    """The curve: confidence = logistic(score_weight * score + lead_weight * lead + bias).

    The router abstains below threshold.
    """

    score_weight: float
    lead_weight: float
    bias: float
    threshold: float

    def confidence(self, scores: Array) -> Array:
        """[n, specialists + 1] scores to [n, specialists] confidences in (0, 1)."""
        logit = features(scores) @ np.array([self.score_weight, self.lead_weight]) + self.bias
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
    """Scores [n, specialists + 1] of questions, and the index of the right specialist of each, or -1."""

    scores: Array
    right: NDArray[np.int64]


def deal(
    rng: np.random.Generator,
    questions: Mapping[str, Vectors],
    exemplars: Mapping[str, Vectors],
    outside: Vectors,
    chosen: Sequence[str] | None = None,
    few: int | None = None,
) -> Round:
    """One round: exemplars of some specialists dealt out, all other questions to be routed.

    questions: vectors by specialist. exemplars: those that ship, used half of the time instead of dealing
    some out. outside: the background. chosen and few fix the specialists and the number of exemplars of each.
    """
    pool = sorted(questions)
    if chosen is None:
        chosen = [
            str(name) for name in rng.choice(pool, rng.integers(1, min(6, len(pool)) + 1), replace=False)
        ]
    shown, asked, right = [], [], []
    for index, name in enumerate(chosen):
        mixed = rng.permutation(questions[name])
        cut = min(few or int(rng.choice(EXEMPLARS)), len(mixed) - 5)
        own = name in exemplars and few is None and bool(rng.integers(2))
        shown.append(exemplars[name] if own else mixed[:cut])
        asked.append(mixed if own else mixed[cut:])
        right += [index] * len(asked[-1])
    others = [questions[name] for name in pool if name not in chosen]
    right += [-1] * (sum(map(len, others)) + len(outside))
    scores = Scores(shown, outside)
    return Round(
        np.concatenate([scores.of(np.concatenate([*asked, *others])), scores.of_background]), np.array(right)
    )


def fit(rounds: Sequence[Round]) -> Calibrator:
    """Logistic regression on the best specialist of each question; in and out of scope weigh the same."""
    from sklearn.linear_model import LogisticRegression

    rows, hits, weights = [], [], []
    for one in rounds:
        best = one.scores[:, :-1].argmax(axis=1)
        inside = one.right >= 0
        rows.append(features(one.scores)[np.arange(len(best)), best])
        hits.append(best == one.right)
        weights.append(np.where(inside, 0.5 / inside.sum(), 0.5 / (~inside).sum()))
    weight = np.concatenate(weights)
    model = LogisticRegression(C=100).fit(
        np.concatenate(rows), np.concatenate(hits), sample_weight=weight * len(weight) / len(rounds)
    )
    (score, lead), bias = model.coef_[0], model.intercept_[0]
    confidences = model.predict_proba(np.concatenate(rows))[:, 1]
    return Calibrator(float(score), float(lead), float(bias), cut(np.concatenate(hits), confidences, weight))


def cut(hits: NDArray[np.bool_], confidences: Array, weight: Array | None = None) -> float:
    """The threshold with the largest share of hits kept less share of others kept (Youden 1950)."""
    from sklearn.metrics import roc_curve

    others, kept, thresholds = roc_curve(hits, confidences, sample_weight=weight)
    return float(thresholds[np.argmax(kept - others)])


def measure(curve: Calibrator, rounds: Sequence[Round]) -> dict[str, float]:
    """Top-1 accuracy in scope, and the shares refused in and out of scope, means over rounds."""
    rows = []
    for one in rounds:
        inside, confidence = one.right >= 0, curve.confidence(one.scores)
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
    outside = cached_vectors(encoder, background())

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
