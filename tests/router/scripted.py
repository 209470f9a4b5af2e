"""A scripted engine, store and router, and a toy domain, to evaluate without a model."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from registry.card import Card
from registry.store import Version
from router.arms import Tools
from router.evaluate import run
from specialists import domain as domains
from specialists.domain import Task, Verdict, draw
from specialists.errors import BadInput


class Sums:
    """Additions, labelled odd or even; "big" has larger numbers, and verify looks at facts."""

    prompt, parser, max_new_tokens = "plain", "answer_line", 20

    def __init__(self, variant: str = "") -> None:
        self.name = "sums"
        self.offset = 1000 if variant == "big" else 0

    def task(self, split: str, index: int) -> Task:
        def make(rng: Any) -> Task:
            a, b = rng.randint(0, 99) + self.offset, rng.randint(0, 99)
            parity = "odd" if (a + b) % 2 else "even"
            sure = {"total": a + b}
            return Task(self.name, "sum", f"What is {a} + {b}?", str(a + b), f"{a}+{b}", "easy", parity, sure)

        return draw(self.name, split, index, make)

    def verify(self, task: Task, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.UNPARSED
        return Verdict.RIGHT if int(answer) == task.facts["total"] else Verdict.WRONG

    def worked(self, task: Task) -> str:
        return f"Answer: {task.answer}"

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        return {"zero": lambda task: "0", "hundred": lambda task: "100"}

    def exemplars(self) -> list[str]:
        return ["What is 1 + 1?"]


def total(question: str) -> int:
    a, b = question.removeprefix("What is ").removesuffix("?").split(" + ")
    return int(a) + int(b)


def right(question: str) -> tuple[str, bool]:
    return f"Adding up.\nAnswer: {total(question)}", False


@dataclass
class FakeEngine:
    """Specialists add up, base answers what `base` says. `stop_after` interrupts after so many answers."""

    base: Callable[[str], tuple[str, bool]] = lambda question: ("I cannot say.", False)
    specialist: Callable[[str], tuple[str, bool]] = right
    stop_after: int | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def add(self, name: str, folder: Path) -> None:
        self.adapters[name] = folder

    def generate(
        self, requests: Sequence[Any], *, on_done: Callable[[int, Any], None] | None = None
    ) -> list[Any]:
        self.batches.append(len(requests))
        made = []
        for index in reversed(range(len(requests))):  # answers come in any order
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            request = requests[index]
            assert request.adapter is None or request.adapter in self.adapters
            question = request.messages[-1]["content"]
            self.asked.append((question, request.adapter))
            text, truncated = (self.specialist if request.adapter else self.base)(question)
            made.append(SimpleNamespace(text=text, tokens=len(text.split()), truncated=truncated))
            assert on_done
            on_done(index, made[-1])
        return made[::-1]


class FakeStore:
    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names = folder, names

    def list(self) -> list[Version]:
        return [self.resolve(name) for name in self.names]

    def resolve(self, ref: str) -> Version:
        name, _, version = ref.partition("@")
        if name not in self.names:
            raise BadInput(f"There is no specialist {name!r}.")
        card = Card(
            name=name,
            version=version or "1.0.0",
            description="adds",
            base="toy",
            base_weights="unknown",
            adapter="0" * 64,
            prompt="plain",
            parser="answer_line",
            exemplars=("What is 1 + 1?",),
            max_new_tokens=20,
            report={"training": {"examples": 7}},
        )
        return Version(card, self.folder / name, "local")


class FakeRouter:
    def __init__(self, choose: Callable[[str], str | None]) -> None:
        self.choose = choose

    def route_many(self, questions: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(specialist=self.choose(question)) for question in questions]


@pytest.fixture(autouse=True)
def toy_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy_sums")
    module.Sums = Sums  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_sums", module)
    monkeypatch.setitem(domains.BUILT_IN, "sums", "toy_sums:Sums")


def evaluate(
    tmp_path: Path,
    engine: FakeEngine | None = None,
    choose: Callable[[str], str | None] = lambda question: "sums",
    check: Callable[[Version], object] = lambda version: None,
    identity: str = "toy@00",
    arithmetic: str = "",
    **options: Any,
) -> Any:
    store = FakeStore(tmp_path, "sums", "stranger")
    tools = Tools(engine or FakeEngine(), identity, store, lambda: FakeRouter(choose), check, arithmetic)
    return run(**({"names": ["sums"], "n": 20, "progress": False} | options), tools=tools)
