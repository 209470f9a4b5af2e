"""Generated answers on disk, so that a long evaluation which is stopped or repeated goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from specialists.errors import Unavailable

CHUNK = 16  # answers between two saves; a kill -9 loses at most these and those under way


class Generation(Protocol):
    """What the engine returns for a request, as far as evaluation needs it."""

    @property
    def text(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def truncated(self) -> bool: ...


class Generates(Protocol):
    """The engine, as far as evaluation needs it."""

    def add(self, name: str, folder: Path) -> Any: ...

    def generate(
        self, requests: Sequence[Any], *, on_done: Callable[[int, Any], None] | None = None
    ) -> Sequence[Generation]: ...


@dataclass(frozen=True)
class Ask:
    """One generation: `key` names everything it depends on, the rest is what the engine's Request holds."""

    key: str
    messages: list[dict[str, str]]
    adapter: str | None
    max_new_tokens: int
    hints: Sequence[str] = ()
    deadline: float | None = None


@dataclass(frozen=True)
class Answered:
    """A generation and its share of the wall time, in seconds."""

    text: str
    tokens: int
    truncated: bool
    seconds: float


def key_of(*parts: object) -> str:
    """A hash of everything an answer depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Saved:
    """Answers by key, in a file of JSON lines that is only ever appended to; the last line of a key wins.

    A line cut short by a crash is passed over. `fresh` forgets what is there, without deleting it for others.
    Raises Unavailable when the file cannot be written.
    """

    def __init__(self, path: Path, fresh: bool = False) -> None:
        self.path = path
        self.answers: dict[str, Answered] = {}
        self.keep({})  # an unwritable folder shows before hours of work, not after
        if fresh:
            return
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = json.loads(line)
                key = record.pop("key")
                self.answers[key] = Answered(**record)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue

    def keep(self, answers: dict[str, Answered]) -> None:
        """Append answers and remember them."""
        # The leading line end closes a line that an earlier crash cut short.
        lines = [json.dumps({"key": key, **asdict(answer)}) for key, answer in answers.items()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                if lines:
                    file.write("\n" + "\n".join(lines) + "\n")
        except OSError as error:
            raise Unavailable(
                f"Could not save answers to {self.path} ({error.strerror}); free space, or set ROUTER_CACHE."
            ) from error
        self.answers |= answers


def answer(
    engine: Generates,
    asks: Sequence[Ask],
    saved: Saved,
    on_done: Callable[[], object],
) -> dict[str, Answered]:
    """Answers to all asks by key; generates the missing ones, saving as they come.

    The wall time between two saves is shared among its answers by their tokens: a batch answers them together.
    Stopped in the middle, it saves what was finished.
    """
    missing = list({ask.key: ask for ask in asks if ask.key not in saved.answers}.values())
    if not missing:
        return {ask.key: saved.answers[ask.key] for ask in asks}
    finished: dict[str, Generation] = {}
    begun = perf_counter()

    def save() -> None:
        nonlocal begun
        # One more than the tokens: an answer that ends at once took time as well.
        weights = {key: generation.tokens + 1 for key, generation in finished.items()}
        share = (perf_counter() - begun) / max(1, sum(weights.values()))
        saved.keep(
            {
                key: Answered(made.text, made.tokens, made.truncated, share * weights[key])
                for key, made in finished.items()
            }
        )
        finished.clear()
        begun = perf_counter()

    def done(index: int, generation: Generation) -> None:
        finished[missing[index].key] = generation
        on_done()
        if len(finished) >= CHUNK:
            save()

    try:
        engine.generate(missing, on_done=done)
    finally:
        save()
    return {ask.key: saved.answers[ask.key] for ask in asks}
