"""Routing: decisions explain themselves, and the hand-written questions find their specialist."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.calibrate import Calibrator, background, deal, fit, measure, phrasings, shipped
from router.decision import MAX_CHARACTERS
from router.embed import Encoder, load_encoder
from router.route import Entry, Router
from router.scores import GAMMA, RIDGE, Scores, lead
from specialists.domain import BUILT_IN, load
from specialists.errors import BadInput

FILES = [Path(__file__).with_name(name) for name in ("questions.jsonl", "questions_fresh.jsonl")]
FIRST, FRESH = ([json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in FILES)
ROWS = FIRST + FRESH
KEYS = ["question", "specialist", "version", "confidence", "threshold", "runner_up", "exemplars", "reason"]
COOKING = Entry(
    "cooking", "1.0.0", ("how do I bake bread", "bake a cake with eggs", "bread recipe with yeast")
)
CHESS = Entry(
    "chess", "2.1.0", ("which chess opening is best", "checkmate with a rook", "chess endgame with a rook")
)
KNOWING = Calibrator(8.0, 2.0, 0.0, -2.0, 0.0, 0.5)  # for the fake encoder of hashed words


def test_a_decision_explains_itself(fake_encoder: Encoder) -> None:
    decision = Router([COOKING, CHESS], fake_encoder, KNOWING).route("  how do I bake a cake ")
    assert decision.specialist == "cooking" and decision.version == "1.0.0" and not decision.abstained
    assert decision.confidence is not None and decision.confidence >= 0.5 == decision.threshold
    assert decision.runner_up is not None and decision.runner_up[0] == "chess"
    assert decision.runner_up[1] < decision.confidence
    similarities = [near.similarity for near in decision.exemplars]
    assert decision.exemplars[0].specialist == "cooking" and similarities == sorted(
        similarities, reverse=True
    )
    assert list(decision.to_json()) == KEYS
    assert json.loads(json.dumps(decision.to_json()))["question"] == "how do I bake a cake"


def test_it_abstains_below_the_threshold(fake_encoder: Encoder) -> None:
    decision = Router([COOKING, CHESS], fake_encoder, KNOWING).route("zzz qqq xxx")
    assert decision.abstained and decision.version is None
    assert decision.confidence is not None and decision.confidence < 0.5
    assert decision.runner_up is not None and decision.runner_up[1] == decision.confidence
    assert decision.runner_up[0] in decision.reason
    assert decision.to_json()["specialist"] is None


def test_one_specialist_alone_is_told_from_the_background(fake_encoder: Encoder) -> None:
    router = Router([CHESS], fake_encoder, KNOWING)
    decision = router.route("checkmate with a rook in chess")
    assert decision.specialist == "chess" and decision.runner_up is None
    assert router.route(background()[0]).abstained


def test_without_specialists_everything_is_refused(fake_encoder: Encoder) -> None:
    decision = Router([], fake_encoder).route("hello")
    assert decision.abstained and decision.runner_up is None and decision.exemplars == ()
    assert "no specialist is registered" in decision.reason


def test_a_background_question_can_become_what_a_specialist_is_for(fake_encoder: Encoder) -> None:
    taken = background()[40:48]
    router = Router([Entry("taken", "1.0.0", taken), CHESS], fake_encoder, KNOWING)
    assert [decision.specialist for decision in router.route_many(taken)] == ["taken"] * 8


def test_many_questions_are_routed_as_one_by_one(fake_encoder: Encoder) -> None:
    router = Router([COOKING, CHESS], fake_encoder, KNOWING)
    texts = ["bread recipe", "rook endgame", "what now", "bread recipe"]
    for together, alone in zip(router.route_many(texts), map(router.route, texts), strict=True):
        assert (together.question, together.specialist) == (alone.question, alone.specialist)
        assert together.confidence == pytest.approx(alone.confidence, abs=1e-4)
    assert router.route_many([]) == []


@pytest.mark.parametrize(
    ("question", "says"), [("", "empty"), (" \n\t", "empty"), ("x" * 50_000, f"{MAX_CHARACTERS:,}")]
)
def test_what_is_no_question(fake_encoder: Encoder, question: str, says: str) -> None:
    router = Router([COOKING], fake_encoder)
    with pytest.raises(BadInput, match=says):
        router.route(question)
    with pytest.raises(BadInput, match=says):
        router.route_many(["fine", question])


def test_entries_that_cannot_be_routed_to(fake_encoder: Encoder) -> None:
    with pytest.raises(BadInput, match="mute has no exemplars"):
        Router([Entry("mute", "1.0.0", ())], fake_encoder)
    with pytest.raises(BadInput, match="chess more than once"):
        Router([CHESS, COOKING, CHESS], fake_encoder)


def units(rng: np.random.Generator, centre: int, n: int) -> np.ndarray:
    rows = rng.normal(scale=0.2, size=(n, 8)) + 2 * np.eye(8)[centre]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None)  # the machine may be busy
@given(
    scores=st.lists(st.lists(st.floats(-1, 2), min_size=2, max_size=6), min_size=1, max_size=3).filter(
        lambda rows: len({len(row) for row in rows}) == 1
    )
)
def test_lead_is_over_the_best_other(scores: list[list[float]]) -> None:
    for row, got in zip(scores, lead(np.array(scores)), strict=True):
        for i in range(len(row) - 1):
            assert got[i] == pytest.approx(row[i] - max(row[:i] + row[i + 1 :]))


def test_scores_point_at_the_class_whatever_the_sizes() -> None:
    rng = np.random.default_rng(0)
    scores = Scores([units(rng, 0, 4), units(rng, 1, 40)], units(rng, 2, 90))
    for centre in range(2):
        features = scores.of(units(rng, centre, 20))
        assert (features[:, centre, 1] > 0.3).all() and (features[:, centre, 0] > 0.5).all()
    assert (scores.of(units(rng, 2, 20))[..., 1] < 0).all()


def test_what_is_typical_is_the_score_of_an_exemplar_left_out() -> None:
    rng = np.random.default_rng(0)
    shown, outside = units(rng, 0, 5), units(rng, 1, 6)
    points, labels, sizes = np.concatenate([shown, outside]), np.repeat([0, 1], [5, 6]), np.array([5, 6])
    kernel = np.exp(-2 * GAMMA * (1 - points.astype(float) @ points.T))
    left_out = []
    for i in range(5):
        rest = np.arange(11) != i  # the others keep their weights
        ridge = np.diag(RIDGE * sizes[labels[rest]])
        dual = np.linalg.solve(kernel[np.ix_(rest, rest)] + ridge, np.eye(2)[labels[rest]])
        left_out.append((kernel[i, rest] @ dual)[0])
    typical = Scores([shown], outside).of(shown)[..., 2]
    np.testing.assert_allclose(typical, np.mean(left_out), atol=1e-4)


def test_a_fit_on_some_specialists_serves_one_it_never_saw() -> None:
    rng = np.random.default_rng(0)
    questions = {f"s{i}": units(rng, i, 30) for i in range(5)}
    outside = [units(rng, i, 10) for i in (6, 7) for _ in range(3)]
    seen = {name: rows for name, rows in questions.items() if name != "s4"}
    curve = fit([deal(rng, seen, {}, outside) for _ in range(20)])
    figures = measure(
        curve, [deal(rng, questions, {}, outside, chosen=["s4", "s1"], few=6) for _ in range(5)]
    )
    assert (
        figures["top1"] > 0.98 and figures["in_scope_refused"] < 0.1 and figures["out_of_scope_refused"] > 0.9
    )


def test_no_test_question_was_fitted_on_and_there_are_enough() -> None:
    counts = Counter(row["specialist"] for row in FIRST)
    assert all(counts[name] >= 110 for name in BUILT_IN) and counts[None] >= 120
    asked = [row["question"].strip().lower() for row in ROWS]
    fitted = [text.strip().lower() for texts in phrasings().values() for text in texts]
    fitted += [text.strip().lower() for text in background()]
    exemplars = [text.strip().lower() for name in BUILT_IN for text in load(name).exemplars()]
    assert len(set(asked)) == len(asked)
    assert not set(asked) & set(fitted) and not set(asked) & set(exemplars)
    assert len(background()) >= 150


@cache
def encoder() -> Encoder:
    return load_encoder()


@pytest.mark.slow
def test_no_test_question_is_nearly_one_that_was_fitted_on() -> None:
    fitted = [text for texts in phrasings().values() for text in texts] + list(background())
    fitted += [text for name in BUILT_IN for text in load(name).exemplars()]
    asked = [row["question"] for row in ROWS]
    near = encoder().embed(asked) @ encoder().embed(fitted).T
    too_near = [(asked[i], fitted[j]) for i, j in np.argwhere(near > 0.95)]
    assert not too_near


@pytest.mark.slow
@pytest.mark.parametrize("rows", [FIRST, FRESH], ids=["first", "fresh"])
def test_the_hand_written_questions_find_their_specialist(rows: list[dict[str, str | None]]) -> None:
    """The figures the router is to reach; benchmarks/routing.py reports the same questions in full."""
    entries = [Entry(name, "1.0.0", tuple(load(name).exemplars())) for name in BUILT_IN]
    decisions = Router(entries, encoder()).route_many([str(row["question"]) for row in rows])
    pairs = [(decision, row["specialist"]) for decision, row in zip(decisions, rows, strict=True)]
    inside = [(decision, gold) for decision, gold in pairs if gold]
    outside = [decision for decision, gold in pairs if not gold]
    best = [decision.specialist or (decision.runner_up or ("",))[0] for decision, _ in inside]
    assert np.mean([name == gold for name, (_, gold) in zip(best, inside, strict=True)]) >= 0.97
    assert np.mean([decision.abstained for decision, _ in inside]) <= 0.05
    assert np.mean([decision.abstained for decision in outside]) >= 0.85


def test_the_shipped_calibrator_asks_more_of_a_narrow_specialist() -> None:
    curve = shipped()
    assert 0 < curve.threshold < 1
    sure, unsure, broad, none = curve.confidence(
        np.array([[[1.0, 0.9, 0.9]], [[0.35, 0.05, 0.9]], [[0.35, 0.05, 0.3]], [[0.0, -0.9, 0.3]]])
    )[:, 0]
    assert sure > curve.threshold > unsure and sure > broad > unsure and none < curve.threshold
