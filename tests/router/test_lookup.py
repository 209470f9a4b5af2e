"""Guessing from what was written before: it saves steps and changes no answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.lookup import RUNS, Lookup, agreed
from router.engine.model import AnyModel
from router.engine.request import Request

TOKENS = st.lists(st.integers(0, 5), max_size=60)
QUESTION = [{"role": "user", "content": "a question"}]


@given(TOKENS, st.integers(1, 8))
def test_a_guess_is_what_followed_the_same_run_last(tokens: list[int], most: int) -> None:
    guess = Lookup([tokens]).guess(most)
    for run in RUNS:
        last = tokens[-run:]
        before = [i for i in range(len(tokens) - run) if tokens[i : i + run] == last]
        if len(last) == run and before:
            assert guess == tokens[before[-1] + run :][:most]
            return
    assert guess == []


@given(TOKENS, TOKENS)
def test_taking_in_bit_by_bit_is_taking_in_at_once(some: list[int], more: list[int]) -> None:
    one, other = Lookup([some + more]), Lookup([some])
    for token in more:
        other.extend([token])
    assert one.guess() == other.guess() and len(one) == len(other)


@given(TOKENS, TOKENS)
def test_agreed_counts_up_to_the_first_difference(guessed: list[int], chosen: list[int]) -> None:
    chosen = [*guessed[: len(chosen)], *chosen, *[9] * len(guessed)]
    count = agreed(guessed, chosen)
    assert guessed[:count] == chosen[:count] and (count == len(guessed) or guessed[count] != chosen[count])


class Counted:
    """Counts the forwards of a model."""

    def __init__(self, model: Any) -> None:
        self.steps, self._logits = 0, model.logits
        model.logits = self

    def __call__(self, ids: torch.Tensor, *rest: Any, **more: Any) -> torch.Tensor:
        self.steps += 1
        return self._logits(ids, *rest, **more)  # type: ignore[no-any-return]


@pytest.mark.parametrize("any_model", [False, True])
def test_the_second_time_takes_fewer_steps_and_says_the_same(
    tiny_base: Path, tiny_adapter: Callable[..., Path], any_model: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if any_model:
        monkeypatch.setattr("router.engine.model.is_plain", lambda config: False)
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    assert isinstance(engine.model, AnyModel) is any_model
    engine.add("one", tiny_adapter("one", scale=0.6))
    request = Request(QUESTION, "one", 40)
    in_a_batch = engine.generate([request, request])[0]  # no guesses: two rows
    counted = Counted(engine.model)

    def again(hints: Sequence[str] = ()) -> int:
        before = counted.steps
        said = engine.generate([Request(QUESTION, "one", 40, hints=hints)])[0]
        assert (said.text, said.tokens, said.truncated) == (
            in_a_batch.text,
            in_a_batch.tokens,
            in_a_batch.truncated,
        )
        return counted.steps - before

    first, second = again(), again()
    assert in_a_batch.tokens > 10 and second < 0.6 * first
    engine.remove("one")  # and with it what it wrote
    engine.add("one", tiny_adapter("one", scale=0.6))
    assert again() == first


def test_guesses_never_pass_the_limit_or_the_end(tiny_base: Path) -> None:
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    whole = engine.generate([Request(QUESTION, None, 30)])[0]
    for limit in range(1, 12):
        said = engine.generate([Request(QUESTION, None, limit, hints=[whole.text])])[0]
        assert said.tokens == limit and said.truncated and whole.text.startswith(said.text.rstrip("\ufffd"))
