"""Teachers for tests: one that solves as well as its strategy is good, and writes what it is told to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256

from distill.solve import system_prompt
from distill.teacher import Done, Prompt, Reply
from router.ledger import Usage
from specialists.domain import Domain, Task

GOOD = "Sweep over the day and count the rooms."
BAD = (
    "Always answer NO.",
    "Always answer YES.",
    "Answer with the number of meetings.",
    "Do not think; the first word that comes to mind is right.",
    "Read the question backwards and answer that one.",
    "Write a poem about rooms.",
    "Say that you cannot know.",
    "Compare only the first two meetings.",
    "Round every time to the nearest day.",
    "Answer in French, without an answer line.",
)


def share(strategy: str) -> int:
    """Of ten problems, how many such a teacher solves under a strategy."""
    return 8 if GOOD in strategy else 2 if any(bad in strategy for bad in BAD) else 5


class Apt:
    """Solves `share` of its tasks, the same ones every time; writes the strategies of `writes` one after another."""

    id = "apt"
    writes = True

    def __init__(self, domain: Domain, strategies: Sequence[str] = (GOOD,)) -> None:
        self.domain = domain
        self.strategies = list(strategies)
        self.asked: list[tuple[str, Prompt]] = []

    def ask(self, prompts: Sequence[Prompt], purpose: str, done: Done | None = None) -> list[Reply]:
        self.asked += [(purpose, prompt) for prompt in prompts]
        return [self._one(prompt, purpose) for prompt in prompts]

    def estimate(self, prompts: Sequence[Prompt]) -> float:
        return 0.0

    def _one(self, prompt: Prompt, purpose: str) -> Reply:
        usage = Usage(len(prompt.text), 10)
        if purpose == "strategy text":
            return Reply(self.strategies.pop(0), usage=usage)
        if purpose == "strategy journal":
            marks = [{"id": "n1", "effect": "helpful"}] if "n1 (" in prompt.text else []
            notes = [f"Note {sha256(prompt.text.encode()).hexdigest()[:6]}: write every time down."]
            return Reply(f"Here it is:\n{json.dumps({'marks': marks, 'notes': notes})}", usage=usage)
        assert prompt.task
        return Reply(solution(self.domain, prompt.task, prompt.system), usage=usage)


def solution(domain: Domain, task: Task, system: str) -> str:
    """A solution that is right or wrong by the task and the strategy in the system prompt."""
    luck = int(sha256(task.key.encode()).hexdigest(), 16) % 10
    if luck < share(system.removeprefix(system_prompt(domain))):
        return domain.worked(task)
    wrong = {"YES": "NO", "NO": "YES"}.get(task.answer, "none")
    return f"I guess.\nAnswer: {wrong}"
