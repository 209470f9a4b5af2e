"""LoRA training on completions: one function, folder in, folder out, resumable, the same adapter for the same seed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from registry.adapter import WEIGHTS
from router.engine.base import Base, load_model, load_tokenizer
from specialists.errors import BadInput
from specialists.paths import write_atomic

from .autograd import completion_loss, use_attention
from .checkpoint import NAME as CHECKPOINT
from .config import TrainConfig, rate
from .encode import Encoded, batches, encode
from .example import Example, balance
from .frozen import Head, PlainHead, chosen, freeze
from .guard import Check
from .loop import Loop
from .lora import attach, load_peft, save_peft
from .memory import keep_freed_memory


def batch_loss(model: Any, rows: Sequence[Encoded], head: Head | None = None) -> tuple[Tensor, Tensor]:
    """Mean loss per completion token of a batch, and the probability of each such token [tokens].

    head: what the model's own head is multiplied by, if not plainly.

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
    head = head or PlainHead(model.lm_head.weight)
    loss, found = completion_loss(hidden[torch.tensor(places)], head, torch.tensor(targets))
    return loss / len(targets), found


def train(
    examples: Sequence[Example],
    base: Base,
    out: Path,
    config: TrainConfig,
    start: Path | None = None,
    check: Callable[[Path], Check] | None = None,
    line: int | None = None,
) -> dict[str, Any]:
    """Train an adapter into `out` (a PEFT folder) and return the facts of the run (also out/training.json).

    `start` is an adapter folder of the same rank and targets to go on from. `check` grades an adapter folder on dev
    items, every config.check_every steps: the best weights are kept, and a collapse is undone (see Loop). A checkpoint
    every minute makes it resumable: the same call goes on where it stopped and gives the same bytes. line: see Loop.
    Raises BadInput when `out` holds a run of other data or settings, Damaged when training collapses for good.
    """
    tokenizer = load_tokenizer(base)
    rows = [encode(tokenizer, example, config.max_tokens) for example in examples]
    about = {"problems": len({example.key for example in examples}), "labels": balance(examples)}
    return train_rows(rows, base, out, config, start, check, about, line)


def train_rows(
    rows: Sequence[Encoded],
    base: Base,
    out: Path,
    config: TrainConfig,
    start: Path | None = None,
    check: Callable[[Path], Check] | None = None,
    about: Mapping[str, Any] | None = None,
    line: int | None = None,
) -> dict[str, Any]:
    """The same from token ids, for examples rendered or masked in another way than `encode` does.

    about: what else is to be kept among the facts.
    """
    config = replace(config, precision=chosen(config.precision))
    identity = {
        "config": {**asdict(config), "targets": list(config.targets)},
        "base": base.id,
        "base_weights": base.weights,
        "start": hashlib.sha256((start / WEIGHTS).read_bytes()).hexdigest() if start else None,
        "data": hashlib.sha256(json.dumps([[row.ids, row.prompt] for row in rows]).encode()).hexdigest(),
    }
    facts_file = out / "training.json"
    if facts_file.exists():
        facts: dict[str, Any] = json.loads(facts_file.read_text(encoding="utf-8"))
        if facts["identity"] != identity:
            raise BadInput(f"{out} holds an adapter trained on other data or settings; choose another --out.")
        return facts
    keep_freed_memory()
    torch.manual_seed(config.seed)
    model = load_model(base)
    layers = attach(
        model, config.targets, config.rank, config.alpha, config.seed, config.dropout, config.precision
    )
    head = freeze(model, config.precision)
    if start:
        load_peft(layers, start)
    use_attention(model)
    model.train()
    steps = max(1, round(config.epochs * len(rows) / config.batch_size))

    def checked() -> Check:
        assert check
        save_peft(layers, out / "check", base, config.rank, config.alpha)
        return check(out / "check")

    loop = Loop(
        [p for layer in layers.values() for p in (layer.lora_A, layer.lora_B)],
        config,
        steps,
        stream=lambda: batches(rows, config),
        loss=lambda batch: batch_loss(model, batch, head),
        rate=lambda step: rate(step, steps, config),
        check=checked if check else None,
        line=line,
    )
    done = loop.run(out, identity)
    save_peft(layers, out, base, config.rank, config.alpha)
    facts = {
        "identity": identity,
        "examples": len(rows),
        "steps": done.step,
        "best_step": done.best_step,
        "seconds": round(done.seconds, 1),
        "tokens": done.tokens,
        "tokens_per_second": round(done.tokens / done.seconds, 1),
        "loss": done.loss,
        "norms": done.norms,
        "passed_over": len(done.passed_over),
        "dev": done.dev,
        "events": done.events,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        **(about or {}),
    }
    write_atomic(facts_file, json.dumps(facts).encode())
    (out / CHECKPOINT).unlink(missing_ok=True)
    shutil.rmtree(out / "check", ignore_errors=True)
    return facts
