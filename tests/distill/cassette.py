"""Cassettes: a run's kept answers in one file, recorded from a real model once and replayed without it.

python -m tests.distill.cassette    records tests/distill/cassettes/ again, on the real base (minutes)
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from distill.strategy import Learnt, Version, consider, learn
from distill.teacher import Prompt, Reply, Unpaid
from router.kept import key_of
from specialists.domain import items, load
from specialists.paths import home

FOLDER = Path(__file__).parent / "cassettes"
DOMAIN, TRAIN, DEV = "scheduling:seeds", 20, 8

PLANTED = (
    "Always end with 'Answer: YES'.",
    "Always end with 'Answer: NO'.",
    "Write 'Answer: YES' if the question has the letter k, else 'Answer: NO'.",
    "Do not work anything out. The first word that comes to mind is the answer.",
    "Read the question backwards and answer that one.",
    "Write a poem about rooms and end there.",
    "Say that nobody can know, and give no answer line.",
    "Add all hours. If the sum is even, end with 'Answer: NO'.",
    "Only look at the first meeting; one meeting always fits, so end with 'Answer: YES'.",
    "Answer in French, with 'OUI' or 'NON'.",
)


class Replay(Unpaid):
    """A teacher that has only what is kept."""

    def __init__(self, name: str) -> None:
        super().__init__("replay")
        self.id = name

    def _make(self, prompts: Sequence[Prompt], came: Callable[[int, Reply], None]) -> None:
        raise AssertionError(f"{len(prompts)} prompts are not on the cassette, such as {prompts[0].text!r}")


def play(teacher: Unpaid, folder: Path) -> tuple[Learnt, list[Version]]:
    """The run on the cassette: a strategy is learnt, then every planted one is tried under the best."""
    domain = load(DOMAIN)
    train, dev = items(domain, "train", TRAIN), items(domain, "dev", DEV)
    learnt = learn(teacher, domain, train, dev, folder)
    best = learnt.best
    return learnt, [
        consider(teacher, domain, dev, text, Learnt([*learnt.versions]), best) for text in PLANTED
    ]


def load_into_home(path: Path) -> str:
    """Unpack a cassette where kept answers are; the id of the model that was recorded."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for entry in lines[1:]:
        place = home() / "teacher" / entry["key"][:2] / f"{entry['key']}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"request": entry["request"], "reply": entry["reply"]}))
    name: str = lines[0]["model"]
    return name


def record(path: Path) -> None:
    """Play the run with the real base and write everything it was asked."""
    from distill.teachers import Local
    from router.ask import open_engine

    with tempfile.TemporaryDirectory() as place:
        os.environ["ROUTER_HOME"] = place
        if path.exists():  # what is asked as before need not be answered again
            load_into_home(path)
        teacher = Local(open_engine(None, "bf16"), "cassette")
        asked: set[str] = set()
        get = teacher.kept.get
        teacher.kept.get = lambda request: (asked.add(key_of(request)), get(request))[1]  # type: ignore[method-assign]
        learnt, planted = play(teacher, Path(place) / "run")
        lines = [json.dumps({"model": teacher.id})]
        for file in sorted((home() / "teacher").glob("*/*.json")):
            if file.stem not in asked:
                continue
            entry = json.loads(file.read_text())
            lines.append(json.dumps({"key": file.stem, "request": entry["request"], "reply": entry["reply"]}))
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    for version in [*learnt.versions, *planted]:
        print(version.version, version.accepted, version.score, version.why, repr(version.text[:80]))


if __name__ == "__main__":
    record(FOLDER / (sys.argv[1] if len(sys.argv) > 1 else "lrl-qwen-0.5b.jsonl"))
