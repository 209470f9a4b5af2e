"""Where training spends its time, with backward passes by hand: the LoRA product, attention and the loss.

Each does less than the general operation it stands for, because it knows more: attention is causal and never looks at
padding, and frozen weights (frozen.py) and the head need no gradient of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from router.engine.qwen2 import is_plain

from .frozen import FrozenWeights, Head

BLOCK = 128  # queries attended to at once: a causal block looks at no key after it


class _Lora(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with one pass over y and nothing kept but x and x A'."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenWeights, a: Tensor, b: Tensor, scale: float) -> Tensor:
        low = x @ a.to(x.dtype).t()
        y = frozen(x)
        y.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(x, low, a, b)
        ctx.frozen, ctx.scale = frozen, scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, a, b = ctx.saved_tensors
        (g,) = grads
        g_low = (g @ b.to(g.dtype)) * ctx.scale
        grad_b = (g.t() @ low).float() * ctx.scale
        grad_a = (g_low.t() @ x).float()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = ctx.frozen.back(g)
            grad_x.addmm_(g_low, a.to(g.dtype))
        return grad_x, None, grad_a, grad_b, None


def lora(x: Tensor, frozen: FrozenWeights, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """x [n, in] through a frozen layer plus scale * x A' B'; A [rank, in] and B [out, rank] are trained."""
    y: Tensor = _Lora.apply(x, frozen, a, b, scale)  # type: ignore[no-untyped-call]
    return y


class _Fixed(torch.autograd.Function):
    """y = x W' + b, of which only x needs a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, frozen: FrozenWeights) -> Tensor:
        ctx.frozen = frozen
        return frozen(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.frozen.back(grads[0]), None


def fixed(x: Tensor, frozen: FrozenWeights) -> Tensor:
    """x [n, in] through a frozen layer."""
    y: Tensor = _Fixed.apply(x, frozen)  # type: ignore[no-untyped-call]
    return y


class _Attention(torch.autograd.Function):
    """Causal attention in blocks of queries; the query heads that share a key head are so many queries to it.

    Probabilities are made again in the backward pass, as in FlashAttention (Dao et al. 2022, arXiv:2205.14135), so
    that memory grows with the length and not with its square.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        out = torch.empty_like(q)
        for start, end in _blocks(q.shape[3]):
            p = _probabilities(q, k, start, end, scale)
            out[:, :, :, start:end] = (p @ v[:, :, :end]).view(*q.shape[:3], end - start, -1)
        ctx.save_for_backward(q, k, v)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        (g,) = grads
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for start, end in _blocks(q.shape[3]):
            p = _probabilities(q, k, start, end, ctx.scale)
            block = g[:, :, :, start:end].reshape(p.shape[0], p.shape[1], p.shape[2], -1)
            grad_v[:, :, :end] += p.transpose(-1, -2) @ block
            grad_p = block @ v[:, :, :end].transpose(-1, -2)
            grad_s = torch._softmax_backward_data(grad_p, p, -1, p.dtype)
            grad_q[:, :, :, start:end] = (grad_s @ k[:, :, :end]).view(*q.shape[:3], end - start, -1)
            queries = q[:, :, :, start:end].reshape(*p.shape[:3], -1)
            grad_k[:, :, :end] += grad_s.transpose(-1, -2) @ queries
        return grad_q.mul_(ctx.scale), grad_k.mul_(ctx.scale), grad_v, None


def _blocks(time: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, time)) for start in range(0, time, BLOCK)]


def _probabilities(q: Tensor, k: Tensor, start: int, end: int, scale: float) -> Tensor:
    """What queries start to end look at, [rows, groups, shared * queries, end]."""
    rows, groups, shared, _, size = q.shape
    scores = (q[:, :, :, start:end] * scale).reshape(rows, groups, -1, size) @ k[:, :, :end].transpose(-1, -2)
    split = scores.view(rows, groups, shared, end - start, end)
    split[..., start:].masked_fill_(_later(end - start, scores.device), float("-inf"))
    return torch.softmax(scores, -1)


def _later(size: int, device: torch.device) -> Tensor:
    return torch.ones(size, size, dtype=torch.bool, device=device).triu(1)


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention with grouped heads: q [rows, heads, time, size], k and v [rows, groups, time, size]; like q."""
    rows, heads, time, size = q.shape
    grouped = q.reshape(rows, k.shape[1], heads // k.shape[1], time, size)
    out: Tensor = _Attention.apply(grouped, k, v, scale)  # type: ignore[no-untyped-call]
    return out.view(rows, heads, time, size)


def use_attention(model: Any) -> None:
    """Make a plain Qwen2 of transformers attend through `attention`; any other model keeps its own, with all its rules.

    Rows may then be padded on the right only.
    """
    from transformers import AttentionInterface

    config = model.config.to_dict()
    if not is_plain(config) or config.get("attention_dropout"):
        return
    AttentionInterface.register("distill", _as_transformers)
    model.set_attn_implementation("distill")


def _as_transformers(
    module: Any, q: Tensor, k: Tensor, v: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    assert attention_mask is None  # transformers makes none for an attention it does not know
    return attention(q, k, v, scaling).transpose(1, 2), None


class _CompletionLoss(torch.autograd.Function):
    """Summed cross-entropy of the rows of h against targets, a block of rows at a time.

    The [rows, vocabulary] logits are made, used for the gradient and dropped, so memory stays small and nothing is
    computed where there is no loss (the idea of Liger Kernel's fused linear cross-entropy, arXiv:2410.10989).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
        grad = torch.empty_like(h)
        found = torch.empty(len(h), device=h.device)
        for rows in torch.arange(len(h), device=h.device).split(head.rows):
            p = head.logits(h[rows])
            torch.softmax(p, -1, out=p)
            right = p.gather(1, targets[rows, None])
            found[rows] = right[:, 0]
            p.scatter_(1, targets[rows, None], right - 1)
            grad[rows] = head.back(p)
        ctx.save_for_backward(grad)
        ctx.mark_non_differentiable(found)
        return -found.clamp(min=1e-30).log().sum(), found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None


def completion_loss(h: Tensor, head: Head, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over rows of -log p with p = softmax(logits of the head)[target], and p [n]; h [n, d], targets [n]."""
    found: tuple[Tensor, Tensor] = _CompletionLoss.apply(h, head, targets)  # type: ignore[no-untyped-call]
    return found
