"""From a question to an answer in one process: decide who answers, generate, and read the answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

from registry.store import Store, Version, verify

from .answer import Answer, Status
from .decision import AUTO, BASE, CLAUDE, Decision, checked
from .prompting import Turns, ask_base, ask_specialist, read, turns
from .remote import Server
from .settings import setting

if TYPE_CHECKING:
    from .claude import Claude
    from .engine.engine import Engine
    from .engine.request import Request
    from .route import Entry, Router

T = TypeVar("T")


def clean(question: str) -> str:
    """A question as text: no space around it, U+FFFD for bytes that were no text, no byte-order mark or NUL.

    Raises BadInput when it is empty or too long, without loading anything.
    """
    text = question.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return checked(text.replace("\0", "").removeprefix("\ufeff"))


def undecided(question: str, reason: str) -> Decision:
    """The decision on what is not a question."""
    return Decision(question, None, None, None, None, None, (), reason)


def later(call: Callable[[], T]) -> Future[T]:
    """Run a call in a daemon thread, which unlike an executor's does not hold up an interrupted process."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def open_router(store: Store, torch: bool = False) -> Router:
    """The router over everything registered. Loads the sentence encoder; `torch`: see load_encoder."""
    from .embed import load_encoder
    from .route import Router

    return Router([_entry(version) for version in store.list()], load_encoder(torch=torch))


def _entry(version: Version) -> Entry:
    from .route import Entry

    return Entry(version.card.name, version.card.version, version.card.exemplars)


def open_engine(base: str | None, precision: str | None = None) -> Engine:
    """The engine over a base (None: the configured or default one), whose weights it fetches if need be.

    precision: auto, bf16, int8 or int4; None: the setting `precision`, else auto. The setting `device` says where: auto
    (the GPU where there is one), cpu or cuda. Raises BadInput for another.
    """
    from .engine.base import find_base
    from .engine.engine import Engine

    precision = precision or setting("precision") or "auto"
    return Engine(find_base(base), precision=precision, device=setting("device"))


class Asker:
    """Answers questions, loading the encoder and the base once and only if they are needed.

    base: where the base weights are (see engine.base.find_base). precision: see open_engine. specialist: a name or
    name@version that answers whatever is asked, "base" for none, "auto" for the one that fits. fallback: "base",
    "claude" or "none", for questions that fit no specialist. max_new_tokens: in place of what the cards say.
    claude_model, budget (dollars): for that fallback only (see fallback.open_claude). server: one that routes and
    generates in place of encoder and base here, which are not loaded then.
    """

    def __init__(
        self,
        base: str | None = None,
        specialist: str = AUTO,
        fallback: str = BASE,
        max_new_tokens: int | None = None,
        store: Store | None = None,
        claude_model: str | None = None,
        budget: float | None = None,
        precision: str | None = None,
        server: Server | None = None,
    ) -> None:
        self.store = store or Store()
        self.fallback = fallback
        self.max_new_tokens = max_new_tokens
        self._base, self._precision = base, precision
        self._router: Future[Router] | None = None
        self._engine: Engine | Server | None = server
        self._notes: dict[str, str | None] = {}  # adapter -> note on its base, once it is loaded
        self.server = server
        self.routed = specialist == AUTO
        self._forced = None if specialist in (AUTO, BASE) else self.store.resolve(specialist)
        self.claude: Claude | None = None
        if fallback == CLAUDE or claude_model or budget is not None:
            from .fallback import open_claude

            self.claude = open_claude(fallback, claude_model, budget)

    def prepare(self, engine: bool = True) -> None:
        """Load what answering needs: the encoder in a thread, the base here, where Ctrl-C reaches it."""
        if self.server is not None:
            return
        if self.routed and self._router is None:
            self._router = later(lambda: open_router(self.store))
        if engine and not (self.routed and self.fallback != BASE):
            self._open()

    def decide(self, questions: Sequence[str]) -> list[Decision]:
        """Who answers each question. Raises BadInput for a question that `clean` refuses."""
        texts = [clean(question) for question in questions]
        if not self.routed:
            card = self._forced.card if self._forced else None
            named = (card.name, card.version) if card else (None, None)
            return [Decision.asked_for(text, *named) for text in texts]
        if self.server is not None:
            return self.server.route_many(texts)
        self.prepare(engine=False)
        assert self._router is not None
        return self._router.result().route_many(texts)

    def hands_on(self, decision: Decision) -> bool:
        """Whether no specialist fits, as opposed to none being wanted."""
        return self.routed and decision.abstained

    def answer(
        self,
        decisions: Sequence[Decision],
        on_token: Callable[[int, str], None] | None = None,
        history: Turns = (),
    ) -> list[Answer]:
        """Answer decided questions together, in one batch; those for Claude one after another.

        on_token gets the index of the decision and a piece of text generated here. history: earlier (question,
        answer) turns; no specialist sees them, because it was trained on single questions.
        """
        wanted = [i for i, decision in enumerate(decisions) if self._stays(decision)]
        # Claude first: a missing key or network then shows before minutes of generating.
        answers = [self._elsewhere(decision, history) for decision in decisions]
        if not wanted:
            return answers
        versions = [self._version(decisions[i]) for i in wanted]
        requests = [
            self._request(decisions[i].question, version, history)
            for i, version in zip(wanted, versions, strict=True)
        ]
        forward = (lambda index, piece: on_token(wanted[index], piece)) if on_token else None
        generations = self._open().generate(requests, forward)
        for i, version, generation in zip(wanted, versions, generations, strict=True):
            note = self._notes.get(version.ref) if version else None
            answers[i] = read(decisions[i], version, generation, (note,) if note else ())
        return answers

    def _stays(self, decision: Decision) -> bool:
        """Whether a question is answered on this machine."""
        return self.fallback == BASE or not self.hands_on(decision)

    def _elsewhere(self, decision: Decision, history: Turns) -> Answer:
        """Claude's answer to a question that does not stay; a refusal where nobody is asked (yet)."""
        if self.claude is None or self._stays(decision):
            return Answer(decision, Status.REFUSED)
        from .fallback import ask_claude

        conversation = turns(decision.question, history)
        return ask_claude(self.claude, decision, conversation, self.max_new_tokens)[0]

    def _version(self, decision: Decision) -> Version | None:
        if decision.specialist is None:
            return None
        return self.store.resolve(f"{decision.specialist}@{decision.version}")

    def _open(self) -> Engine | Server:
        if self._engine is None:
            self._engine = open_engine(self._base, self._precision)
        return self._engine

    def _request(self, question: str, version: Version | None, history: Turns) -> Request:
        if version is None:
            return ask_base(turns(question, history), self.max_new_tokens)
        if self.server is None:
            self._load(version)
        return ask_specialist(version, question, self.max_new_tokens, hinted=self.server is None)

    def _load(self, version: Version) -> None:
        """Put a version's adapter into the engine, once, when its bytes and its base are right."""
        from .engine.base import compatible

        if version.ref not in self._notes:
            engine = self._open()
            assert not isinstance(engine, Server)
            note = compatible(version.card.base, version.card.base_weights, engine.base)
            verify(version)
            engine.add(version.ref, version.path)
            self._notes[version.ref] = note
