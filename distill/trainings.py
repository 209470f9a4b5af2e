"""The trainings of a run, one after another or several side by side, each in a process of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from router.engine.base import find_base
from router.engine.engine import Engine
from specialists.domain import items, load
from specialists.prompts import PROMPTS

from .arms import checker
from .examples import answers_only, read_jsonl, retold
from .frozen import chosen
from .plan import Job, Plan
from .train import train

_line: int | None = None  # of the terminal, in a process that trains beside others


def train_job(job: Job, out: Path, plan: Plan, most: int) -> None:
    """One training, into the folder `out`. most: tokens that the student may write when it is checked."""
    base, domain = find_base(plan.base), load(plan.domain)
    config = job.config(plan)
    examples = read_jsonl(job.data)[: job.examples]
    if plan.retell > 1:
        examples = retold(domain, examples, plan.retell, config.seed)
    if not job.steps:
        examples = answers_only(examples)
    check = None
    if job.checks:
        dev = items(domain, "dev", job.checks)
        check = checker(
            lambda: Engine(base, precision=chosen(config.precision)),
            domain,
            dev,
            PROMPTS[domain.prompt],
            most,
        )
    train(examples, base, out, config, check=check, line=_line)


def side_by_side(
    todo: Sequence[tuple[Job, Path]], plan: Plan, most: int, workers: int, say: Callable[[str], object]
) -> None:
    """All of these, `workers` at a time: two of one thread read more than one of two threads (docs/training.md)."""
    context = get_context("spawn")
    lines = context.SimpleQueue()
    for line in range(workers):
        lines.put(line)
    with ProcessPoolExecutor(workers, context, _begin, (workers, lines, context.RLock())) as pool:
        going = [(job, pool.submit(train_job, job, out, plan, most)) for job, out in todo]
        for job, trained in going:
            trained.result()
            say(f"trained {job.name}")


def _begin(workers: int, lines: Any, lock: Any) -> None:
    """Begin a process of several: its share of the threads, and a line of its own for its progress."""
    global _line
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    _line = lines.get()
    tqdm.set_lock(lock)


def _end_with_parent() -> None:
    """End this process when the one that began it is gone, killed or not; checkpoints are whole at any time."""
    if parent := parent_process():
        wait([parent.sentinel])
        os._exit(1)
