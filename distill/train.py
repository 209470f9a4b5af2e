"""LoRA training on completions: one function, folder in, folder out, resumable, the same adapter for the same seed."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from registry.adapter import WEIGHTS
from router.engine.base import Base, load_model, load_tokenizer
from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

from .autograd import completion_loss, use_attention
from .checkpoint import load_checkpoint, save_checkpoint
from .examples import Example, balance
from .lora import ALL_LINEAR, LoraLinear, attach, load_peft, save_peft
from .memory import keep_freed_memory


@dataclass(frozen=True)
class TrainConfig:
    """Hyperparameters. All-linear targets, a rate about ten times that of full fine-tuning and small batches follow
    Schulman et al., "LoRA Without Regret" (2025)."""

    rank: int = 8
    alpha: float = 16
    targets: tuple[str, ...] = field(default=ALL_LINEAR)
    lr: float = 1e-3
    epochs: float = 3
    batch_size: int = 4
    warmup: float = 0.1  # share of all steps
    clip: float = 1.0
    seed: int = 0
    max_tokens: int = 4096


@dataclass(frozen=True)
class Encoded:
    """Token ids of prompt and completion in one row; the loss is on ids[prompt:]."""

    ids: tuple[int, ...]
    prompt: int


def encode(tokenizer: Any, example: Example, max_tokens: int) -> Encoded:
    """Render with the chat template exactly as serving does, append the end of turn, and test the mask.

    Raises BadInput when the example is longer than max_tokens (nothing is ever cut), or when what carries loss is
    not exactly the completion and its end of turn.
    """
    prompt = tokenizer.apply_chat_template(example.messages, tokenize=False, add_generation_prompt=True)
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    ids = (
        prompt_ids
        + tokenizer(example.completion, add_special_tokens=False).input_ids
        + [tokenizer.eos_token_id]
    )
    if len(ids) > max_tokens:
        raise BadInput(
            f"An example has {len(ids)} tokens, more than {max_tokens}; raise --max-tokens or drop it: {example.key!r}."
        )
    learnt = tokenizer.decode(ids[len(prompt_ids) :], skip_special_tokens=False)
    if learnt != example.completion + tokenizer.eos_token:
        raise BadInput(
            f"The loss mask does not cover exactly the completion of {example.key!r}: it covers {learnt!r}."
        )
    return Encoded(tuple(ids), len(prompt_ids))


def batches(encoded: Sequence[Encoded], config: TrainConfig) -> Iterator[list[Encoded]]:
    """Batches of an endless stream of epochs; rows of like length go together, and the order is the seed's."""
    epoch = 0
    while True:
        rng = Random(f"{config.seed}/{epoch}")
        order = rng.sample(range(len(encoded)), len(encoded))
        pool = config.batch_size * 16
        groups = []
        for at in range(0, len(order), pool):
            near = sorted(order[at : at + pool], key=lambda i: len(encoded[i].ids))
            groups += [near[j : j + config.batch_size] for j in range(0, len(near), config.batch_size)]
        rng.shuffle(groups)
        yield from ([encoded[i] for i in group] for group in groups)
        epoch += 1


def batch_loss(model: Any, rows: Sequence[Encoded]) -> tuple[Tensor, int]:
    """Mean loss per completion token of a batch, and how many tokens carried it.

    Rows are padded on the right; attention is causal, so padding cannot reach what comes before it.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    places: list[int] = []
    targets: list[int] = []
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        places += range(i * width + row.prompt - 1, i * width + len(row.ids) - 1)
        targets += row.ids[row.prompt :]
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
    loss = completion_loss(hidden[torch.tensor(places)], model.lm_head.weight, torch.tensor(targets))
    return loss / len(targets), len(targets)


def rate(step: int, steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then linear to zero."""
    warm = max(1, round(config.warmup * steps))
    return config.lr * min((step + 1) / warm, (steps - step) / max(1, steps - warm))


def train(
    examples: Sequence[Example], base: Base, out: Path, config: TrainConfig, start: Path | None = None
) -> dict[str, Any]:
    """Train an adapter into `out` (a PEFT folder) and return the facts of the run (also out/training.json).

    `start` is an adapter folder of the same rank and targets to go on from. A checkpoint every minute makes it
    resumable: the same call goes on where it stopped and gives the same bytes.
    Raises BadInput when `out` holds a run of other data or settings.
    """
    identity = {
        "config": asdict(config) | {"targets": list(config.targets)},
        "base": base.id,
        "base_weights": base.weights,
        "start": hashlib.sha256((start / WEIGHTS).read_bytes()).hexdigest() if start else None,
        "data": hashlib.sha256(
            json.dumps([asdict(e) for e in examples], sort_keys=True).encode()
        ).hexdigest(),
    }
    facts_file = out / "training.json"
    if facts_file.exists():
        facts: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
        if facts["identity"] != identity:
            raise BadInput(f"{out} holds an adapter trained on other data or settings; choose another --out.")
        return facts
    keep_freed_memory()
    torch.manual_seed(config.seed)
    tokenizer = load_tokenizer(base)
    encoded = [encode(tokenizer, example, config.max_tokens) for example in examples]
    model = load_model(base)
    layers = attach(model, config.targets, config.rank, config.alpha, config.seed)
    if start:
        load_peft(layers, start)
    use_attention(model)
    model.train()
    steps = max(1, round(config.epochs * len(encoded) / config.batch_size))
    log, seconds, tokens = _loop(model, layers, encoded, out, config, identity, steps)
    save_peft(layers, out, base.id, config.rank, config.alpha)
    facts = {
        "identity": identity,
        "examples": len(examples),
        "labels": balance(examples),
        "steps": steps,
        "seconds": round(seconds, 1),
        "tokens": tokens,
        "tokens_per_second": round(tokens / seconds, 1),
        "loss": log,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    write_atomic(facts_file, json.dumps(facts, indent=1).encode())
    (out / "checkpoint.pt").unlink(missing_ok=True)
    return facts


def _loop(
    model: Any,
    layers: dict[str, LoraLinear],
    encoded: Sequence[Encoded],
    out: Path,
    config: TrainConfig,
    identity: dict[str, Any],
    steps: int,
) -> tuple[list[float], float, int]:
    """The optimisation itself: (loss of every step, seconds, tokens read)."""
    weights = [p for layer in layers.values() for p in (layer.lora_A, layer.lora_B)]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0)
    done, log, seconds, tokens = load_checkpoint(out, identity, weights, optimizer)
    stream = batches(encoded, config)
    for _ in range(done):
        next(stream)
    started, saved = time.monotonic() - seconds, time.monotonic()
    bar = tqdm(total=steps, initial=done, desc="training", unit="step", file=sys.stderr)
    try:
        for step in range(done, steps):
            rows = next(stream)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, config)
            loss, _ = batch_loss(model, rows)
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(weights, config.clip)
            if not torch.isfinite(norm):
                raise Damaged(
                    f"Training diverged at step {step} (loss {loss.item():.3g}); lower --lr and try again."
                )
            optimizer.step()
            optimizer.zero_grad()
            log.append(round(loss.item(), 4))
            tokens += sum(len(row.ids) for row in rows)
            seconds = time.monotonic() - started
            bar.set_postfix(loss=f"{log[-1]:.3f}", tok_s=f"{tokens / seconds:.0f}")
            bar.update()
            if time.monotonic() - saved > 60:
                save_checkpoint(out, identity, weights, optimizer, (step + 1, log, seconds, tokens))
                saved = time.monotonic()
    except KeyboardInterrupt:
        save_checkpoint(out, identity, weights, optimizer, (len(log), log, seconds, tokens))
        raise
    finally:
        bar.close()
    return log, seconds, tokens
