"""A student's arms: the base under some prompt, with some adapter or none, answering the same items."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from registry.adapter import WEIGHTS
from registry.measures import Outcome
from registry.version import sha256
from router.saved import Ask, Saved, answer, key_of
from specialists.domain import Domain, Task, Verdict, grade
from specialists.parsers import PARSERS
from specialists.prompts import messages

from .guard import Check, symptom

if TYPE_CHECKING:
    from router.engine.engine import Engine

QUOTED = 200  # characters of a text that holds no answer

NONSENSE = (
    "1. Write down the colour of each word, the longest first.\n"
    "2. Take the third letter of the last one and look for it in the window.\n"
    "3. If it rains there, begin again with the second; if not, count the corners of the room.\n"
    "4. Fold the page along the corners, and read what stands on the outside from right to left.\n"
    "5. The answer is what you would have said before step 1."
)


@dataclass(frozen=True)
class Arm:
    """One way of answering: `prompt` is the system prompt's text, `adapter` a folder or None for the bare base."""

    name: str
    about: str
    prompt: str
    adapter: Path | None = None


def measure(
    engine: Engine,
    domain: Domain,
    tasks: Sequence[Task],
    arm: Arm,
    most: int,
    saved: Saved,
    progress: bool = False,
) -> list[Outcome]:
    """One outcome an item, in order; answers are at most `most` tokens, and saved as they come."""
    weights = sha256(arm.adapter / WEIGHTS) if arm.adapter else None
    if weights and arm.adapter and weights not in engine.adapters:
        engine.add(weights, arm.adapter)
    where = domain.name, engine.identity, engine.arithmetic
    asks = [
        Ask(key_of(*where, task.key, weights, said, most), said, weights, most)
        for task in tasks
        for said in [messages(arm.prompt, task.question)]
    ]
    # Answers of like length batch well; the worked solution tells how long. The longest go first.
    order = sorted(range(len(tasks)), key=lambda index: -len(domain.worked(tasks[index])))
    with tqdm(total=len(tasks), desc=arm.name, unit="item", disable=not progress, file=sys.stderr) as bar:
        missing = {asks[index].key for index in order if asks[index].key not in saved.answers}
        bar.update(len(tasks) - len(missing))
        answers = answer(engine, [asks[index] for index in order], saved, bar.update)
    outcomes = []
    for task, ask in zip(tasks, asks, strict=True):
        made = answers[ask.key]
        parsed = PARSERS[domain.parser](made.text)
        try:
            verdict = grade(domain, task, made.text, made.truncated)
        except Exception as error:  # a grader that trips over one answer must not lose the others
            parsed, verdict = f"{type(error).__name__}: {error}", Verdict.ERRORED
        outcomes.append(Outcome(task, verdict, parsed or made.text[-QUOTED:], made.tokens, made.seconds))
    if weights:
        engine.remove(weights)
    return outcomes


def checker(
    engine: Callable[[], Engine], domain: Domain, tasks: Sequence[Task], prompt: str, most: int
) -> Callable[[Path], Check]:
    """What training checks itself with: an adapter folder's answers to dev items. The engine is opened when needed."""
    opened: list[Engine] = []

    def check(folder: Path) -> Check:
        from router.engine.request import Request

        if not opened:
            opened.append(engine())
        one = opened[0]
        one.add("check", folder)
        made = one.generate([Request(messages(prompt, task.question), "check", most) for task in tasks])
        one.remove("check")
        verdicts = [grade(domain, task, g.text, g.truncated) for task, g in zip(tasks, made, strict=True)]
        texts = [g.text for g in made]
        sick = symptom(
            texts,
            [PARSERS[domain.parser](text) for text in texts],
            [task.answer for task in tasks],
            [domain.worked(task) for task in tasks],
        )
        return Check(verdicts.count(Verdict.RIGHT), len(tasks), sick)

    return check
