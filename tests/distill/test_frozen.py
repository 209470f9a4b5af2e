"""Products with frozen weights: what is packed or in 8 bits is the plain product, forwards and backwards."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from distill.frozen import PACKED_FOR, Frozen, Frozen8, Head8, PlainHead, chosen, freeze
from distill.lora import FrozenLinear, attach
from router.engine.precision import can_multiply

eight = pytest.mark.skipif(not can_multiply(), reason="this processor does not multiply in 8 bits")


def off(got: Tensor, wanted: Tensor) -> float:
    """The size of the difference as a share of what is wanted."""
    return ((got - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("inside", "outside"), [(32, 96), (96, 32), (32, 32)])
@pytest.mark.parametrize("rows", [3, PACKED_FOR + 5])
def test_packed_products_are_the_plain_ones(inside: int, outside: int, rows: int) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(outside, inside).bfloat16(), torch.randn(outside).bfloat16()
    x, g = torch.randn(rows, inside).bfloat16(), torch.randn(rows, outside).bfloat16()
    frozen = Frozen(weight, bias)
    assert torch.allclose(frozen(x), torch.nn.functional.linear(x, weight, bias), rtol=2e-2, atol=0.2)
    assert torch.allclose(frozen.back(g), g @ weight, rtol=2e-2, atol=0.2)


@pytest.mark.parametrize(
    ("precision", "amx", "vnni", "found"),
    [
        ("auto", True, True, "bf16"),
        ("auto", False, True, "int8"),
        ("auto", False, False, "bf16"),
        ("int8", True, True, "int8"),
        ("bf16", False, True, "bf16"),
    ],
)
def test_8_bits_are_chosen_where_they_are_faster(
    precision: str, amx: bool, vnni: bool, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("router.engine.precision.can_multiply", lambda: vnni)
    assert chosen(precision) == found


@eight
@pytest.mark.parametrize(("inside", "outside"), [(64, 96), (96, 64), (64, 64)])
@pytest.mark.parametrize("rows", [1, 3, 65])
def test_products_in_8_bits_are_the_plain_ones(inside: int, outside: int, rows: int) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(outside, inside), torch.randn(outside)
    x, g = torch.randn(rows, inside) * 5, torch.randn(rows, outside) * 1e-4
    frozen = Frozen8(weight.bfloat16(), bias)
    assert off(frozen(x), nn.functional.linear(x, weight, bias)) < 0.02
    assert off(frozen.back(g), g @ weight) < 0.02


@eight
def test_a_rows_gradient_is_rounded_by_its_own_size() -> None:
    """A token with next to no loss beside one with much keeps its gradient."""
    torch.manual_seed(0)
    weight = torch.randn(64, 32)
    g = torch.randn(2, 64) * torch.tensor([[1.0], [1e-6]])
    back = Frozen8(weight).back(g)
    assert off(back[1], g[1] @ weight) < 0.02


@eight
def test_the_head_in_8_bits_and_its_gradient_are_the_plain_ones() -> None:
    torch.manual_seed(1)
    weight, h = torch.randn(500, 64), torch.randn(9, 64) * 0.3
    plain, ours = PlainHead(weight), Head8(weight)
    assert off(ours.logits(h), plain.logits(h)) < 0.02
    p = plain.logits(h).softmax(1)
    p[torch.arange(9), torch.arange(9)] -= 1
    assert off(ours.back(p), plain.back(p.clone())) < 1e-3


@eight
def test_freezing_in_8_bits_leaves_float32() -> None:
    model = nn.Module()
    model.norm, model.lm_head = nn.LayerNorm(8).bfloat16(), nn.Linear(8, 20, bias=False).bfloat16()
    assert isinstance(freeze(model, "bf16"), PlainHead) and model.norm.weight.dtype == torch.bfloat16
    assert isinstance(freeze(model, "int8"), Head8) and model.norm.weight.dtype == torch.float32


@pytest.mark.parametrize(("precision", "most"), [("bf16", 1e-5), pytest.param("int8", 0.03, marks=eight)])
def test_layers_that_are_no_target_are_frozen_alike(precision: str, most: float) -> None:
    torch.manual_seed(2)
    plain = nn.ModuleDict({name: nn.Linear(64, 64) for name in ("q_proj", "o_proj", "lm_head")})
    plain.requires_grad_(False)
    ours = nn.ModuleDict(dict(plain.items()))
    ours.lm_head = plain["lm_head"]  # as a model has it
    layers = attach(ours, ["q_proj"], rank=4, alpha=8, seed=0, precision=precision)
    assert list(layers) == ["q_proj"] and isinstance(ours["o_proj"], FrozenLinear)
    assert type(ours["lm_head"]) is nn.Linear
    a, b = layers["q_proj"].lora_A, layers["q_proj"].lora_B
    nn.init.normal_(b)
    x = torch.randn(2, 5, 64)

    def found(y: Tensor) -> list[Tensor]:
        y = y.square().sum()
        return [y.detach(), *torch.autograd.grad(y, (a, b))]

    wanted = found(plain["o_proj"](plain["q_proj"](x) + 2 * x @ a.t() @ b.t()))
    for got, exact in zip(found(ours["o_proj"](ours["q_proj"](x))), wanted, strict=True):
        assert off(got, exact) < most
