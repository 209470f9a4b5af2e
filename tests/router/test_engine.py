"""The engine against PEFT and transformers on a tiny Qwen2: same tokens alone, in a batch, and mixed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from router.engine import engine as module
from router.engine import residency
from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.prefix import SHARE_FROM
from router.engine.request import Generation, Request
from specialists.errors import BadInput, Damaged

QUESTIONS = ["hi", "a somewhat longer question, is it not?", "x", "middling length here", "hi there", "six"]


@pytest.fixture(scope="module")
def engine(tiny_base: Path) -> Engine:
    return Engine(find_base(str(tiny_base)), dtype="float32")


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def peft_says(engine: Engine, tiny_base: Path, adapter: Path | None, text: str, n: int) -> str:
    """The same answer by transformers' generate over PEFT's adapter."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    ids = torch.tensor([engine.chat.prompt_ids(chat(text))])
    out = model.generate(input_ids=ids, max_new_tokens=n, do_sample=False)
    said: str = engine.chat.decode(out[0, ids.shape[1] :].tolist())
    return said


def test_a_mixed_batch_says_what_peft_says_one_by_one(
    engine: Engine, tiny_base: Path, tiny_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH", 4)  # so that some join while others are under way
    folders = {"one": tiny_adapter("one", scale=0.6), "two": tiny_adapter("two", rank=2, scale=0.9)}
    for name, folder in folders.items():
        engine.add(name, folder)
    names = ["one", None, "two", "one", "two", None]
    limits = [12, 5, 9, 3, 12, 12]
    requests = [Request(chat(q), a, n) for q, a, n in zip(QUESTIONS, names, limits, strict=True)]
    said = [generation.text for generation in engine.generate(requests)]
    alone = [engine.generate([request])[0].text for request in requests]
    expected = [
        peft_says(engine, tiny_base, folders[a] if a else None, q, n)
        for q, a, n in zip(QUESTIONS, names, limits, strict=True)
    ]
    assert said == alone
    assert alone == expected
    assert len({said[0], engine.generate([Request(chat("hi"), "two", 12)])[0].text, said[5]}) == 3


@pytest.mark.parametrize("plain", [True, False])
def test_a_prompt_computed_once_for_many_changes_no_answer(
    tiny_base: Path, tiny_adapter: Callable[..., Path], plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.engine.model.is_plain", lambda config: plain)
    engine = Engine(find_base(str(tiny_base)), dtype="float32")
    engine.add("one", tiny_adapter("one", scale=0.6))
    system = {"role": "system", "content": "You answer questions of this one kind, step by step."}
    requests = [Request([system, *chat(q)], a, 9) for a in ("one", None) for q in (*QUESTIONS, QUESTIONS[0])]
    prompts = [engine.chat.prompt_ids(r.messages) for r in requests]
    assert len(os.path.commonprefix(prompts)) >= SHARE_FROM
    said = [generation.text for generation in engine.generate(requests)]
    assert said == [engine.generate([request])[0].text for request in requests]


def test_streams_every_character_once_and_reports_truncation(engine: Engine) -> None:
    pieces: dict[int, str] = {0: "", 1: ""}
    done: dict[int, Generation] = {}

    def on_token(index: int, text: str) -> None:
        pieces[index] += text

    results = engine.generate(
        [Request(chat("hi"), None, 7), Request(chat("ho"), None, 4)],
        on_token,
        lambda i, g: done.update({i: g}),
    )
    assert [pieces[0], pieces[1]] == [result.text for result in results]
    assert [result.tokens for result in results] == [7, 4] and all(result.truncated for result in results)
    assert done == dict(enumerate(results))
    assert 0 <= results[0].first_token_seconds <= results[0].seconds


def test_stops_at_the_end_of_turn(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    finished = engine.finished
    monkeypatch.setattr(engine, "finished", lambda row: written.extend(row.written) or finished(row))
    engine.generate([Request(chat("stop"), None, 6)])
    monkeypatch.setattr(engine, "_stop", {written[2]})
    cut = engine.generate([Request(chat("stop"), None, 6)])[0]
    assert not cut.truncated and cut.tokens == written.index(written[2])


def test_a_removed_adapter_leaves_nothing_behind(engine: Engine, tiny_adapter: Callable[..., Path]) -> None:
    bare = engine.generate([Request(chat("hi"), None, 8)])[0].text
    engine.add("gone", tiny_adapter("gone", scale=0.9))
    assert engine.generate([Request(chat("hi"), "gone", 8)])[0].text != bare
    engine.remove("gone")
    assert engine.generate([Request(chat("hi"), None, 8)])[0].text == bare
    with pytest.raises(BadInput, match="No adapter 'gone'"):
        engine.generate([Request(chat("hi"), "gone", 8)])


def test_a_name_that_gets_other_weights_answers_with_them(
    engine: Engine, tiny_adapter: Callable[..., Path]
) -> None:
    engine.add("name", tiny_adapter("old", scale=0.9))
    old = engine.generate([Request(chat("hi"), "name", 8)])[0].text
    engine.add("name", tiny_adapter("new", scale=0.9))
    engine.add("fresh", tiny_adapter("new", scale=0.9))
    new = engine.generate([Request(chat("hi"), "name", 8), Request(chat("hi"), "fresh", 8)])
    assert new[0].text == new[1].text != old


def test_refuses_what_does_not_fit(engine: Engine, tiny_adapter: Callable[..., Path]) -> None:
    import json

    folder = tiny_adapter("wrong")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    with pytest.raises(Damaged):
        engine.add("wrong", folder)
    assert "wrong" not in engine.adapters
    with pytest.raises(BadInput, match="reads at most 4096"):
        engine.generate([Request(chat("x" * 5000), None, 4)])
    assert engine.generate([]) == []


def test_an_adapter_that_goes_while_it_is_added_is_one_sentence(
    engine: Engine, tiny_adapter: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, check = tiny_adapter("going"), residency.check

    def checked_and_gone(path: Path, shapes: Any) -> Any:
        found = check(path, shapes)
        (path / "adapter_model.safetensors").unlink()
        return found

    monkeypatch.setattr(residency, "check", checked_and_gone)
    with pytest.raises(Damaged, match=r"cannot be read .*; add it again"):
        engine.add("going", folder)
