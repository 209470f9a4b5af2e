"""The settings of a training."""

from __future__ import annotations

from dataclasses import dataclass, field

from .lora import ALL_LINEAR


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters.

    All linear layers, and a rate about ten times that of full fine-tuning, follow Schulman et al., "LoRA Without
    Regret" (2025), whose rule gives 5.3e-4 for a Qwen of 0.5B; A and B start as in PEFT (Hu et al. 2021). One example a
    step and eight passes over a hundred are what docs/training.md measured. Rank 8 is the largest that
    stays under 9 MB. The seed orders the examples and draws A. Passing over what is known is Selective-Backprop (Jiang
    et al. 2019, arXiv:1910.00762) with a fixed bar: it spares the backward pass, and no learning where there is none.
    """

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = field(default=ALL_LINEAR)
    lr: float = 5e-4
    epochs: float = 8
    batch_size: int = 1
    warmup: float = 0.1  # share of all steps
    clip: float = 1.0
    dropout: float = 0.0  # share of a layer's inputs hidden from the update in a step
    known: float = 1.0  # probability of every token from which a batch is only read and not learnt from
    seed: int = 0
    max_tokens: int = 4096
    precision: str = "auto"  # of the frozen weights: auto, bf16 or int8; see frozen.chosen
    check_every: int = 0  # steps between two checks on dev items; 0: only one, at the end
    patience: int = 0  # checks without a better one after which training stops; 0: never


def rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then linear to zero."""
    warm = max(1, round(config.warmup * steps))
    return config.lr * min((step + 1) / warm, (steps - step) / max(1, steps - warm))
