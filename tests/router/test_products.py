"""Products with frozen weights: what they come to, and that none of them is slow on any processor."""

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router.engine.kernels import load
from router.engine.precision import can_multiply
from router.engine.products import (
    FEW,
    Int4,
    Int4Compiled,
    Int8,
    Int8Compiled,
    Plain,
    Product,
    eight_bits,
    four_bits,
    int8,
)

eight = pytest.mark.skipif(not can_multiply(), reason="this processor does not multiply in 8 bits")
compiled = pytest.mark.skipif(
    not ((kernels := load()) and kernels.multiplies), reason="there are no such kernels here"
)


def layer(inside: int, outside: int) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inside, outside)


def in_eight_bits(linear: torch.nn.Linear) -> Product:
    weight, scale = eight_bits(linear.weight.detach())
    return int8([weight], [scale], Plain([linear]).bias)


@compiled
@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 140), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_kernels_round_as_torch_does_to_the_bit(
    rows: int, inside: int, outside: int, bf16: bool, bias: bool
) -> None:
    linear = torch.nn.Linear(inside, outside, bias=bias)
    weight, scale = eight_bits(linear.weight)
    x = torch.randn(rows, inside) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 0
    x[rows - 1, inside // 2] = float("nan") if rows > 2 else 1  # seen in all of its row, and in no other
    x = x.bfloat16() if bf16 else x
    found = load()
    assert found
    ours = Int8Compiled(weight, scale, linear.bias, found)
    assert torch.equal(ours(x).nan_to_num(7), Int8(weight, scale, linear.bias)(x).nan_to_num(7))


@eight
@pytest.mark.parametrize("rows", [1, 5, 64])
@torch.inference_mode()
def test_eight_bits_are_multiplied_exactly(rows: int) -> None:
    linear = layer(96, 40)
    x = torch.randn(rows, 96) * torch.logspace(-3, 3, rows)[:, None]
    weight, scale = eight_bits(linear.weight.detach())
    by = x.abs().amax(-1, keepdim=True) / 127
    exact = (x / by).round().double() @ weight.double().T * scale.double() * by + linear.bias
    torch.testing.assert_close(in_eight_bits(linear)(x).double(), exact, rtol=1e-5, atol=1e-5)


@eight
@torch.inference_mode()
def test_the_extremes_do_not_overflow() -> None:
    linear = layer(4864, 16)
    linear.weight.fill_(1.0)
    linear.bias.zero_()
    for x in (torch.ones(1, 4864), -torch.ones(1, 4864)):
        torch.testing.assert_close(in_eight_bits(linear)(x), 4864 * x[:, :16], rtol=1e-5, atol=0)


@eight
@torch.inference_mode()
def test_eight_bits_are_no_slower_than_thirty_two() -> None:
    # On some processors oneDNN multiplies some kinds of 8-bit numbers by a reference loop, 50 to 500 times as slow.
    linear = layer(896, 4864)
    eight, x = in_eight_bits(linear), torch.randn(16, 896)

    def seconds(product: Callable[[torch.Tensor], torch.Tensor]) -> float:
        product(x)
        begun = time.perf_counter()
        product(x)
        return time.perf_counter() - begun

    # The best of many: threads that wait for each other wait long while others want the processors.
    assert min(seconds(eight) for _ in range(50)) < 5 * min(seconds(linear) for _ in range(50))


@given(st.integers(1, 20), st.integers(1, 100), st.integers(-10, 10))
@settings(max_examples=60, deadline=None)
def test_four_bits_are_the_best_of_what_is_tried(outside: int, inside: int, exponent: int) -> None:
    weight = torch.randn(outside, inside) * 10.0**exponent
    weight[0, : inside // 2] = 0
    weight[-1, -1] = 10.0**exponent
    short = four_bits(weight)
    groups = -(-inside // 32)
    assert short.numbers.shape == (outside, groups * 16)
    assert short.scale.shape == short.least.shape == (outside, groups)
    found = short.written_out()[:, :inside].float()
    plainly = torch.empty_like(weight)  # from the least of each group to its largest
    for columns in (slice(at, at + 32) for at in range(0, inside, 32)):
        group = weight[:, columns]
        low, high = group.amin(1, keepdim=True), group.amax(1, keepdim=True)
        step = ((high - low) / 15).clamp(min=1e-30)
        plainly[:, columns] = ((group - low) / step).round() * step + low
    off, most = ((other - weight).norm() / weight.norm() for other in (found, plainly))
    assert off <= 1.01 * most + 2**-6  # scales, least ones and what is written out are bf16
    assert not found[0, : inside // 2 // 32 * 32].any()


@given(st.integers(1, 40), st.integers(1, 70), st.integers(1, 140), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
@torch.inference_mode()
def test_four_bits_are_multiplied_as_they_are_written_out(
    rows: int, inside: int, outside: int, bf16: bool, bias: bool
) -> None:
    linear = torch.nn.Linear(inside, outside, bias=bias)
    short = four_bits(linear.weight)
    pairs = torch.stack([short.numbers & 15, short.numbers >> 4], -1).view(outside, -1, 32).double()
    weight = (pairs * short.scale.double()[..., None] + short.least.double()[..., None]).flatten(1)[
        :, :inside
    ]
    x = torch.randn(rows, inside) * torch.logspace(-3, 3, rows)[:, None]
    x[0] = 0
    x = x.bfloat16() if bf16 else x
    added = linear.bias.double() if bias else 0

    exact = x.bfloat16().double() @ weight.T + added
    found = Int4(short, linear.bias, inside)(x)
    assert (found.double() - exact).abs().max() <= 2e-2 * exact.abs().max() + 1e-6
    if not ((kernels := load()) and kernels.multiplies):
        return
    rounded, by = eight_bits(x)
    exact = (rounded.double() * by.double()[:, None]) @ weight.T + added
    ours = Int4Compiled(short, linear.bias, kernels)
    torch.testing.assert_close(ours(x).double(), exact, rtol=1e-4, atol=1e-5)
    x[rows - 1, inside // 2] = float("nan")
    assert ours(x)[rows - 1].isnan().all() and (rows == 1 or torch.equal(ours(x)[:-1], ours(x[:-1])))


@pytest.mark.parametrize("rows", [1, FEW, FEW + 1])
@torch.inference_mode()
def test_torch_multiplies_packed_and_written_out_weights_alike(rows: int) -> None:
    linear, x = layer(96, 48), torch.randn(rows, 96)
    product = Int4(four_bits(linear.weight), linear.bias, 96)
    assert product.packed is not None
    found, product.packed = product(x), None
    torch.testing.assert_close(found, product(x), rtol=2e-2, atol=2e-2)
