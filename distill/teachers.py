"""The teachers: Claude, a model on this machine, a model behind an OpenAI-compatible URL, or the domain's own solver.

Every answer of the first three is kept on disk under its whole request, and the same request is answered from there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from router.ledger import Usage
from specialists.domain import Domain
from specialists.errors import BadInput
from specialists.prompts import messages

from .teacher import Done, Prompt, Reply, Teacher, Unpaid

if TYPE_CHECKING:
    from router.claude import Claude
    from router.claude_requests import Request as ClaudeRequest
    from router.engine.engine import Engine


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
