"""Trainable LoRA (Hu et al. 2021, arXiv:2106.09685) on a frozen base, written for CPU training speed."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from registry.adapter import WEIGHTS
from specialists.errors import Damaged

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class _Lora(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with one pass over y and nothing kept but x and x A'."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        weight_t: Tensor | None,
        bias: Tensor | None,
        a: Tensor,
        b: Tensor,
        scale: float,
    ) -> Tensor:
        low = x @ a.to(x.dtype).t()
        y = torch.nn.functional.linear(x, weight, bias) if weight_t is None else x @ weight_t
        y.addmm_(low, b.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(x, low, weight, a, b)
        ctx.scale = scale
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, low, weight, a, b = ctx.saved_tensors
        (g,) = grads
        g_low = (g @ b.to(g.dtype)) * ctx.scale
        grad_b = (g.t() @ low).float() * ctx.scale
        grad_a = (g_low.t() @ x).float()
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = g @ weight
            grad_x.addmm_(g_low, a.to(g.dtype))
        return grad_x, None, None, None, grad_a, grad_b, None


class LoraLinear(nn.Module):
    """A frozen linear layer [out, in] with a trainable update of rank r, scaled by alpha / r."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = alpha / rank
        # oneDNN multiplies into a wider output 1.5 times as fast from weights laid out [in, out]: 0.61 against 0.40
        # TFLOP/s for 1720 x 896 x 4864 in bf16 on two cores.
        widens = base.bias is None and base.out_features > base.in_features
        self.weight_t = base.weight.detach().t().contiguous() if widens else None
        bound = 1 / math.sqrt(base.in_features)  # PEFT's kaiming_uniform_(a=sqrt(5))
        self.lora_A = nn.Parameter((torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1])
        y: Tensor = _Lora.apply(  # type: ignore[no-untyped-call]
            flat, self.base.weight, self.weight_t, self.base.bias, self.lora_A, self.lora_B, self.scale
        )
        return y.view(*x.shape[:-1], y.shape[-1])


def attach(
    model: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int
) -> dict[str, LoraLinear]:
    """Freeze the model and put a LoraLinear over every linear layer whose name ends in a target; by module name."""
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, LoraLinear] = {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets:
            parent, _, child = name.rpartition(".")
            found[name] = LoraLinear(module, rank, alpha, generator)
            setattr(model.get_submodule(parent), child, found[name])
    return found


def save_peft(layers: dict[str, LoraLinear], folder: Path, base_id: str, rank: int, alpha: float) -> None:
    """Write a standard PEFT adapter folder (adapter_config.json, adapter_model.safetensors in bf16)."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, layer in layers.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = (
            layer.lora_A.detach().to(torch.bfloat16).contiguous()
        )
        tensors[f"base_model.model.{name}.lora_B.weight"] = (
            layer.lora_B.detach().to(torch.bfloat16).contiguous()
        )
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_id,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted({name.rsplit(".", 1)[-1] for name in layers}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def load_peft(layers: dict[str, LoraLinear], folder: Path) -> None:
    """Fill the layers from a PEFT adapter folder; raises Damaged unless it has the same modules and rank."""
    tensors = load_file(folder / WEIGHTS)
    wanted = {
        f"base_model.model.{name}.lora_{side}.weight": getattr(layer, f"lora_{side}")
        for name, layer in layers.items()
        for side in "AB"
    }
    if {k: t.shape for k, t in tensors.items()} != {k: t.shape for k, t in wanted.items()}:
        raise Damaged(f"{folder} has other modules or another rank; start from an adapter of the same shape.")
    with torch.no_grad():
        for key, parameter in wanted.items():
            parameter.copy_(tensors[key])


class _CompletionLoss(torch.autograd.Function):
    """Summed cross-entropy of the rows of h against targets, a block of rows at a time.

    The [rows, vocabulary] logits are made, used for the gradient and dropped, so memory stays small and nothing is
    computed where there is no loss (the idea of Liger Kernel's fused linear cross-entropy, arXiv:2410.10989).
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        total = torch.zeros(())
        grad = torch.empty_like(h)
        for rows in torch.arange(len(h)).split(256):
            logits = (h[rows] @ weight.t()).float()
            logits -= logits.amax(1, keepdim=True)
            picked = logits.gather(1, targets[rows, None])
            logits.exp_()
            norm = logits.sum(1, keepdim=True)
            total += (norm.log() - picked).sum()
            logits /= norm
            logits.scatter_add_(1, targets[rows, None], torch.full_like(picked, -1.0))
            grad[rows] = logits.to(h.dtype) @ weight
        ctx.save_for_backward(grad)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0].to(grad.dtype), None, None


def completion_loss(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum over rows of -log softmax(h W')[target]; h [n, d], weight [vocabulary, d], targets [n]."""
    loss: Tensor = _CompletionLoss.apply(h, weight, targets)  # type: ignore[no-untyped-call]
    return loss
