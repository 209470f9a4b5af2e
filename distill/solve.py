"""Tasks put to a teacher under a strategy, and what came of them, graded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from registry.measures import Outcome
from specialists.domain import Domain, Task, Verdict, grade
from specialists.parsers import PARSERS
from specialists.prompts import PROMPTS

from .teacher import Done, Prompt, Reply, Teacher

LEAST_TOKENS = 1024  # of a teacher's solution, which may be wordier than the domain's own


@dataclass(frozen=True)
class Attempt:
    """A teacher's solution of a task; `answer` is what was parsed from it. A refusal is ERRORED."""

    task: Task
    reply: Reply
    answer: str | None
    verdict: Verdict

    @property
    def right(self) -> bool:
        return self.verdict is Verdict.RIGHT

    @property
    def outcome(self) -> Outcome:
        """The attempt as evaluation counts it."""
        usage = self.reply.usage
        return Outcome(self.task, self.verdict, self.answer or self.reply.text[-200:], usage.output)


def system_prompt(domain: Domain, strategy: str = "") -> str:
    """The domain's own prompt, with a strategy under it."""
    prompt = PROMPTS[domain.prompt]
    return f"{prompt}\n\nFollow this strategy:\n{strategy.strip()}" if strategy.strip() else prompt


def prompts(domain: Domain, tasks: Sequence[Task], strategy: str = "") -> list[Prompt]:
    """One prompt a task."""
    system = system_prompt(domain, strategy)
    return [Prompt(system, task.question, most_tokens(domain), task) for task in tasks]


def most_tokens(domain: Domain) -> int:
    """How far a teacher may write in a solution."""
    return max(LEAST_TOKENS, 2 * domain.max_new_tokens)


def solve(
    teacher: Teacher,
    domain: Domain,
    tasks: Sequence[Task],
    strategy: str,
    purpose: str,
    done: Done | None = None,
) -> list[Attempt]:
    """The teacher's graded solutions, in the order of the tasks."""
    replies = teacher.ask(prompts(domain, tasks, strategy), purpose, done)
    return [attempt(domain, task, reply) for task, reply in zip(tasks, replies, strict=True)]


def attempt(domain: Domain, task: Task, reply: Reply) -> Attempt:
    """A reply, graded."""
    if reply.ended == "refusal":
        return Attempt(task, reply, None, Verdict.ERRORED)
    answer = PARSERS[domain.parser](reply.text)
    return Attempt(task, reply, answer, grade(domain, task, reply.text, reply.truncated))
