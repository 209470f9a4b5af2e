"""Linguistic reinforcement learning: a teacher solves, keeps a journal, and turns it into a strategy that must prove
itself.

A new strategy is kept only if the teacher solves more of a held-out dev split with it than with the one it came from,
and more than luck gives: a small model gains two of eight items by a senseless rule. GEPA (Agrawal et al. 2025) asks
for the former, and keeps a small Pareto set as is done here: a strategy that alone solves some items stays a parent,
though another solves more. Strategies are versioned texts; each knows its parent and why it was taken or not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from difflib import unified_diff
from pathlib import Path
from typing import Any

from registry.measures import mcnemar_p
from specialists.domain import Domain, Task
from specialists.errors import BadInput, Damaged
from specialists.paths import write_atomic

from .guard import ONE_ANSWER, USUAL
from .journal import Journal, Note
from .solve import Attempt, solve
from .teacher import Prompt, Teacher

BATCH = 10  # problems between two entries in the journal
CHANCE = (
    0.1  # of so much gain on dev items by luck (one-sided exact sign test): 4 gained and none lost, 6 and 1
)
MOST_PARENTS = 4  # strategies in the Pareto set
STRATEGY_TOKENS = 1200
STRATEGY_CHARACTERS = 6000

SYSTEM = (
    "You write strategies: short methods in numbered steps, which someone who never saw the problem can follow by hand "
    "and without judgement. Every step writes down what it needs before it decides anything."
)
ASK = (
    "Rewrite the strategy below with what the notes say. Keep what works, leave out what did harm, name no single "
    "problem, and keep to at most 400 words. Reply with the strategy alone.\n\n## Kind of problem\n{example}\n\n"
    "## Strategy\n{strategy}\n\n## Notes\n{notes}"
)


@dataclass(frozen=True)
class Version:
    """A strategy. `right`: for each dev item, whether the teacher solved it so. `why`: it was accepted, or not."""

    version: int
    text: str
    parent: int | None
    right: tuple[bool, ...]
    accepted: bool
    why: str

    @property
    def score(self) -> int:
        return sum(self.right)


@dataclass
class Learnt:
    """Where learning is: all versions that ever were, the journal, and how many batches are done."""

    versions: list[Version] = field(default_factory=list)
    journal: Journal = Journal()
    batches: int = 0

    def front(self) -> list[Version]:
        """The accepted versions that no other dominates on dev items, the most right first; at most MOST_PARENTS."""
        kept = [version for version in self.versions if version.accepted]
        free = [one for one in kept if not any(_dominates(other, one) for other in kept)]
        return sorted(free, key=lambda one: (-one.score, len(one.text), one.version))[:MOST_PARENTS]

    @property
    def best(self) -> Version:
        return self.front()[0]

    def diff(self, version: Version) -> str:
        """The unified diff from the version's parent."""
        if version.parent is None:
            return ""
        parent = self.versions[version.parent]
        names = (f"v{parent.version}", f"v{version.version}")
        return "\n".join(
            unified_diff(parent.text.splitlines(), version.text.splitlines(), *names, lineterm="")
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Learnt:
        """Raises Damaged for anything but what to_json gives."""
        try:
            data: dict[str, Any] = json.loads(text)
            versions = [Version(**{**one, "right": tuple(one["right"])}) for one in data["versions"]]
            journal = Journal(
                tuple(Note(**note) for note in data["journal"]["notes"]), data["journal"]["made"]
            )
            return cls(versions, journal, data["batches"])
        except (ValueError, KeyError, TypeError) as error:
            raise Damaged(
                f"The strategy file cannot be read ({error!r}); delete it to learn again."
            ) from error


def _dominates(one: Version, other: Version) -> bool:
    """Whether one solves all that the other does, and more (or the same, as the earlier of the two)."""
    covers = all(mine or not theirs for mine, theirs in zip(one.right, other.right, strict=True))
    return covers and (one.score, -one.version) > (other.score, -other.version)


def judge(parent: Version, attempts: Sequence[Attempt]) -> tuple[bool, str]:
    """Whether a new strategy is accepted, and why, from the teacher's attempts at the dev items with it."""
    right = tuple(one.right for one in attempts)
    pairs = list(zip(right, parent.right, strict=True))
    gained, lost = pairs.count((True, False)), pairs.count((False, True))
    counts = f"{sum(right)} of {len(right)} dev items right, the parent {parent.score}"
    top, count = Counter(one.answer for one in attempts).most_common(1)[0]
    usual = Counter(one.task.answer for one in attempts).most_common(1)[0][1]
    same = count == len(attempts) > usual or (
        count >= ONE_ANSWER * len(attempts) and usual <= USUAL * len(attempts)
    )
    if same and len(attempts) > 1:
        return False, f"answers {top!r} to {count} of {len(attempts)} dev items; {counts}"
    chance = mcnemar_p(gained, lost) / 2 if gained > lost else 1.0
    if gained <= lost:
        return False, f"does not help: {counts}"
    if chance > CHANCE:
        return False, f"may have helped by luck: {counts} (gained {gained}, lost {lost}, p = {chance:.2g})"
    return True, f"helps: {counts} (gained {gained}, lost {lost}, p = {chance:.2g})"


def consider(
    teacher: Teacher, domain: Domain, dev: Sequence[Task], text: str, learnt: Learnt, parent: Version
) -> Version:
    """A new version of `text` under `parent`: tried on the dev items, judged, and added to `learnt`."""
    attempts = solve(teacher, domain, dev, text, "strategy dev")
    accepted, why = judge(parent, attempts)
    right = tuple(one.right for one in attempts)
    version = Version(len(learnt.versions), text, parent.version, right, accepted, why)
    learnt.versions.append(version)
    return version


def learn(
    teacher: Teacher,
    domain: Domain,
    train: Sequence[Task],
    dev: Sequence[Task],
    folder: Path,
    say: Callable[[str], object] = lambda _: None,
) -> Learnt:
    """Learn a strategy from `train`, in batches of ten, proved on `dev`; saved in `folder` after every batch.

    folder: strategy.json, every version as vNN.md, and the best as strategy.md. Going on from there asks nothing twice.
    Raises BadInput for a teacher that cannot write or no dev items.
    """
    if not teacher.writes:
        raise BadInput(f"The teacher {teacher.id} cannot write a journal; choose --teacher local or claude.")
    if not dev:
        raise BadInput("A strategy is accepted by its dev items; allow at least one.")
    file = folder / "strategy.json"
    learnt = Learnt.from_json(file.read_text(encoding="utf-8")) if file.exists() else Learnt()
    if not learnt.versions:
        attempts = solve(teacher, domain, dev, "", "strategy dev")
        right = tuple(one.right for one in attempts)
        learnt.versions.append(Version(0, "", None, right, True, f"none yet: {sum(right)} of {len(right)}"))
        _save(learnt, folder)
    batches = [train[at : at + BATCH] for at in range(0, len(train), BATCH)]
    for at in range(learnt.batches, len(batches)):
        front = learnt.front()
        parent = front[at % len(front)]
        tried = solve(teacher, domain, batches[at], parent.text, "strategy train")
        (reflection,) = teacher.ask([learnt.journal.prompt(tried)], "strategy journal")
        learnt.journal = learnt.journal.after(reflection.text)
        prompt = revision(batches[at][0], parent.text, learnt.journal)
        (reply,) = teacher.ask([prompt], "strategy text")
        text = reply.text.strip()[:STRATEGY_CHARACTERS]
        if reply.ended == "end_turn" and text and text not in [version.text for version in learnt.versions]:
            version = consider(teacher, domain, dev, text, learnt, parent)
            verb = "accepted" if version.accepted else "rolled back"
            say(f"batch {at + 1} of {len(batches)}: v{version.version} {verb}, {version.why}")
        else:
            say(f"batch {at + 1} of {len(batches)}: no new strategy ({reply.ended})")
        learnt.batches = at + 1
        _save(learnt, folder)
    return learnt


def revision(example: Task, strategy: str, journal: Journal) -> Prompt:
    """What the teacher is asked for a new strategy."""
    text = ASK.format(example=example.question, strategy=strategy or "(none yet)", notes=journal.text())
    return Prompt(SYSTEM, text, STRATEGY_TOKENS)


def _save(learnt: Learnt, folder: Path) -> None:
    for version in learnt.versions:
        path = folder / f"v{version.version:02d}.md"
        if not path.exists():
            write_atomic(path, (version.text + "\n").encode())
    write_atomic(folder / "strategy.md", (learnt.best.text + "\n").encode())
    write_atomic(folder / "strategy.json", learnt.to_json().encode())
