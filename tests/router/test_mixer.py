"""What adapters add to products: any batch after any other gives every row its own adapter's B A x and no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from router.engine.additions import Alone, Gathered
from router.engine.in_place import InPlace
from router.engine.kernels import Kernels, load
from router.engine.lora import MixedLinear, Weights, products, wrap
from router.engine.mixer import Mixer, gather
from router.engine.products import Int8Compiled, Plain, eight_bits
from router.engine.threads import at_most

RANKS = {"a": 1, "b": 8, "c": 5, "d": 9, "e": 20, "f": 8, "g": 2, "h": 8}
LACKS = {"c": "up", "e": "down", "g": "gate"}  # a layer that an adapter leaves alone
Widths = dict[str, tuple[int, int]]  # (out, in) of each layer
SMALL: Widths = {"gate": (4, 6), "up": (3, 6), "down": (6, 4)}
LARGE: Widths = {
    "gate": (300, 37),
    "up": (5, 37),
    "down": (37, 300),
}  # more than the kernels' tiles, and a rest
WAYS = [pytest.param(load(), id="kernels"), pytest.param(None, id="torch")]


class Two(nn.Module):
    """Two products, one of them of two layers."""

    JOINT = {"both": ("gate", "up")}  # noqa: RUF012

    def __init__(self, widths: Widths = SMALL) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(inside, out) for out, inside in widths.values())


def weights_of(name: str, dtype: torch.dtype, widths: Widths = SMALL) -> Weights:
    """Of an adapter's file of that type."""
    draw = torch.Generator().manual_seed(ord(name))
    shapes = {key: shape for key, shape in widths.items() if key != LACKS.get(name)}
    rank = RANKS[name]
    a = {
        f"two.{key}": torch.randn(rank, inside, generator=draw).to(dtype)
        for key, (_, inside) in shapes.items()
    }
    b = {f"two.{key}": torch.randn(out, rank, generator=draw).to(dtype) for key, (out, _) in shapes.items()}
    return Weights(a, b, {key: 0.5 + place for place, key in enumerate(a)})


def mixed(
    layers: dict[str, MixedLinear],
    adapters: Mapping[str, Weights],
    kernels: Kernels | None,
    kept: torch.dtype = torch.float32,
) -> Mixer:
    """A mixer of these adapters, placed as it wants them each time that one is looked up."""
    way = gather(products(layers), kernels, kept)

    class Placed(dict[str, Any]):
        def __missing__(self, name: str) -> Any:
            return way.place(adapters[name])

    return Mixer(products(layers), way, Placed())


def kept_as(tensor: Tensor, kept: torch.dtype) -> Tensor:
    """What is multiplied when a tensor [ranks, any] is kept in memory as that type."""
    if kept != torch.int8:
        return tensor.to(kept).float()
    short, scale = eight_bits(tensor)
    return short.float() * scale[:, None]


def expected(
    product: MixedLinear,
    adapters: dict[str, Weights],
    names: list[str | None],
    x: Tensor,
    kept: torch.dtype = torch.float32,
) -> Tensor:
    """B A x of every row's own adapter; x [rows, time, in]."""
    y = torch.zeros(*x.shape[:2], sum(out for out, _ in product.shapes))
    for row, name in enumerate(names):
        for columns, layer in zip(product.columns, product.names, strict=True):
            if name is not None and layer in adapters[name].a:
                weights = adapters[name]
                inputs = x[row].float()
                if kept == torch.int8:  # inputs are rounded as for a product in 8 bits
                    inputs = kept_as(inputs, kept)
                low = inputs @ kept_as(weights.a[layer], kept).t()
                y[row, :, columns] = low @ kept_as(
                    (weights.b[layer].float() * weights.scales[layer]).t(), kept
                )
    return y


rows = st.lists(st.sampled_from([None, *RANKS]), min_size=1, max_size=20)


@pytest.mark.parametrize("kernels", WAYS)
@settings(max_examples=60, deadline=None)
@given(
    st.lists(rows, min_size=1, max_size=6),
    st.sampled_from([1, 3]),
    st.sampled_from([SMALL, LARGE]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8]),
    st.booleans(),
    st.booleans(),
)
def test_every_row_gets_its_own(
    kernels: Kernels | None,
    batches: list[list[str | None]],
    time: int,
    widths: Widths,
    filed: torch.dtype,
    kept: torch.dtype,
    bf16_in: bool,
    bf16_out: bool,
) -> None:
    layers = wrap(nn.ModuleDict({"two": Two(widths)}))
    if kept == torch.int8 and not kernels:
        kept = torch.float32  # rounded ones are for the loops only
    bf16_out = bf16_out and kept != torch.int8  # what they are added to is float32
    adapters = {name: weights_of(name, filed, widths) for name in RANKS}
    mixer = mixed(layers, adapters, kernels, kept)
    for names in batches:
        mixer.set(names)
        for product in dict.fromkeys(layers.values()):
            x = torch.randn(len(names), time, product.shapes[0][1])
            y = torch.randn(len(names) * time, sum(out for out, _ in product.shapes))
            x, y = (x.bfloat16() if bf16_in else x), (y.bfloat16() if bf16_out else y)
            wanted = expected(product, adapters, names, x, kept) + y.view(*x.shape[:2], -1).float()
            if product.addition is not None:
                product.addition.add_to(y, x.flatten(0, 1))
            size = float(wanted.abs().max()) if wanted.numel() else 1.0
            if bf16_out or (not kernels and (kept == torch.bfloat16 or bf16_in)):
                near = {"rtol": 3e-2, "atol": 3e-2 * size}
            elif kept == torch.int8:  # what comes of A is rounded to 16 bits
                near = {"rtol": 0.0, "atol": 1e-4 * size}
            else:
                near = {"rtol": 1e-4, "atol": 1e-3}
            assert torch.allclose(y.view_as(wanted).float(), wanted, **near)


@pytest.mark.skipif(load() is None, reason="there are no kernels here")
@pytest.mark.parametrize("kept", [torch.bfloat16, torch.int8])
def test_the_number_of_threads_changes_no_bit(kept: torch.dtype) -> None:
    layers = wrap(nn.ModuleDict({"two": Two(LARGE)}))
    adapters = {name: weights_of(name, torch.bfloat16, LARGE) for name in RANKS}
    mixer = mixed(layers, adapters, load(), kept)
    mixer.set([*RANKS, None, *RANKS])
    (product, *_) = layers.values()
    x, found = torch.randn(17 * 3, 37), []
    for threads in (1, 2, 3):
        with at_most(threads):
            y = torch.ones(17 * 3, 305)
            assert isinstance(product.addition, InPlace)
            product.addition.add_to(y, x)
            found.append(y)
    assert all(torch.equal(y, found[0]) for y in found)


@pytest.mark.skipif(not ((found := load()) and found.multiplies), reason="there are no such kernels here")
@pytest.mark.parametrize("time", [1, 3, 501])  # the last: more rows than stay in a cache while weights go by
@torch.inference_mode()
def test_added_within_a_product_in_8_bits_is_the_same_to_the_bit(time: int) -> None:
    layers = wrap(nn.ModuleDict({"two": Two(LARGE)}))
    mixer = mixed(
        layers, {name: weights_of(name, torch.float32, LARGE) for name in RANKS}, load(), torch.int8
    )
    names = ["a", None, "c", "e", "a", "g", "d"]
    mixer.set(names)
    for product in dict.fromkeys(layers.values()):
        assert isinstance(product.product, Plain) and isinstance(product.addition, InPlace)
        rounded = [eight_bits(linear.weight) for linear in product.product.linears]
        weight, scale = (torch.cat(some) for some in zip(*rounded, strict=True))
        assert found and product.product.bias is not None
        eight = Int8Compiled(weight, scale, product.product.bias, found)
        x = torch.randn(len(names) * time, product.shapes[0][1])
        y = eight(x)
        product.addition.add_to(y, x)
        assert torch.equal(product.addition.added(eight, x), y)


@pytest.mark.skipif(not ((found := load()) and found.multiplies), reason="there are no such kernels here")
def test_in_8_bits_what_is_no_number_stays_none_and_in_its_row() -> None:
    layers = wrap(nn.ModuleDict({"two": Two(LARGE)}))
    mixer = mixed(layers, {"b": weights_of("b", torch.float32, LARGE)}, load(), torch.int8)
    mixer.set(["b"] * 4)
    (product, *_) = layers.values()
    x, y = torch.randn(4, 37), torch.zeros(4, 305)
    x[1, 5], x[3] = torch.nan, 0
    assert isinstance(product.addition, InPlace)
    product.addition.add_to(y, x)
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all() and not y[3].any()


@pytest.mark.parametrize("kernels", WAYS)
def test_an_adapter_that_was_replaced_is_written_again(kernels: Kernels | None) -> None:
    layers = wrap(nn.ModuleDict({"two": Two()}))
    adapters = {name: weights_of(name, torch.float32) for name in "bf"}
    mixer = mixed(layers, adapters, kernels)
    (product, *_) = layers.values()
    x = torch.randn(2, 6)
    for names in (["b", "f"], ["b", "b"]):
        mixer.set(names)
        before = torch.zeros(2, 7)
        assert product.addition is not None
        product.addition.add_to(before, x)
        adapters["b"] = weights_of("h", torch.float32)
        mixer.forget("b")
        mixer.set(names)
        after = torch.zeros(2, 7)
        product.addition.add_to(after, x)
        assert not torch.equal(before[0], after[0])
        assert torch.allclose(after, expected(product, adapters, names, x[:, None])[:, 0], atol=1e-4)
        adapters["b"] = weights_of("b", torch.float32)
        mixer.forget("b")


def test_who_leaves_and_comes_moves_nobody() -> None:
    layers = wrap(nn.ModuleDict({"two": Two()}))
    adapters = {name: weights_of(name, torch.float32) for name in "bfh"}
    mixer = mixed(layers, adapters, None)
    (product, *_) = layers.values()
    stacks = []
    for names in (["b", "f"], ["b", None], ["b", "f"], ["h", "b"], ["b"], ["f", "b"]):
        mixer.set(names)
        assert isinstance(product.addition, Alone if len(names) == 1 else Gathered)
        if isinstance(product.addition, Gathered):
            (stack,) = product.addition.stacks
            stacks.append(stack[1].data_ptr())
            assert stack[0].rows is None or names[1] is None
    assert len(set(stacks)) == 1


@pytest.mark.parametrize("count", [16, 17])
def test_one_adapter_adds_the_same_to_few_rows_and_to_many(count: int) -> None:
    layers = wrap(nn.ModuleDict({"two": Two()}))
    adapters = {"b": weights_of("b", torch.bfloat16)}
    mixer = mixed(layers, adapters, None)
    mixer.set(["b"] * count)
    for product in dict.fromkeys(layers.values()):
        x = torch.randn(count, 1, product.shapes[0][1])
        y = torch.zeros(count, sum(out for out, _ in product.shapes))
        assert product.addition is not None
        product.addition.add_to(y, x[:, 0])
        assert torch.allclose(y, expected(product, adapters, ["b"] * count, x)[:, 0], rtol=3e-2, atol=0.3)
