"""The arms of an evaluation: who is asked what, and what came of it, in the same order for every arm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

from tqdm import tqdm

from registry.adapter import WEIGHTS
from registry.measures import ArmResult, Outcome, Paired
from registry.report import Report, best_heuristic, environment, majority, quote
from registry.version import Version, sha256
from specialists.domain import Domain, Task, Verdict, grade, items, load
from specialists.domain import names as domain_names
from specialists.errors import BadInput
from specialists.parsers import PARSERS
from specialists.prompts import PROMPTS, messages

from .own import KIND, Own, Row
from .saved import Answered, Ask, Generates, Saved, answer, key_of

PAIRED = ("specialist", "routed")  # arms compared to base, where it was run
UNNAMED = "questions"  # the report of questions whose specialist the router chose
TAIL = 200  # characters quoted of a text that holds no answer
OWN_TOKENS = 512  # of an answer to a user's question that no specialist fits


class Resolves(Protocol):
    """The store, as far as evaluation needs it."""

    def resolve(self, ref: str) -> Version: ...
    def list(self) -> list[Version]: ...


class Routes(Protocol):
    """The router, as far as evaluation needs it: decisions have a `specialist`, None where it abstains."""

    def route_many(self, questions: Sequence[str]) -> Sequence[Any]: ...


@dataclass(frozen=True)
class Tools:
    """What answers: the engine, the identity of its base weights, and the store.

    `router` opens the router when first needed; `check` raises for a version that must not run on this base.
    `arithmetic` says by what the engine multiplies, which rounds answers in its own way.
    """

    engine: Generates
    base: str
    store: Resolves
    router: Callable[[], Routes]
    check: Callable[[Version], object]
    arithmetic: str = ""


@dataclass(frozen=True)
class Answerer:
    """A specialist ready to be asked; `adapter` is the hash of its weights."""

    ref: str
    folder: Path
    adapter: str
    prompt: str
    max_new_tokens: int
    training: Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """One question; `ref` is its own specialist (None: none fits), `group` the report it counts in."""

    group: str
    task: Task
    domain: Domain
    ref: str | None


class Evaluation:
    """One evaluation: items, and who answers them. `adapters`: unregistered adapter folders by specialist."""

    def __init__(self, tools: Tools, split: str, adapters: Mapping[str, Path]) -> None:
        self.tools = tools
        self.split = split
        self.adapters = adapters
        self.items: list[Item] = []
        self._answerers: dict[str, Answerer] = {}
        self._router: Routes | None = None

    def answerer(self, ref: str) -> Answerer:
        """The specialist that a ref means. Raises BadInput when there is none."""
        if ref not in self._answerers:
            folder = self.adapters.get(ref)
            self._answerers[ref] = _unregistered(ref, folder) if folder else _registered(self.tools, ref)
        return self._answerers[ref]

    def route(self, questions: Sequence[str]) -> list[str | None]:
        """The specialist's name for each question, None where the router abstains."""
        self._router = self._router or self.tools.router()
        return [decision.specialist for decision in self._router.route_many(questions)]

    def add_domain(self, name: str, n: int) -> None:
        """The first n items of the split of a domain, "NAME[:VARIANT][@VERSION]"."""
        domain = load(name.partition("@")[0])
        self.items += [Item(name, task, domain, specialist_of(name)) for task in items(domain, self.split, n)]

    def add_own(self, rows: Sequence[Row], named: str | None) -> None:
        """A user's questions: under the specialist they name, else `named`, else the router's choice."""
        unnamed = [row.question for row in rows if not (row.specialist or named)]
        chosen = iter(self.route(unnamed) if unnamed else [])
        for row in rows:
            given = row.specialist or named
            ref = given or next(chosen)
            own = self._own(row, ref)
            self.items.append(Item(given or UNNAMED, own.task(self.split, 0), own, ref))

    def _own(self, row: Row, ref: str | None) -> Own:
        if ref is None:
            return Own(UNNAMED, "plain", "answer_line", OWN_TOKENS, [row])
        name = ref.partition("@")[0]
        inner = load(name) if name in domain_names() else None
        card = inner if inner and name in self.adapters else self.tools.store.resolve(ref).card
        return Own(name, card.prompt, card.parser, card.max_new_tokens, [row], inner)

    def asks(self, arm: str) -> list[Asked]:
        """Every item with what is asked of whom, in the order of answering."""
        order = list(range(len(self.items)))
        refs = [item.ref for item in self.items]
        if arm == "routed":
            Random(arm).shuffle(order)
            names = self.route([self.items[index].task.question for index in order])
            for index, name in zip(order, names, strict=True):
                # The router names no version: an item's own specialist answers in the evaluated version.
                refs[index] = refs[index] if name == _name(refs[index]) else name
        else:
            # Answers of like length batch well; the worked solution tells how long. The longest go first.
            lengths = [len(item.domain.worked(item.task)) for item in self.items]
            order.sort(key=lambda index: -lengths[index])
        return [
            Asked(index, self._ask(arm, self.items[index], refs[index]), refs[index] != self.items[index].ref)
            for index in order
        ]

    def _ask(self, arm: str, item: Item, ref: str | None) -> Ask | None:
        """What is asked of the specialist, or of base under its prompt; None when nobody answers."""
        if ref is None and arm != "base":
            return None
        try:
            who = self.answerer(ref) if ref else None
        except BadInput:
            if arm != "base":
                raise
            who = None  # a domain without a specialist as yet: base can be measured under the domain's prompt
        prompt = who.prompt if who else PROMPTS[item.domain.prompt]
        budget = who.max_new_tokens if who else item.domain.max_new_tokens
        if arm == "base":
            who = None
        said = messages(prompt, item.task.question)
        weights = who.adapter if who else None
        where = (_name(item.group), self.split, item.task.key)
        # Not of the arm: what router and specialist are asked alike is answered once.
        key = key_of(*where, self.tools.base, self.tools.arithmetic, weights, said, budget)
        return Ask(key, said, who.ref if who else None, budget)

    def measure(self, arm: str, saved: Saved, progress: bool) -> list[Outcome]:
        """One outcome an item, in the order of the items."""
        asked = self.asks(arm)
        wanted = [one.ask for one in asked if one.ask]
        for who in self._answerers.values():
            if any(ask.adapter == who.ref for ask in wanted):
                self.tools.engine.add(who.ref, who.folder)
        done = sum(ask.key in saved.answers for ask in wanted)
        with tqdm(total=len(wanted), initial=done, unit="item", desc=arm, disable=not progress) as bar:
            answers = answer(self.tools.engine, wanted, saved, bar.update)
        outcomes = {one.index: _graded(self.items[one.index], one, answers) for one in asked}
        return [outcomes[index] for index in range(len(self.items))]

    def reports(self, results: Mapping[str, list[Outcome]], **facts: Any) -> list[Report]:
        """A report for each group, from the outcomes of each arm."""
        surroundings = environment()
        found = []
        for group in dict.fromkeys(item.group for item in self.items):
            mine = [index for index, item in enumerate(self.items) if item.group == group]
            arms = {arm: [outcomes[index] for index in mine] for arm, outcomes in results.items()}
            tasks = [self.items[index].task for index in mine]
            first = self.items[mine[0]]
            who = self._answerers.get(first.ref) if first.ref and group != UNNAMED else None
            report = Report(
                domain=group,
                split=self.split,
                n=len(mine),
                arms={arm: ArmResult.of(outcomes) for arm, outcomes in arms.items()},
                majority=majority(first.domain, tasks, tasks if self.split == KIND else None),
                heuristic=best_heuristic(first.domain, tasks),
                mcnemar={
                    arm: Paired.of(arms[arm], arms["base"])
                    for arm in arms
                    if arm in PAIRED and "base" in arms
                },
                specialist=who.ref if who else None,
                base=self.tools.base,
                errors=quote(next(iter(arms.values()))),
                training=who.training if who else {},
                environment=surroundings,
                **facts,
            )
            found.append(report)
        return found


@dataclass(frozen=True)
class Asked:
    """What becomes of the item at `index` in an arm: `ask` is None when the router refused it."""

    index: int
    ask: Ask | None
    misrouted: bool


def specialist_of(name: str) -> str:
    """The specialist that answers for a domain: "scheduling:half-hour@1.0.0" -> "scheduling@1.0.0"."""
    domain, at, version = name.partition("@")
    return domain.partition(":")[0] + at + version


def _name(ref: str | None) -> str | None:
    return ref.partition("@")[0] if ref else None


def _registered(tools: Tools, ref: str) -> Answerer:
    version = tools.store.resolve(ref)
    tools.check(version)
    card = version.card
    prompt = version.prompt_text()
    training = (card.report or {}).get("training", {})
    return Answerer(card.ref, version.path, card.adapter, prompt, card.max_new_tokens, training)


def _unregistered(name: str, folder: Path) -> Answerer:
    if not (folder / WEIGHTS).is_file():
        raise BadInput(f"There is no {WEIGHTS} in {folder}; give a PEFT adapter folder.")
    domain = load(name)
    digest = sha256(folder / WEIGHTS)
    prompt = PROMPTS[domain.prompt]
    return Answerer(f"{name}@{digest[:12]}", folder, digest, prompt, domain.max_new_tokens, {})


def _graded(item: Item, asked: Asked, answers: Mapping[str, Answered]) -> Outcome:
    if asked.ask is None:
        return Outcome(item.task, None)
    said = answers[asked.ask.key]
    parsed = PARSERS[item.domain.parser](said.text)
    try:
        verdict = grade(item.domain, item.task, said.text, said.truncated)
    except Exception as error:  # a grader that trips over one answer must not lose the others
        parsed, verdict = f"{type(error).__name__}: {error}", Verdict.ERRORED
    got = parsed or said.text[-TAIL:]
    return Outcome(item.task, verdict, got, said.tokens, said.seconds, asked.misrouted)
