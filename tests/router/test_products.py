"""Products with frozen weights: what they come to, and that none of them is slow on any processor."""

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from router.engine.kernels import load
from router.engine.precision import can_multiply
from router.engine.products import Int8, Int8Compiled, Plain, Product, eight_bits, int8

if not can_multiply():
    pytest.skip("this processor does not multiply in 8 bits", allow_module_level=True)


def layer(inside: int, outside: int) -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(inside, outside)


def in_eight_bits(linear: torch.nn.Linear) -> Product:
    weight, scale = eight_bits(linear.weight.detach())
    return int8([weight], [scale], Plain([linear]).bias)


@pytest.mark.skipif(not ((kernels := load()) and kernels.multiplies), reason="there are no such kernels here")
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


@pytest.mark.parametrize("rows", [1, 5, 64])
@torch.inference_mode()
def test_eight_bits_are_multiplied_exactly(rows: int) -> None:
    linear = layer(96, 40)
    x = torch.randn(rows, 96) * torch.logspace(-3, 3, rows)[:, None]
    weight, scale = eight_bits(linear.weight.detach())
    by = x.abs().amax(-1, keepdim=True) / 127
    exact = (x / by).round().double() @ weight.double().T * scale.double() * by + linear.bias
    torch.testing.assert_close(in_eight_bits(linear)(x).double(), exact, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_the_extremes_do_not_overflow() -> None:
    linear = layer(4864, 16)
    linear.weight.fill_(1.0)
    linear.bias.zero_()
    for x in (torch.ones(1, 4864), -torch.ones(1, 4864)):
        torch.testing.assert_close(in_eight_bits(linear)(x), 4864 * x[:, :16], rtol=1e-5, atol=0)


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
