"""Collapse: what counts as one, and how a training run comes back from it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.checkpoint import load_checkpoint
from distill.config import TrainConfig
from distill.encode import Encoded
from distill.guard import Check, entropy, repeats, risen, symptom
from distill.loop import Loop
from specialists.domain import items, load
from specialists.errors import Damaged
from specialists.parsers import PARSERS

GOLDS = ["YES", "NO"] * 8
SOLUTIONS = ["one\ntwo\nAnswer: YES"] * 16


def test_the_solver_itself_is_well_in_every_domain() -> None:
    for name in ("scheduling", "scheduling:half-hour", "scheduling:seeds", "dates", "cron"):
        domain = load(name)
        tasks = items(domain, "dev", 32)
        texts = [domain.worked(task) for task in tasks]
        answers = [PARSERS[domain.parser](text) for text in texts]
        assert symptom(texts, answers, [task.answer for task in tasks], texts) is None, name


def test_a_weak_model_is_not_a_collapsed_one() -> None:
    answers = ["YES"] * 11 + ["NO"] * 5
    assert symptom([f"Answer: {answer}" for answer in answers], answers, GOLDS, SOLUTIONS) is None


@pytest.mark.parametrize(
    ("texts", "answers", "says"),
    [
        (["Answer: NO"] * 16, ["NO"] * 16, "answers 'NO' to 16 of 16"),
        ([f"x{i}" for i in range(16)], [None] * 16, "answers '\\(none\\)' to 16 of 16"),
        (["a\n" + "17 18 " * 20] * 9 + ["Answer: NO"] * 7, ["NO", "YES"] * 8, "repeats itself.* 9 of 16"),
        ([f"Answer: NO {'word ' * 40}{i}" for i in range(16)], ["NO", "YES"] * 8, "characters where 19"),
    ],
)
def test_each_symptom_is_named(texts: list[str], answers: list[str | None], says: str) -> None:
    import re

    found = symptom(texts, answers, GOLDS, SOLUTIONS)
    assert found and re.search(says, found), found


def test_few_answers_to_many_kinds_of_question() -> None:
    golds = [str(i) for i in range(16)]
    answers = ["1"] * 14 + ["2", "3"]
    found = symptom([f"Answer: {a}" for a in answers], answers, golds, SOLUTIONS)
    assert found and "hardly varies" in found


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=40))
def test_entropy_is_within_its_bounds(answers: list[str]) -> None:
    kinds = len(set(answers))
    assert -1e-9 <= entropy(answers) <= torch.log2(torch.tensor(float(kinds))).item() + 1e-6
    assert (entropy(answers) < 1e-9) == (kinds == 1)


@given(st.text(min_size=1, max_size=40), st.text(max_size=200))
def test_whatever_comes_round_eight_times_at_the_end_repeats(piece: str, before: str) -> None:
    assert repeats(before + piece * 8)


def test_a_loss_that_rises_tenfold_is_noticed_and_noise_is_not() -> None:
    assert risen([2.0] * 20 + [0.05] * 20 + [0.9] * 20)
    assert risen([2.0] * 20 + [0.01] * 20 + [0.2] * 20) is None
    assert risen([2.0] * 20 + [0.3] * 40) is None and risen([0.1, 9.0]) is None


class Bowl:
    """A loop over one number that is to become 3: `spoil` makes a check find a collapse."""

    def __init__(self, checks: list[Check], steps: int = 16, **options: Any) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.checks = iter(checks)
        self.seen: list[float] = []
        self.rates: list[float] = []
        config = TrainConfig(**{"lr": 0.5, "check_every": 4, "warmup": 0.0, **options})
        self.loop = Loop([self.weight], config, steps, self.stream, self.loss, self.rate, self.check)

    def stream(self) -> Iterator[list[Encoded]]:
        while True:
            yield [Encoded((1, 2), 1)]

    def loss(self, rows: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        self.rates.append(self.loop.optimizer.param_groups[0]["lr"])
        found = ((self.weight - 3) ** 2).sum()
        return found, (-found.detach()).exp()[None]

    def rate(self, step: int) -> float:
        return 0.5

    def check(self) -> Check:
        self.seen.append(self.weight.item())
        return next(self.checks)


def test_the_best_weights_are_kept(tmp_path: Path) -> None:
    bowl = Bowl([Check(5, 8), Check(7, 8), Check(6, 8), Check(7, 8)])
    done = bowl.loop.run(tmp_path, {})
    assert done.best_step == 8 and bowl.weight.item() == bowl.seen[1] != bowl.seen[3]
    assert done.dev == [(4, 5, 8), (8, 7, 8), (12, 6, 8), (16, 7, 8)] and not done.events


def test_training_stops_early_when_nothing_gets_better(tmp_path: Path) -> None:
    bowl = Bowl([Check(5, 8), Check(5, 8), Check(4, 8)], steps=40, patience=2)
    done = bowl.loop.run(tmp_path, {})
    assert done.step == 12 and bowl.weight.item() == bowl.seen[0]
    assert "Stopped at step 12" in done.events[0]


def test_a_collapse_goes_back_to_the_last_good_check_with_half_the_rate(tmp_path: Path) -> None:
    bowl = Bowl([Check(5, 8), Check(0, 8, "answers 'NO' always"), Check(6, 8), Check(7, 8), Check(8, 8)])
    done = bowl.loop.run(tmp_path, {})
    assert done.retries == 1 and done.step == 16 and len(done.loss) == 16
    assert bowl.rates[:8] == [0.5] * 8 and set(bowl.rates[8:]) == {0.25}
    assert "answers 'NO' always; back to step 4" in done.events[0]
    assert [step for step, _, _ in done.dev] == [4, 8, 12, 16]


def test_steps_passed_over_are_forgotten_with_a_collapse(tmp_path: Path) -> None:
    """The number is 3 to within 0.3 from some step on: from there it is left alone."""
    bowl = Bowl([Check(5, 8), Check(6, 8), Check(0, 8, "is broken"), Check(7, 8), Check(8, 8)], known=0.9)
    done = bowl.loop.run(tmp_path, {})
    assert done.step == 16 and len(done.norms) == 16
    assert done.passed_over == [step for step, norm in enumerate(done.norms, 1) if norm == 0]
    assert done.passed_over and abs(bowl.weight.item() - 3) < 0.35


def test_the_third_collapse_is_one_plain_sentence(tmp_path: Path) -> None:
    sick = Check(0, 8, "answers 'NO' to 8 of 8 dev questions")
    bowl = Bowl([Check(5, 8), sick, sick, sick])
    with pytest.raises(Damaged, match="collapsed 3 times.*answers 'NO' to 8 of 8.*Lower --lr"):
        bowl.loop.run(tmp_path, {})
    assert bowl.loop.at.scale == 0.25


def test_a_model_that_was_never_well_is_not_kept(tmp_path: Path) -> None:
    bowl = Bowl([Check(0, 8, "answers 'NO' to all")] * 4)
    with pytest.raises(Damaged, match="At the last check the model answers 'NO' to all. Lower --lr"):
        bowl.loop.run(tmp_path, {})


def test_a_gradient_that_is_no_number_goes_back_to_the_start(tmp_path: Path) -> None:
    bowl = Bowl([Check(1, 8)] * 4)
    real, calls = bowl.loss, 0

    def once(rows: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        loss, found = real(rows)
        return loss * (float("nan") if calls == 3 else 1.0), found

    bowl.loop.loss = once
    done = bowl.loop.run(tmp_path, {})
    assert calls == 19 and done.retries == 1 and torch.isfinite(bowl.weight).all()
    assert "no number" in done.events[0] and "back to step 0" in done.events[0]


def test_stopped_between_a_collapse_and_its_mending_it_goes_on_alike(tmp_path: Path) -> None:
    def checks() -> list[Check]:
        return [Check(5, 8), Check(0, 8, "is broken"), Check(6, 8), Check(7, 8), Check(8, 8)]

    whole = Bowl(checks())
    expected = whole.loop.run(tmp_path / "whole", {})
    for stop in (3, 6, 9, 13):
        folder = tmp_path / f"cut{stop}"
        folder.mkdir()
        cut, real = Bowl(checks()), whole.loss

        def interrupted(
            rows: list[Encoded], cut: Bowl = cut, stop: int = stop
        ) -> tuple[torch.Tensor, torch.Tensor]:
            if len(cut.rates) == stop:
                raise KeyboardInterrupt
            return Bowl.loss(cut, rows)

        cut.loop.loss = interrupted
        with pytest.raises(KeyboardInterrupt):
            cut.loop.run(folder, {})
        again = Bowl(checks()[len(cut.seen) :])
        done = again.loop.run(folder, {})
        assert (done.loss, done.events, done.dev) == (expected.loss, expected.events, expected.dev)
        assert again.weight.item() == whole.weight.item()
        assert load_checkpoint(folder, {}) and real
