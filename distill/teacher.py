"""What a teacher is: it writes the solutions that a student learns from. teachers.py has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol

from router.kept import Kept
from router.ledger import Charge, Ledger, Usage
from specialists.domain import Task
from specialists.paths import home
from specialists.prompts import messages

if TYPE_CHECKING:
    pass

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
