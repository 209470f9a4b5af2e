"""The compiled parts of a step beside its products, against torch's operations."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention, silu

from router.engine.cache import Layer
from router.engine.kernels import KINDS, WIDEST, load
from router.engine.qwen2 import _Norm, _turned

kernels = load()
if not kernels:
    pytest.skip("there are no kernels here", allow_module_level=True)

kinds = st.sampled_from(KINDS)
rows, blocks = st.integers(1, 20), st.integers(1, 9)


def near(found: Tensor, wanted: Tensor, kind: torch.dtype) -> bool:
    """Whether both are the same but for rounding of that type."""
    share = 1e-5 if kind == torch.float32 else 2**-7
    return found.dtype == wanted.dtype and torch.allclose(
        found.float(), wanted.float(), rtol=share, atol=share * float(wanted.float().abs().max())
    )


@given(rows, blocks, kinds, kinds, st.sampled_from([1e-3, 1.0, 1e4]))
@settings(max_examples=50, deadline=None)
@torch.inference_mode()
def test_norms(rows: int, blocks: int, kind: torch.dtype, weights: torch.dtype, size: float) -> None:
    x, norm = (size * torch.randn(rows, 16 * blocks)).to(kind), _Norm(16 * blocks, 1e-6)
    norm.weight.data = torch.randn(16 * blocks).to(weights)
    wide = x.float()
    scaled = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(kind)
    assert near(norm(x), norm.weight * scaled, kind)


@given(rows, blocks, kinds, st.sampled_from([1.0, 30.0, 300.0]))
@settings(max_examples=50, deadline=None)
@torch.inference_mode()
def test_gates(rows: int, blocks: int, kind: torch.dtype, size: float) -> None:
    x = (size * torch.randn(rows, 1, 32 * blocks)).to(kind)
    gate, up = x.float().chunk(2, -1)
    assert kernels
    assert near(kernels.gated(x), (silu(gate) * up).to(kind), kind)


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 17),
    st.integers(1, 70),
    st.sampled_from([16, 48, 64, WIDEST]),
    kinds,
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
@torch.inference_mode()
def test_attention(
    rows: int, groups: int, shared: int, positions: int, size: int, kind: torch.dtype, padded: bool
) -> None:
    q = torch.randn(rows, groups * shared, size).to(kind)
    held = torch.full((2, rows, groups, positions + 5, size), float("nan"))
    k, v = held.normal_().to(kind)[:, :, :, :positions]
    seen = torch.rand(rows, positions) < 0.7 if padded else torch.ones(rows, positions, dtype=torch.bool)
    seen[:, -1] = True
    wanted = scaled_dot_product_attention(
        q.float()[:, :, None], k.float(), v.float(), seen[:, None, None], enable_gqa=True
    )
    assert kernels
    assert near(kernels.attend(q, k, v, seen if padded else None), wanted[:, :, 0].to(kind), kind)


@torch.inference_mode()
def test_what_is_not_seen_has_no_part_however_large() -> None:
    assert kernels
    q, k, v = torch.ones(1, 1, 16), torch.ones(1, 1, 40, 16), torch.ones(1, 1, 40, 16)
    k[:, :, 3], v[:, :, 3] = 1e4, 1e9
    seen = torch.ones(1, 40, dtype=torch.bool)
    seen[0, 3] = False
    assert torch.allclose(kernels.attend(q, k, v, seen), torch.ones(1, 1, 16))


@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([32, 64, 128]),
    kinds,
    kinds,
)
@settings(max_examples=50, deadline=None)
@torch.inference_mode()
def test_what_is_turned_is_torchs_to_the_bit_and_kept_after_what_was(
    rows: int, time: int, groups: int, shared: int, size: int, kind: torch.dtype, kept: torch.dtype
) -> None:
    heads = groups * shared
    layer, old = Layer(), torch.randn(2, rows, groups, 3, size).to(kept)
    layer.append(*old)
    angles = torch.randn(rows, 1, time, size // 2).repeat(1, 1, 1, 2)
    turn = angles.cos().to(kept), angles.sin().to(kept)
    x = torch.randn(rows, time, (heads + 2 * groups) * size).to(kind)
    sides = x.to(kept).split([heads * size, groups * size, groups * size], -1)
    q, k, v = (side.view(rows, time, -1, size).transpose(1, 2) for side in sides)
    assert kernels
    found = kernels.turn(x, *turn, *layer.extended((rows, groups, time, size), turn[0]))
    assert found.dtype == torch.float32 and torch.equal(found, _turned(q, turn).float())
    assert layer.keys is not None and torch.equal(layer.keys, torch.cat([old[0], _turned(k, turn)], 2))
    assert layer.values is not None and torch.equal(layer.values, torch.cat([old[1], v], 2))


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 7),
    st.integers(1, 40),
    st.integers(0, 70),
    st.sampled_from([64, 128]),
    kinds,
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
@torch.inference_mode()
def test_attention_of_many_positions(
    rows: int, groups: int, shared: int, time: int, before: int, size: int, kind: torch.dtype, padded: bool
) -> None:
    positions = before + time
    q = 3 * torch.randn(rows, groups * shared, time, size).to(kind).float()
    k, v = (torch.randn(rows, groups, positions + 9, size).to(kind)[:, :, :positions] for _ in range(2))
    seen = torch.ones(rows, positions, dtype=torch.bool)
    if padded:  # before a row's own tokens, of which the last is always one
        for row in range(rows):
            seen[row, : int(torch.randint(positions, ()))] = False
    own = torch.ones(time, positions, dtype=torch.bool).tril(before)
    itself = torch.eye(positions, dtype=torch.bool)[before:]
    mask = ((seen[:, None] & own) | itself)[:, None]
    wanted = scaled_dot_product_attention(q, k.float(), v.float(), mask, enable_gqa=True)
    assert kernels
    found = kernels.attend_many(q, k, v, seen if padded else None)
    assert near(found, wanted.transpose(1, 2).flatten(2).to(kind), kind)
