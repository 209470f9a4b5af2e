"""What a run is to do, and the trainings that it takes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from specialists.errors import BadInput

from .config import TrainConfig

ABLATIONS = ("answers-only", "no-strategy", "strategy-prompt", "nonsense-prompt")
GROWS = ("ablations", "curve", "sizes")  # what a run may be given more of later


@dataclass(frozen=True)
class Plan:
    """What a run does.

    retell: ways in which the solver tells every example (1: as it is). problems, dev: training and dev items of the
    strategy. checks: dev items that training is checked with (0: none). n: test items. curve: other numbers of
    examples. sizes: other adapters, "RANK" or "RANK:LAYERS". batch: use message batches.
    """

    domain: str
    teacher: str = "solver"
    examples: int = 100
    among: int | None = None
    retell: int = 1
    problems: int = 100
    dev: int = 30
    checks: int = 32
    n: int = 300
    seeds: int = 1
    ablations: tuple[str, ...] = ()
    curve: tuple[int, ...] = ()
    sizes: tuple[str, ...] = ()
    batch: bool = False
    base: str | None = None
    config: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True)
class Job:
    """One training: `data` is a file of examples, `checks` the dev items it is checked with.

    steps: whether it learns the worked steps, or the answer line alone.
    """

    name: str
    about: str
    data: Path
    seed: int = 0
    examples: int | None = None
    checks: int = 0
    size: str | None = None
    steps: bool = True

    def config(self, plan: Plan) -> TrainConfig:
        """The plan's hyperparameters with what is this job's own. Raises BadInput for a size that is none."""
        config = replace(plan.config, seed=plan.config.seed + self.seed)
        if self.size is None:
            return config
        rank, _, layers = self.size.partition(":")
        if not rank.isdecimal() or not 1 <= int(rank) <= 256:
            raise BadInput(
                f"{self.size!r} is no size of an adapter; write RANK or RANK:LAYERS, such as 4:q_proj."
            )
        targets = tuple(one.strip() for one in layers.split(",") if one.strip()) or config.targets
        return replace(config, rank=int(rank), alpha=2.0 * int(rank), targets=targets)
