"""The first experiment done again: its recipe beside ours on one set of 150 problems, with what it had to beat.

Students: `theirs` (a short strategy, so that the answers are in the training texts), `theirs_cut` (a long one: all
answers are cut off, as probably happened), and `ours`. The base answers every prompt too, so that prompt and adapter
can be told apart. Each is scored by its own parser; McNemar tests pair all with ours and with two rules that do no
work.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from registry.adapter import WEIGHTS
from registry.measures import ArmResult, Outcome, Paired
from registry.report import environment
from registry.version import sha256
from router.engine.chat import SlowChat
from router.saved import Answered, Ask, Generates, Saved, answer, key_of
from specialists.domain import Task, grade, load
from specialists.errors import BadInput
from specialists.paths import write_atomic
from specialists.prompts import PROMPTS, messages
from specialists.scheduling.problems import answer as solved

from . import stream

if TYPE_CHECKING:
    from router.engine.base import Base
    from router.engine.engine import Engine

    from ..config import TrainConfig
    from ..example import Example

OWN = "scheduling:half-hour"  # what ours is trained on, unless told
DOMAIN = load("scheduling:seeds")
PLAIN_TOKENS = 20  # of an answer to a plain prompt: more than the lenient parser reads
BASE_TOKENS = 512  # of the bare base's answer to our prompt
RULES: dict[str, Callable[[Task], str]] = {
    "always YES": lambda task: "YES",
    "meetings <= rooms + 2": DOMAIN.heuristics()["meetings <= rooms + 2"],
}


@dataclass(frozen=True)
class Arm:
    """One way of answering. `long` is the plain prompt's strategy, None for our prompt; `adapter` a student's name."""

    name: str
    about: str
    long: bool | None
    adapter: str | None = None
    parser: str = "lenient"


ARMS = (
    Arm("theirs", "their recipe, answers in the training texts", False, "theirs"),
    Arm("theirs_cut", "their recipe, answers cut off at 512 tokens", True, "theirs_cut"),
    Arm("ours", "our recipe", None, "ours", "strict"),
    Arm("base_theirs", "base, their prompt", False),
    Arm("base_theirs_cut", "base, their prompt with the long strategy", True),
    Arm("base_ours", "base, our prompt", None, parser="strict"),
    Arm(
        "base_ours_lenient", "base, our prompt, their parser", None
    ),  # the base often says YES without an answer line
)


def their_config() -> TrainConfig:
    """Rank 8 on q and v, 2e-4 falling linearly without warm-up, 3 epochs, 8 examples a step (there 2 x 4)."""
    from ..config import TrainConfig

    return TrainConfig(
        rank=8,
        alpha=16,
        targets=("q_proj", "v_proj"),
        lr=2e-4,
        epochs=3,
        batch_size=8,
        warmup=0.0,
        seed=stream.EXAMPLES,
    )


def our_examples(name: str, n: int, test: Sequence[Task]) -> list[Example]:
    """n worked training examples of a variant of scheduling, as many NO as YES, none of them in the test.

    Raises BadInput when the variant asks other questions or has too few of a label.
    """
    from ..examples import examples

    seen = {task.key for task in test}
    wanted = {"fits NO": n // 2, "fits YES": n - n // 2}
    found: list[Example] = []
    for size in (2 * n, 12 * n):  # the seeds' own distribution has 12 % NO
        pool = [one for one in examples(load(name), size) if one.key not in seen]
        found = [
            one
            for kind, count in wanted.items()
            for one in [two for two in pool if two.label == kind][:count]
        ]
        if len(found) == n:
            return found
    raise BadInput(
        f"{name} gave {len(found)} of {n} balanced examples; use scheduling:half-hour or scheduling:seeds."
    )


class PlainChat(SlowChat):
    """A tokenizer for prompts that are one text and go in as they are, without a chat template."""

    def __init__(self, base: Base, stop: int) -> None:
        super().__init__(base)
        self.stop = stop

    def prompt_ids(self, given: Sequence[dict[str, str]]) -> list[int]:
        """See Chat."""
        (only,) = given
        return self.encode(only["content"])


class Study:
    """One run in a folder: what is trained and answered there is not trained and answered again."""

    def __init__(
        self,
        out: Path,
        base: Base,
        n: int = 100,
        each: int = 50,
        own: str = OWN,
        ours: TrainConfig | None = None,
        progress: bool = False,
    ) -> None:
        from ..config import TrainConfig

        self.out, self.base, self.n, self.own, self.progress = out, base, n, own, progress
        self.configs = {
            "theirs": their_config(),
            "theirs_cut": their_config(),
            "ours": ours or TrainConfig(),
        }
        self.problems = stream.drawn(stream.TEST, dict.fromkeys(stream.LEVELS, each))
        self.test = [stream.task(one, stream.TEST, index) for index, one in enumerate(self.problems)]
        self.theirs = stream.drawn(stream.EXAMPLES, stream.evenly(n))
        self._engine: Engine | None = None

    def train(self, name: str) -> dict[str, Any]:
        """Train a student into its folder, if it is not there yet; the facts of the run."""
        from router.engine.base import load_tokenizer

        from ..train import train, train_rows

        folder, config, lost = self.out / name, self.configs[name], 0
        if name == "ours":
            facts = train(our_examples(self.own, self.n, self.test), self.base, folder, config)
        else:
            rows, lost = stream.rows(load_tokenizer(self.base), self.theirs, name == "theirs_cut")
            facts = train_rows(rows, self.base, folder, config)
            labels = [solved(one) for one in self.theirs]
            facts = {**facts, "labels": {one: labels.count(one) for one in ("NO", "YES")}}
        return {
            "config": {**asdict(config), "targets": list(config.targets)},
            **{key: facts[key] for key in ("examples", "labels", "steps", "tokens")},
            "minutes": facts["seconds"] / 60,
            "answers_lost": lost,
            "first_loss": facts["loss"][0],
            "last_loss": facts["loss"][-1],
        }

    def asks(self, arm: Arm) -> list[Ask]:
        """One generation an item, in the order of the items."""
        weights = sha256(self.out / arm.adapter / WEIGHTS) if arm.adapter else None
        found = []
        for one in self.test:
            if arm.long is None:
                said = messages(PROMPTS[DOMAIN.prompt], one.question)
                most = load(self.own).max_new_tokens if arm.adapter else BASE_TOKENS
            else:
                said = [{"role": "user", "content": stream.plain(one.facts["problem"], arm.long)}]
                most = PLAIN_TOKENS
            key = key_of(self.base.id, self.base.weights, weights, arm.long is None, said, most)
            found.append(Ask(key, said, weights, most))
        return found

    def engine(self, arm: Arm) -> Engine:
        """The engine, opened once, with the arm's adapter added and its way to read a prompt."""
        from router.engine.chat import open_chat
        from router.engine.engine import Engine

        self._engine = self._engine or Engine(self.base)
        chat = open_chat(self.base)
        self._engine.chat = chat if arm.long is None else PlainChat(self.base, chat.stop)
        if arm.adapter:
            folder = self.out / arm.adapter
            self._engine.add(sha256(folder / WEIGHTS), folder)
        return self._engine

    def answers(self, arm: Arm) -> list[Answered]:
        """What the arm answered to each item; only what is missing is generated."""
        saved, asks = Saved(self.out / "answers.jsonl"), self.asks(arm)
        missing = len({ask.key for ask in asks} - saved.answers.keys())
        if not missing:
            return [saved.answers[ask.key] for ask in asks]
        engine: Generates = self.engine(arm)
        with _bar(arm.name, missing) if self.progress else nullcontext() as bar:
            found = answer(engine, asks, saved, bar.update if bar is not None else lambda: None)
        return [found[ask.key] for ask in asks]

    def outcomes(self, arm: Arm) -> tuple[list[Outcome], int]:
        """Graded items, and how many NO of the lenient parser are defaults."""
        said = self.answers(arm)
        found = []
        for one, made in zip(self.test, said, strict=True):
            if arm.parser == "strict":
                verdict = grade(DOMAIN, one, made.text, made.truncated)
            else:
                verdict = DOMAIN.verify(one, stream.lenient(made.text))
            found.append(Outcome(one, verdict, made.text, made.tokens, made.seconds))
        return found, sum(stream.says_neither(made.text) for made in said if arm.parser == "lenient")

    def result(self) -> dict[str, Any]:
        """Everything, made now where it is missing; also in out/result.json."""
        training = {name: self.train(name) for name in self.configs}
        graded = {arm.name: self.outcomes(arm) for arm in ARMS}
        rules = {
            name: [Outcome(one, DOMAIN.verify(one, says(one))) for one in self.test]
            for name, says in RULES.items()
        }
        against = {"ours": graded["ours"][0], **rules}
        rows = [(arm.name, arm.about, arm.parser) for arm in ARMS]
        everyone = {name: outcomes for name, (outcomes, _) in graded.items()} | rules
        arms = {
            name: {
                "about": about,
                "parser": parser,
                "defaults": graded[name][1] if name in graded else 0,
                **scores(everyone[name], {other: it for other, it in against.items() if other != name}),
            }
            for name, about, parser in [*rows, *((name, name, "rule") for name in RULES)]
        }
        made = {
            "base": {"id": self.base.id, "weights": self.base.weights},
            "examples": self.n,
            "own_examples": self.own,
            "problems": self.facts(),
            "training": training,
            "arms": arms,
            "environment": environment(),
        }
        write_atomic(self.out / "result.json", (json.dumps(made, indent=1) + "\n").encode())
        return made

    def facts(self) -> dict[str, Any]:
        """What the 150 problems are, and how many of them the training had."""
        labels = {
            level: [solved(one) for one in self.problems if one.difficulty == level]
            for level in stream.LEVELS
        }
        teacher = stream.drawn(stream.TEACHER, stream.evenly(self.n))
        return {
            "n": len(self.problems),
            "distinct": len({one.key() for one in self.problems}),
            "labels": {
                level: {one: said.count(one) for one in ("YES", "NO")} for level, said in labels.items()
            },
            "in_training": {
                f"seed {stream.TEACHER}": stream.again(self.problems, teacher),
                f"seed {stream.EXAMPLES}": stream.again(self.problems, self.theirs),
            },
        }


def scores(outcomes: Sequence[Outcome], against: dict[str, list[Outcome]]) -> dict[str, Any]:
    """Counts and ratios of one arm, and McNemar tests: b only this arm had right, c only the other."""
    made = ArmResult.of(outcomes)
    recall = {name.removeprefix("fits "): share for name, share in made.recalls.items()}
    levels = {name: right / n for name, (right, n) in made.difficulties.items()}
    paired = {name: Paired.of(outcomes, other).to_dict() for name, other in against.items()}
    return {**made.to_dict(), "recall": recall, "levels": levels, "mcnemar": paired}


def _bar(name: str, total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc=f"answering {name}", unit="answer")


def run(
    out: Path,
    base: str | None = None,
    n: int = 100,
    each: int = 50,
    own: str = OWN,
    ours: TrainConfig | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """The whole study in a folder; the same call goes on where it stopped. Returns what out/result.json holds.

    base: as router.engine.base.find_base takes it. n: training examples of each student. each: test problems of
    each level. own: the variant ours is trained on; ours: its settings. Raises BadInput when `out` holds another study.
    """
    from router.engine.base import find_base

    return Study(out, find_base(base), n, each, own, ours, progress).result()
