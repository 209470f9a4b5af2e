"""Adapters side by side, in numbers: the scores of a mixed batch beside PEFT's, one adapter at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.adapter import check
from router.engine.base import find_base
from router.engine.engine import Engine
from router.engine.kernels import load
from router.engine.lora import products, read_adapter
from router.engine.mixer import Mixer, gather

QUESTIONS = ["hi", "a somewhat longer question, is it not?", "x", "middling length here"]
NAMES = ["one", None, "two", "one"]


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        ("float32", 1e-6),
        ("bfloat16", 2e-2),
    ],  # of the largest score: float32 sums, and steps of bf16 at its size
)
@pytest.mark.parametrize("names", [NAMES, ["one"] * 4, [None] * 4])
@pytest.mark.parametrize("kernels", [True, False])
def test_scores_are_those_of_peft(
    tiny_base: Path,
    tiny_adapter: Callable[..., Path],
    dtype: str,
    most: float,
    names: list[str | None],
    kernels: bool,
) -> None:
    folders = {"one": tiny_adapter("one", scale=0.2), "two": tiny_adapter("two", rank=2, scale=0.2)}
    engine = Engine(find_base(str(tiny_base)), dtype=dtype)
    for name, folder in folders.items():
        engine.add(name, folder)
    keys = {name: engine.adapters[name] for name in folders}
    every = products(engine.layers)
    way = gather(every, load() if kernels else None, engine.model.dtype)
    placed = {
        keys[name]: way.place(read_adapter(folder, check(folder, engine.residency.shapes)))
        for name, folder in folders.items()
    }
    mixer = Mixer(every, way, placed)
    prompts = [engine.chat.prompt_ids([{"role": "user", "content": text}]) for text in QUESTIONS]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[False] * (width - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    mixer.set([None if name is None else keys[name] for name in names])
    with torch.no_grad():
        ours = engine.model.logits(ids, seen, engine.model.empty_cache()).float()
    expected = torch.stack(
        [
            peft_scores(tiny_base, folders.get(name or ""), prompt, dtype)
            for name, prompt in zip(names, prompts, strict=True)
        ]
    )
    allowed = most * float(expected.abs().max())
    assert float((ours - expected).abs().max()) <= allowed
    if names[0]:  # and an adapter that did nothing would be seen
        assert (
            float((expected[0] - peft_scores(tiny_base, None, prompts[0], dtype)).abs().max()) > 3 * allowed
        )


def peft_scores(tiny_base: Path, adapter: Path | None, prompt: list[int], dtype: str) -> torch.Tensor:
    """What transformers and PEFT score after a prompt."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=getattr(torch, dtype))
    if adapter:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)
        model.to(getattr(torch, dtype))
    with torch.no_grad():
        scores: torch.Tensor = model(input_ids=torch.tensor([prompt])).logits[0, -1].float()
    return scores
