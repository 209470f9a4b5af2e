"""How fast we train, beside TRL's SFTTrainer on the same steps, and where our time goes.

Every run is a fresh process that loads the base, takes 2 steps to warm up and times the next --steps; the ways take
turns, --repeats times:

    ours      distill.train.train_rows with the frozen weights in bf16
    ours_int8 the same with them in 8 bits, which it chooses itself where the processor multiplies so
    trl       SFTTrainer on the examples as chat messages (prompt and completion)
    trl_kept  the same, with glibc told to keep freed memory as we tell it (distill.memory): what a user who knows of
              that would get, so that this part of the difference is seen apart

The same base in bf16, rows in the same batches and order, first A matrices, AdamW, rates, clipping and threads.
SFTTrainer is set as one who knows it would on a processor: bf16 (autocast, adapters in fp32 as PEFT has them;
adapters in bf16 were no faster), no gradient checkpointing (its default costs a forward more), no packing (it needs
FlashAttention), padding to the longest row of the batch, loss on the completion only, fused AdamW, no workers for so
little data, no evaluation, saving or reporting. torch.compile is left out: it compiles again for every new length.
TRL's rows end in one token more, the line end that the chat template writes after a turn. Tokens are those of our
rows, without padding, for all of them.

Then, for our loop in bf16: the most this processor multiplies in bf16 (large squares, and the packed layout of our
frozen weights), the operations of a step (counted, see training_parts.operations), our share of that peak, and a table
of where a step's time goes; and 100 examples x 3 epochs as `router distill train` would, against the 12 minutes asked.

    python benchmarks/training_speed.py [--steps 8] [--repeats 3] [--batch-size 4] [--threads N] [--quick]
"""

from __future__ import annotations

import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import click
from training_parts import PARTS, REST, mark, operations, peak, table, watch

from registry.report import environment
from specialists.paths import write_atomic

if TYPE_CHECKING:
    from distill.config import TrainConfig
    from distill.encode import Encoded
    from router.engine.base import Base

ROOT = Path(__file__).resolve().parents[1]
WARM = 2  # steps not counted
OURS = ("ours", "ours_int8")
THEIRS = ("trl", "trl_kept")
ASKED_MINUTES = 12
MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere


def material(job: dict[str, Any], epochs: float) -> tuple[Base, list[Any], list[Encoded], TrainConfig]:
    """The base, 100 examples of scheduling:half-hour, their rows and the settings; threads are set."""
    import torch

    from distill.config import TrainConfig
    from distill.encode import encode
    from distill.examples import examples
    from router.engine.base import find_base, load_tokenizer
    from specialists.domain import load

    torch.set_num_threads(job["threads"])
    precision = {"ours_int8": "int8", "full": "auto"}.get(job["arm"], "bf16")
    base = find_base()
    config = TrainConfig(rank=8, batch_size=job["batch_size"], epochs=epochs, precision=precision)
    found = examples(load("scheduling:half-hour"), 100)
    tokenizer = load_tokenizer(base)
    return base, found, [encode(tokenizer, one, config.max_tokens) for one in found], config


def timed(job: dict[str, Any]) -> tuple[Base, list[Any], list[Encoded], TrainConfig, list[list[Encoded]]]:
    """The same for WARM + steps + 1 steps, and their batches: the start of the last one ends the clock."""
    from distill.encode import batches

    steps = WARM + job["steps"] + 1
    base, found, rows, config = material(job, steps * job["batch_size"] / 100)
    stream = batches(rows, config)
    return base, found, rows, config, [next(stream) for _ in range(steps)]


def figures(marks: Sequence[tuple[float, int]], losses: Sequence[float], batches: Any) -> dict[str, Any]:
    """What one run gave; marks: (clock, page faults) at the start of every step."""
    (begun, before), (ended, after) = marks[WARM], marks[-1]
    counted = batches[WARM:-1]
    tokens = sum(len(row.ids) for batch in counted for row in batch)
    return {
        "tokens_per_second": tokens / (ended - begun),
        "seconds_a_step": (ended - begun) / len(counted),
        "tokens": tokens,
        "page_faults_a_step": (after - before) / len(counted),
        "losses": [round(float(loss), 4) for loss in losses],
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_UNIT / 2**20),
    }


def ours(job: dict[str, Any]) -> dict[str, Any]:
    """Our loop, timed where it asks for each batch; as the arm "split" also the seconds of every part of a step."""
    from distill import train

    base, _, rows, config, steps = timed(job)
    marks: list[tuple[float, int]] = []
    parts: defaultdict[str, float] = defaultdict(float)

    def stamped(encoded: Sequence[Encoded], config: TrainConfig) -> Iterator[list[Encoded]]:
        for batch in steps:
            if len(marks) == WARM:
                parts.clear()
            marks.append(mark())
            if len(marks) == len(steps):
                result["parts"] = dict(parts)
            yield batch

    result: dict[str, Any] = {}
    train.batches = stamped  # type: ignore[attr-defined]
    if job["arm"] == "split":
        watch(parts)
    with tempfile.TemporaryDirectory() as folder:
        facts = train.train_rows(rows, base, Path(folder) / "adapter", config)
    return result | figures(marks, facts["loss"], steps)


def trl(job: dict[str, Any]) -> dict[str, Any]:
    """SFTTrainer on the same batches, set as the docstring above says."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import TrainerCallback

    from distill.config import rate
    from distill.memory import keep_freed_memory
    from router.engine.base import load_model, load_tokenizer

    peer: Any = import_module("trl")
    datasets: Any = import_module("datasets")
    if job["arm"] == "trl_kept":
        keep_freed_memory()
    base, found, rows, config, steps = timed(job)
    lora = LoraConfig(
        task_type="CAUSAL_LM", r=config.rank, lora_alpha=config.alpha, target_modules=list(config.targets)
    )
    model = get_peft_model(load_model(base).train(), lora)
    generator = torch.Generator().manual_seed(config.seed)  # the first A of distill.lora.attach
    for name, weight in model.named_parameters():
        if "lora_A" in name:
            drawn = torch.rand(weight.shape, generator=generator) * 2 - 1
            weight.data.copy_(drawn / weight.shape[1] ** 0.5)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate(step, len(steps), config) / config.lr
    )
    example = dict(zip((row.ids for row in rows), found, strict=True))
    ordered = [example[row.ids] for batch in steps for row in batch]
    data = datasets.Dataset.from_list(
        [
            {"prompt": one.messages, "completion": [{"role": "assistant", "content": one.completion}]}
            for one in ordered
        ]
    )
    marks: list[tuple[float, int]] = []

    class Marks(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            marks.append(mark())

    with tempfile.TemporaryDirectory() as folder:
        settings = peer.SFTConfig(
            output_dir=folder,
            max_steps=len(steps),
            per_device_train_batch_size=config.batch_size,
            max_grad_norm=config.clip,
            train_sampling_strategy="sequential",
            use_cpu=True,
            bf16=True,
            gradient_checkpointing=False,
            packing=False,
            max_length=None,
            completion_only_loss=True,
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            eval_strategy="no",
            save_strategy="no",
            report_to="none",
            logging_steps=1,
            disable_tqdm=True,
        )
        trainer = peer.SFTTrainer(
            model=model,
            args=settings,
            train_dataset=data,
            processing_class=load_tokenizer(base),
            optimizers=(optimizer, schedule),
            callbacks=[Marks()],
        )
        wanted = [row for batch in steps for row in batch]
        for row, fed in zip(wanted, trainer.train_dataset, strict=True):
            learnt = sum(label != -100 for label in fed["labels"])
            same = tuple(fed["input_ids"][: len(row.ids)]) == row.ids
            assert same and learnt - (len(row.ids) - row.prompt) in (0, 1), "TRL was fed other rows"
        trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return figures(marks, losses, steps)


def split(job: dict[str, Any], most: float) -> dict[str, Any]:
    """Where a step of ours spends its time, and how near each part comes to `most` GFLOP/s."""
    result = run({**job, "arm": "split"})
    base, _, _, config, steps = timed({**job, "arm": "split"})
    counted = steps[WARM:-1]
    made: defaultdict[str, float] = defaultdict(float)
    for batch in counted:
        for name, count in operations(base, batch, config.rank).items():
            made[name] += count
    whole = result["seconds_a_step"] * len(counted)
    parts = result["parts"] | {REST: whole - sum(result["parts"].values())}
    padded = sum(len(batch) * max(len(row.ids) for row in batch) for batch in counted)
    return {
        "parts": {
            name: {
                "seconds_a_step": parts[name] / len(counted),
                "share": parts[name] / whole,
                "gflop_a_step": made[name] / len(counted) / 1e9,
                "share_of_peak": made[name] / parts[name] / 1e9 / most,
            }
            for name in (*PARTS, REST)
        },
        "seconds_a_step": whole / len(counted),
        "gflop_a_step": sum(made.values()) / len(counted) / 1e9,
        "share_of_peak": sum(made.values()) / whole / 1e9 / most,
        "gflop_a_token": sum(made.values()) / result["tokens"] / 1e9,
        "padding": 1 - result["tokens"] / padded,
        "page_faults_a_step": result["page_faults_a_step"],
    }


def full(job: dict[str, Any]) -> dict[str, Any]:
    """100 examples x 3 epochs for real: loading, training and saving, in seconds."""
    from distill.train import train_rows

    begun = time.perf_counter()
    base, _, rows, config = material(job, 3)
    with tempfile.TemporaryDirectory() as folder:
        facts = train_rows(rows, base, Path(folder) / "adapter", config)
    return {
        "seconds": time.perf_counter() - begun,
        "training_seconds": facts["seconds"],
        "steps": facts["steps"],
        "tokens": facts["tokens"],
        "loss": facts["loss"],
    }


def run(job: dict[str, Any]) -> dict[str, Any]:
    """One job in a fresh process; its last line is the result."""
    words = [sys.executable, __file__, "--job", json.dumps(job)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{job['arm']} failed; its last words: {done.stderr.strip()[-800:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def work(job: dict[str, Any]) -> dict[str, Any]:
    """What a job gives, in this process."""
    if job["arm"] == "peak":
        return peak(job["threads"], 4 if job["quick"] else 20)
    return {"ours": ours, "ours_int8": ours, "split": ours, "full": full}.get(job["arm"], trl)(job)


def measure(job: dict[str, Any], repeats: int) -> dict[str, Any]:
    """The object of reports/training_speed.json."""
    from router.engine.precision import can_multiply

    own = OURS if can_multiply() else OURS[:1]
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in (*own, *THEIRS)}
    for turn in range(repeats):
        for arm in runs:
            runs[arm].append(run({**job, "arm": arm}))
            speed = runs[arm][-1]["tokens_per_second"]
            click.echo(f"{arm}, {turn + 1} of {repeats}: {speed:.1f} tokens/s", err=True)
    ratios = {
        f"{one} / {other}": [
            a["tokens_per_second"] / b["tokens_per_second"]
            for a, b in zip(runs[one], runs[other], strict=True)
        ]
        for one in own
        for other in THEIRS
    }
    most = run({**job, "arm": "peak"})
    speed = median(one["tokens_per_second"] for one in runs[own[-1]])
    _, _, rows, _ = material({**job, "arm": "full"}, 3)
    if job["quick"]:
        tokens = 3 * sum(len(row.ids) for row in rows)
        whole = {"seconds": tokens / speed, "tokens": tokens, "extrapolated": True}
    else:
        whole = run({**job, "arm": "full"}) | {"extrapolated": False}
    whole |= {"asked_seconds": 60 * ASKED_MINUTES, "within": whole["seconds"] <= 60 * ASKED_MINUTES}
    return {
        "command": shlex.join(["python", "benchmarks/training_speed.py", *sys.argv[1:]]),
        "settings": job | {"repeats": repeats, "warm_up_steps": WARM},
        "tokens_per_second": {arm: median(one["tokens_per_second"] for one in runs[arm]) for arm in runs},
        "peak_mib": {arm: max(one["peak_mib"] for one in runs[arm]) for arm in runs},
        "ratio": {arm: {"median": median(values), "all": values} for arm, values in ratios.items()},
        "runs": runs,
        "peak": most,
        "step": split(job, most["best_gflops"]),
        "hundred_examples_three_epochs": whole,
        "environment": environment() | {"trl": version("trl")},
    }


@click.command(help=__doc__)
@click.option(
    "--steps", type=click.IntRange(1), default=8, show_default=True, help="Steps timed in each run."
)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True)
@click.option(
    "--threads", type=click.IntRange(1), default=lambda: environment()["cores"], help="All, unless given."
)
@click.option("--quick", is_flag=True, help="2 steps, one turn, no full training: does it work?")
@click.option("--out", type=click.Path(path_type=Path), default=ROOT / "reports" / "training_speed.json")
@click.option("--job", hidden=True)
def main(
    steps: int, repeats: int, batch_size: int, threads: int, quick: bool, out: Path, job: str | None
) -> None:
    """Measure, print and write."""
    if job:
        click.echo("\n" + json.dumps(work(json.loads(job))))
        return
    wanted = {"steps": 2 if quick else steps, "batch_size": batch_size, "threads": threads, "quick": quick}
    found = measure(wanted, 1 if quick else repeats)
    write_atomic(out, (json.dumps(found, indent=1) + "\n").encode())
    click.echo(table(found), nl=False)


if __name__ == "__main__":
    main()
