"""Trainable LoRA layers (Hu et al. 2021, arXiv:2106.09685) over a frozen base, and their PEFT folders."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from registry.adapter import WEIGHTS
from router.engine.base import Base
from specialists.errors import Damaged

from .autograd import fixed, lora
from .frozen import Frozen, Frozen8, FrozenWeights

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class LoraLinear(nn.Module):
    """A frozen linear layer [out, in] with a trainable update of rank r, scaled by alpha / r.

    `dropout` hides a share of the inputs from the update, other ones in each step and the same for all tokens: the
    columns of A that LoRA Dropout drops (Lin et al. 2024, arXiv:2404.09610).
    """

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        alpha: float,
        dropout: float,
        generator: torch.Generator,
        precision: str = "bf16",
    ) -> None:
        super().__init__()
        self.scale, self.dropout = alpha / rank, dropout
        self.frozen = _frozen(base, precision)
        bound = 1 / math.sqrt(base.in_features)  # PEFT's kaiming_uniform_(a=sqrt(5))
        self.lora_A = nn.Parameter((torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        a = self.lora_A * self._kept() if self.training and self.dropout else self.lora_A
        y = lora(x.reshape(-1, x.shape[-1]), self.frozen, a, self.lora_B, self.scale)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _kept(self) -> Tensor:
        """Which inputs [in] the update sees in this step, scaled so that their mean stays."""
        return nn.functional.dropout(torch.ones(self.lora_A.shape[1]), self.dropout)


class FrozenLinear(nn.Module):
    """A linear layer [out, in] that stays as it is, multiplied as fast as one that is trained."""

    def __init__(self, base: nn.Linear, precision: str) -> None:
        super().__init__()
        self.frozen = _frozen(base, precision)

    def forward(self, x: Tensor) -> Tensor:
        y = fixed(x.reshape(-1, x.shape[-1]), self.frozen)
        return y.view(*x.shape[:-1], y.shape[-1])


def _frozen(base: nn.Linear, precision: str) -> FrozenWeights:
    return (Frozen8 if precision == "int8" else Frozen)(base.weight, base.bias)


def attach(
    model: nn.Module,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    seed: int,
    dropout: float = 0.0,
    precision: str = "bf16",
) -> dict[str, LoraLinear]:
    """Freeze the model and put a LoraLinear over every linear layer whose name ends in a target; by module name.

    precision: of the frozen weights, bf16 (as they are) or int8, those of the other layers too. The head is left alone.
    """
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, LoraLinear] = {}
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.Linear) or module is getattr(model, "lm_head", None):
            continue
        parent, _, child = name.rpartition(".")
        if child in targets:
            found[name] = LoraLinear(module, rank, alpha, dropout, generator, precision)
        layer = found.get(name) or FrozenLinear(module, precision)
        setattr(model.get_submodule(parent), child, layer)
    return found


def save_peft(layers: dict[str, LoraLinear], folder: Path, base: Base, rank: int, alpha: float) -> None:
    """Write a standard PEFT adapter folder (adapter_config.json, adapter_model.safetensors in bf16).

    The configuration names the base with its commit, where it has one.
    """
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
        "base_model_name_or_path": base.id,
        **({"revision": base.revision} if base.revision else {}),
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
