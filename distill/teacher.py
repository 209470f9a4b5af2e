"""Teachers: who writes the solutions that a student learns from, behind one protocol.

A teacher is Claude, a model on this machine, a model behind an OpenAI-compatible URL, or the domain's own solver. Every
answer of the first three is kept on disk under its whole request, and the same request is answered from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from router.kept import Kept
from router.ledger import Charge, Ledger, Usage
from specialists.domain import Domain, Task
from specialists.errors import BadInput
from specialists.paths import home
from specialists.prompts import messages

if TYPE_CHECKING:
    from router.claude import Claude
    from router.claude_requests import Request as ClaudeRequest
    from router.engine.engine import Engine

Done = Callable[[], object]


@dataclass(frozen=True)
class Prompt:
    """What a teacher is asked: a system prompt, a text, and the most tokens of the answer.

    task: the item that the text puts, where it puts one. schema: the JSON schema of the answer, where it is JSON.
    """

    system: str
    text: str
    max_tokens: int
    task: Task | None = None
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Reply:
    """What a teacher said. `ended` is end_turn for a whole answer, max_tokens for one cut short, refusal for none.

    usage: tokens of the call that made it. dollars: paid for it now, 0 when it came from disk.
    """

    text: str
    ended: str = "end_turn"
    usage: Usage = Usage()
    dollars: float = 0.0
    cached: bool = True

    @property
    def truncated(self) -> bool:
        return self.ended == "max_tokens"


class Teacher(Protocol):
    """`id` names the model in the lineage of what it taught; `writes`: it can do more than solve, such as a journal."""

    @property
    def id(self) -> str: ...
    @property
    def writes(self) -> bool: ...

    def ask(self, prompts: Sequence[Prompt], purpose: str, done: Done | None = None) -> list[Reply]:
        """A reply to each prompt, in order; `done` is called as each comes."""
        ...

    def estimate(self, prompts: Sequence[Prompt]) -> float:
        """The most that asking would cost, in dollars; what is kept costs nothing."""
        ...


class Solver:
    """The domain's own solver: it writes the worked solution of a task, and nothing else."""

    id = "solver"
    writes = False

    def __init__(self, domain: Domain) -> None:
        self.domain = domain

    def ask(self, prompts: Sequence[Prompt], purpose: str, done: Done | None = None) -> list[Reply]:
        """Raises BadInput for a prompt that puts no task."""
        if any(prompt.task is None for prompt in prompts):
            raise BadInput(
                "The solver only solves; choose --teacher local or claude for what has to be written."
            )
        replies = []
        for prompt in prompts:
            assert prompt.task
            replies.append(Reply(self.domain.worked(prompt.task)))
            if done:
                done()
        return replies

    def estimate(self, prompts: Sequence[Prompt]) -> float:
        return 0.0


class ClaudeTeacher:
    """A model of Anthropic's within a budget; `batch`: by message batches, at half the price and without hurry."""

    writes = True

    def __init__(self, claude: Claude, batch: bool = False) -> None:
        self.claude = claude
        self.batch = batch
        self.id = claude.model

    def ask(self, prompts: Sequence[Prompt], purpose: str, done: Done | None = None) -> list[Reply]:
        """Raises what Claude.ask does: OverBudget, BadInput, Unavailable."""
        requests = [_request(prompt) for prompt in prompts]
        if self.batch:
            from router.claude_batch import ask_batch

            seen = 0

            def came(count: int, all_: int) -> None:
                nonlocal seen
                for _ in range(count - seen):
                    if done:
                        done()
                seen = max(seen, count)

            said = ask_batch(self.claude, requests, purpose, came)
        else:
            said = self.claude.ask_many(requests, purpose, on_done=done)
        return [Reply(one.text, one.stop_reason, one.usage, one.dollars, one.cached) for one in said]

    def estimate(self, prompts: Sequence[Prompt]) -> float:
        return self.claude.estimate_many([_request(prompt) for prompt in prompts], batch=self.batch)


def _request(prompt: Prompt) -> ClaudeRequest:
    from router.claude_requests import Request

    schema = dict(prompt.schema) if prompt.schema else None
    return Request([{"role": "user", "content": prompt.text}], prompt.system, prompt.max_tokens, schema)


class Unpaid:
    """A teacher that costs no money: its answers are kept and its tokens written down, all by the same code."""

    writes = True
    id: str

    def __init__(self, run: str, ledger: Ledger | None = None) -> None:
        self.run = run
        self.ledger = ledger or Ledger()
        self.kept = Kept(home() / "teacher")

    def ask(self, prompts: Sequence[Prompt], purpose: str, done: Done | None = None) -> list[Reply]:
        """Kept answers first; the others are made, and kept one by one as they come."""
        requests = [self._request(prompt) for prompt in prompts]
        found = [_reply(self.kept.get(request)) for request in requests]
        for reply in found:
            if reply and done:
                done()
        missing = [index for index, reply in enumerate(found) if reply is None]

        def came(at: int, reply: Reply) -> None:
            index = missing[at]
            self.kept.put(requests[index], {"text": reply.text, "ended": reply.ended, **_tokens(reply.usage)})
            time = datetime.now(UTC).isoformat(timespec="seconds")
            self.ledger.add(Charge(time, self.run, self.id, purpose, reply.usage, 0.0))
            found[index] = reply
            if done:
                done()

        if missing:
            self._make([prompts[index] for index in missing], came)
        return [reply for reply in found if reply]

    def estimate(self, prompts: Sequence[Prompt]) -> float:
        return 0.0

    def _request(self, prompt: Prompt) -> dict[str, Any]:
        said = messages(prompt.system, prompt.text)
        return {"model": self.id, "messages": said, "max_tokens": prompt.max_tokens}

    def _make(self, prompts: Sequence[Prompt], came: Callable[[int, Reply], None]) -> None:
        raise NotImplementedError


def _tokens(usage: Usage) -> dict[str, int]:
    return {"input": usage.input, "output": usage.output}


def _reply(entry: Mapping[str, Any] | None) -> Reply | None:
    """A kept answer; None for what is none."""
    try:
        return entry and Reply(entry["text"], entry["ended"], Usage(entry["input"], entry["output"]))  # type: ignore[return-value]
    except (KeyError, TypeError):
        return None


class Local(Unpaid):
    """A model in this process: any base that the engine opens, with an adapter or without one."""

    def __init__(self, engine: Engine, run: str, adapter: Path | None = None) -> None:
        super().__init__(run)
        self.engine = engine
        self.id = f"{engine.base.id}@{engine.base.weights[:12]}"
        self.adapter: str | None = None
        if adapter:
            from registry.adapter import WEIGHTS
            from registry.version import sha256

            self.adapter = sha256(adapter / WEIGHTS)[:12]
            engine.add(self.adapter, adapter)
            self.id += f"+{self.adapter}"

    def _make(self, prompts: Sequence[Prompt], came: Callable[[int, Reply], None]) -> None:
        from router.engine.request import Request

        requests = [
            Request(messages(prompt.system, prompt.text), self.adapter, prompt.max_tokens)
            for prompt in prompts
        ]
        lengths = [len(self.engine.chat.prompt_ids(request.messages)) for request in requests]

        def done(index: int, made: Any) -> None:
            ended = "max_tokens" if made.truncated else "end_turn"
            came(index, Reply(made.text, ended, Usage(lengths[index], made.tokens), cached=False))

        self.engine.generate(requests, on_done=done)


def open_teacher(
    spec: str,
    domain: Domain,
    run: str,
    budget: float = 0.0,
    batch: bool = False,
    engine: Engine | None = None,
) -> Teacher:
    """The teacher that `spec` names: solver, local, local:BASE, claude, claude:MODEL, or http(s)://HOST/v1#MODEL.

    run: the name of its payments in the ledger. budget: dollars, for Claude. engine: the open one, for local.
    Raises BadInput for any other spec.
    """
    kind, _, rest = spec.partition(":")
    if spec == "solver":
        return Solver(domain)
    if kind == "claude":
        from router.claude import Claude

        return ClaudeTeacher(Claude(rest or None, budget, run=run), batch)
    if kind in ("http", "https"):
        from .teacher_url import Url

        return Url(spec, run)
    if kind == "local":
        from router.ask import open_engine

        return Local(engine if engine and not rest else open_engine(rest or None, "bf16"), run)
    raise BadInput(
        f"There is no teacher {spec!r}; use solver, local[:BASE], claude[:MODEL] or http://HOST/v1#MODEL."
    )
