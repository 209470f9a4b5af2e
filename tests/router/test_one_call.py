"""A layer in one call of the compiled loops gives the bits that it gives operation by operation."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from router.engine.in_place import InPlaceAdapters
from router.engine.kernels import load
from router.engine.lora import MixedLinear, Weights, products, wrap
from router.engine.mixer import Mixer
from router.engine.one_call import MOST, in_one_call
from router.engine.products import Plain, eight_bits, four_bits, int4, int8
from router.engine.qwen2 import Block, Qwen2

kernels = load()
if not kernels or not kernels.multiplies:
    pytest.skip("there are no kernels here", allow_module_level=True)

SHAPES = ((64, 2, 1, 96), (64, 3, 3, 144), (128, 4, 2, 64), (32, 2, 1, 80))  # head, heads, groups, inner
VOCABULARY = 100


def rounded(product: MixedLinear, precision: str) -> None:
    plain = product.product
    assert isinstance(plain, Plain)
    weights = [one.weight for one in plain.linears]
    if precision == "int8":
        numbers, scales = zip(*map(eight_bits, weights), strict=True)
        product.product = int8(numbers, scales, plain.bias)
    else:
        product.product = int4([four_bits(one) for one in weights], plain.bias, weights[0].shape[1])


@cache
def made(shape: tuple[int, int, int, int], precision: str) -> tuple[Qwen2, Mixer]:
    """A random model in bf16 with rounded products, and three adapters of which the second leaves some layers alone."""
    assert kernels
    size, heads, groups, inner = shape
    config = {
        "vocab_size": VOCABULARY, "hidden_size": 96, "head_dim": size, "num_attention_heads": heads,
        "num_key_value_heads": groups, "intermediate_size": inner, "num_hidden_layers": 3, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 4096,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Qwen2(config, {0}).bfloat16().requires_grad_(False).eval()
    for parameter in model.parameters():
        parameter.data = (torch.randn(parameter.shape) * 0.3).bfloat16()
    every = products(wrap(model))
    for product in every:
        rounded(product, precision)
    placing = InPlaceAdapters(every, kernels, torch.int8)
    adapters = {}
    for at, (name, rank) in enumerate((("a", 4), ("b", 3), ("c", 9))):
        layers = [
            (layer, shape)
            for product in every
            for layer, shape in zip(product.names, product.shapes, strict=True)
            if layer != "lm_head" and not (name == "b" and "k_proj" not in layer and "down" not in layer)
        ]
        a = {layer: torch.randn(rank, inside) for layer, (_, inside) in layers}
        b = {layer: torch.randn(out, rank) for layer, (out, _) in layers}
        adapters[name] = placing.place(Weights(a, b, dict.fromkeys(a, 0.1 * (at + 1))))
    in_one_call(model, kernels)
    return model, Mixer(every, placing, adapters)


def blocks(model: Qwen2) -> list[Block]:
    return [block for block in model.model.layers if isinstance(block, Block)]


def said(model: Qwen2, ids: Tensor, seen: Tensor, times: list[int]) -> list[Tensor]:
    """Scores of pieces of ids, one after another, and what is kept in the end."""
    layers, at, found = model.empty_cache(), 0, []
    for time in times:
        found.append(model.logits(ids[:, at : at + time], seen[:, : at + time], layers, time if at else 1))
        at += time
    return found + [side for layer in layers for side in (layer.keys, layer.values) if side is not None]


@given(
    st.sampled_from(SHAPES),
    st.sampled_from(["int8", "int4"]),
    st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 9)), min_size=1, max_size=9),
    st.lists(st.sampled_from([1, 1, 2, 5, 17]), min_size=1, max_size=4),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_the_same_bits(
    shape: tuple[int, int, int, int],
    precision: str,
    rows: list[tuple[str | None, int]],
    times: list[int],
    seed: int,
) -> None:
    model, mixer = made(shape, precision)
    times = [11, *times]
    torch.manual_seed(seed)
    ids = torch.randint(0, VOCABULARY, (len(rows), sum(times)))
    seen = torch.ones(ids.shape, dtype=torch.bool)
    for row, (_, padding) in enumerate(rows):
        seen[row, :padding] = False
    mixer.set([name for name, _ in rows])
    found = said(model, ids, seen, times)
    held = [block.whole for block in blocks(model)]
    assert all(held)
    try:
        for block in blocks(model):
            block.whole = None
        wanted = said(model, ids, seen, times)
    finally:
        for block, whole in zip(blocks(model), held, strict=True):
            block.whole = whole
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@torch.inference_mode()
def test_it_is_done_in_one_call_but_for_many_positions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, mixer = made(SHAPES[0], "int8")
    mixer.set(["a", None])
    calls = 0
    for block in blocks(model):
        whole = block.whole
        assert whole

        def counted(*args: object, whole: object = whole) -> Tensor | None:
            nonlocal calls
            found: Tensor | None = whole(*args)  # type: ignore[operator]
            calls += found is not None
            return found

        monkeypatch.setattr(block, "whole", counted)
    ids, layers = torch.zeros(2, MOST // 2 + 1, dtype=torch.long), model.empty_cache()

    def after(time: int) -> int:
        nonlocal calls
        calls, held = 0, layers[0].length
        model.logits(ids[:, :time], torch.ones(2, held + time, dtype=torch.bool), layers)
        return calls

    assert after(MOST // 2 + 1) == 0  # too many
    assert after(1) == 3
    assert after(5) == 2  # of the last layer the last position goes on only


def test_what_is_not_rounded_is_left(tiny_model: Qwen2) -> None:
    assert kernels
    wrap(tiny_model)
    in_one_call(tiny_model, kernels)
    assert not any(block.whole for block in blocks(tiny_model))


@pytest.fixture
def tiny_model() -> Qwen2:
    config = {
        "vocab_size": 16, "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": 64, "num_hidden_layers": 1, "rms_norm_eps": 1e-6, "max_position_embeddings": 64,
    }  # fmt: skip
    return Qwen2(config, {0})
