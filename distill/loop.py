"""The optimisation itself: steps, checkpoints, checks on dev items, and the way back when a model collapses."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm import tqdm

from specialists.errors import Damaged

from .checkpoint import load_checkpoint, save_checkpoint
from .guard import Check, risen

if TYPE_CHECKING:
    from .config import TrainConfig
    from .encode import Encoded

SAVE_EVERY = 60.0  # seconds between checkpoints
RETRIES = 2  # times that a collapsed run goes back and on with half the rate

Snapshot = dict[
    str, Any
]  # "step" and "weights"; "optimizer" to go on from it; "right" on dev items of the best


@dataclass
class Progress:
    """Where a run is. `scale` multiplies the rate; `dev` has (step, right, n) of every check; `good` and `best` are
    snapshots after the last check that found the model well, and after the one with the most right."""

    step: int = 0
    loss: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    seconds: float = 0.0
    tokens: int = 0
    passed_over: list[int] = field(default_factory=list)  # steps whose batch was known already
    scale: float = 1.0
    retries: int = 0
    events: list[str] = field(default_factory=list)
    dev: list[tuple[int, int, int]] = field(default_factory=list)
    good: Snapshot | None = None
    best: Snapshot | None = None
    stopped: bool = False

    @property
    def best_step(self) -> int:
        """After how many steps the weights that are kept were reached."""
        return self.best["step"] if self.best else self.step


class Loop:
    """Trains `weights` in place. `loss` gives the mean loss of a batch and the probability of each of its tokens.

    `check` grades the current weights on dev items, every `config.check_every` steps. A collapse (see guard) takes the
    run back to the last check that found it well, or to the start, and on from there with half the rate; at the third
    it ends in Damaged. Without `check` only the loss and the gradient are watched. line: of the terminal, for the
    progress bar of one training beside others.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        config: TrainConfig,
        steps: int,
        stream: Callable[[], Iterator[list[Encoded]]],
        loss: Callable[[list[Encoded]], tuple[Tensor, Tensor]],
        rate: Callable[[int], float],
        check: Callable[[], Check] | None = None,
        line: int | None = None,
    ) -> None:
        self.weights, self.config, self.steps, self.line = weights, config, steps, line
        self.stream, self.loss, self.rate, self.check = stream, loss, rate, check
        self.optimizer = torch.optim.AdamW(weights, lr=config.lr, weight_decay=0.0)
        self.at = Progress()
        self._first = self._snapshot()

    def run(self, out: Path, identity: dict[str, Any]) -> Progress:
        """Train to the end, going on from out/checkpoint.pt if there is one; the best weights are then in place."""
        found = load_checkpoint(out, identity)
        if found:
            self._restore(found.pop("now"))
            self.at = Progress(**{**found, "dev": [tuple(point) for point in found["dev"]]})
        else:
            self._save(out, identity)  # a folder that cannot be written shows now and not at the end
        at = self.at
        started, saved = time.monotonic() - at.seconds, time.monotonic()
        rows = self._rows()
        bar = tqdm(
            total=self.steps,
            initial=at.step,
            desc=out.name,
            unit="step",
            position=self.line,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        try:
            while at.step < self.steps and not at.stopped:
                trouble = self._step(next(rows))
                at.seconds = time.monotonic() - started
                bar.set_postfix(loss=f"{at.loss[-1]:.3f}", tok_s=f"{at.tokens / at.seconds:.0f}")
                bar.update()
                if not trouble and self.check and self._due():
                    trouble = self._checked(self.check())
                if trouble:
                    self._go_back(trouble)
                    rows = self._rows()
                    bar.n = at.step
                    bar.refresh()
                if time.monotonic() - saved > SAVE_EVERY:
                    self._save(out, identity)
                    saved = time.monotonic()
        except KeyboardInterrupt:
            self._save(out, identity)
            raise
        finally:
            bar.close()
        if self.check and not at.best:
            raise Damaged(f"{self._never_well} Lower --lr, give more examples or train longer.")
        if at.best:
            self._restore(at.best)
        return at

    _never_well = "Training ended without one check that found the model well."

    def _rows(self) -> Iterator[list[Encoded]]:
        """The stream from the step that is next."""
        rows = self.stream()
        for _ in range(self.at.step):
            next(rows)
        return rows

    def _step(self, rows: list[Encoded]) -> str | None:
        """One update; what is wrong with it, if anything."""
        at = self.at
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(at.step) * at.scale
        torch.manual_seed(self.config.seed << 32 | at.step)  # what dropout hides is the step's own
        loss, found = self.loss(rows)
        at.loss.append(round(loss.item(), 4))
        at.step += 1
        at.tokens += sum(len(row.ids) for row in rows)
        if self.config.known < 1 and bool(found.min() >= self.config.known):
            at.passed_over.append(at.step)
            at.norms.append(0.0)
            return risen(at.loss)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.config.clip)
        at.norms.append(round(norm.item(), 4))
        if not torch.isfinite(norm):
            self.optimizer.zero_grad()
            return f"has a gradient that is no number (loss {loss.item():.3g})"
        self.optimizer.step()
        self.optimizer.zero_grad()
        return risen(at.loss)

    def _due(self) -> bool:
        every = self.config.check_every
        return self.at.step == self.steps or (every > 0 and self.at.step % every == 0)

    def _checked(self, found: Check) -> str | None:
        """Take the result of a check in; the symptom, if it means that a model which was well has collapsed."""
        at = self.at
        at.dev.append((at.step, found.right, found.n))
        if found.symptom:
            self._never_well = f"At the last check the model {found.symptom}."
            return found.symptom if at.good else None
        at.good = self._snapshot()
        if at.best is None or found.right > at.best["right"]:
            at.best = {"step": at.step, "right": found.right, "weights": at.good["weights"]}
        since = sum(step > at.best_step for step, _, _ in at.dev)
        if self.config.patience and since >= self.config.patience:
            at.stopped = True
            at.events.append(
                f"Stopped at step {at.step}: {since} checks brought no more right than step {at.best_step}."
            )
        return None

    def _go_back(self, trouble: str) -> None:
        at = self.at
        if at.retries == RETRIES:
            raise Damaged(
                f"Training collapsed {RETRIES + 1} times; the last time, at step {at.step}, the model {trouble}. "
                "Lower --lr or raise --batch-size."
            )
        to = at.good or self._first
        at.retries += 1
        at.scale /= 2
        at.events.append(
            f"Step {at.step}: the model {trouble}; back to step {to['step']} with half the rate."
        )
        at.step = to["step"]
        del at.loss[at.step :], at.norms[at.step :]
        at.dev = [point for point in at.dev if point[0] <= at.step]
        at.passed_over = [step for step in at.passed_over if step <= at.step]
        self._restore(to)

    def _snapshot(self) -> Snapshot:
        state = self.optimizer.state_dict()
        copied = {
            **state,
            "state": {
                key: {name: value.clone() for name, value in entry.items()}
                for key, entry in state["state"].items()
            },
        }
        return {
            "step": self.at.step,
            "weights": [weight.detach().clone() for weight in self.weights],
            "optimizer": copied,
        }

    def _restore(self, to: Snapshot) -> None:
        with torch.no_grad():
            for weight, saved in zip(self.weights, to["weights"], strict=True):
                weight.copy_(saved)
        if "optimizer" in to:
            self.optimizer = torch.optim.AdamW(self.weights, lr=self.config.lr, weight_decay=0.0)
            self.optimizer.load_state_dict(to["optimizer"])

    def _save(self, out: Path, identity: dict[str, Any]) -> None:
        # Not asdict of the snapshots: it would copy every tensor once more.
        shallow = {name: getattr(self.at, name) for name in Progress.__dataclass_fields__}
        save_checkpoint(out, identity, {**shallow, "now": self._snapshot()})
