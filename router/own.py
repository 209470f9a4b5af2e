"""A user's own questions (JSON lines of question, answer and optionally specialist) as domains."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from specialists.domain import Domain, Task, Verdict
from specialists.errors import BadInput
from specialists.parsers import PARSERS

FIELDS = {"question", "answer", "specialist"}
KIND = "own"


@dataclass(frozen=True)
class Row:
    """One line of the file; `specialist` is None where the line leaves the choice to the router."""

    question: str
    answer: str
    specialist: str | None


def read(path: Path) -> list[Row]:
    """The questions of a file. Raises BadInput naming the first line that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise BadInput(f"Could not read questions from {path} ({reason}); give JSON lines.") from error
    rows = [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not rows:
        raise BadInput(f"{path} holds no questions; write one JSON object a line with question and answer.")
    return rows


def _row(line: str, where: str) -> Row:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where} is not JSON ({error}); write an object with question and answer.") from error
    if not isinstance(data, dict):
        raise BadInput(f"{where} is not an object; write one with question and answer.")
    unknown = sorted(data.keys() - FIELDS)
    if unknown:
        raise BadInput(f"{where} has an unknown field {unknown[0]!r}; use question, answer and specialist.")
    answer = data.get("answer")
    # A bare number is how many people write a numeric answer; True is an int but no answer anyone parses.
    if isinstance(answer, int | float) and not isinstance(answer, bool):
        answer = str(answer)
    question, specialist = data.get("question"), data.get("specialist")
    for name, value in (("question", question), ("answer", answer)):
        if not isinstance(value, str) or not value.strip():
            raise BadInput(f"{where} has no {name}; give it as text that is not empty.")
    if specialist is not None and (not isinstance(specialist, str) or not specialist.strip()):
        raise BadInput(f"{where} has a specialist that is not a name; leave it out to let the router choose.")
    return Row(str(question), str(answer), specialist)


@dataclass
class Own:
    """A domain whose items a user wrote: the specialist's parser, exact match, else `inner`'s verify.

    Expected answers go through the parser too, so that "yes" and "YES" are one answer.
    """

    name: str
    prompt: str
    parser: str
    max_new_tokens: int
    rows: Sequence[Row] = ()
    inner: Domain | None = None

    def task(self, split: str, index: int) -> Task:
        """Row `index`, whatever the split. Raises IndexError past the end."""
        row = self.rows[index]
        read = PARSERS[self.parser]
        answer = read(row.answer) or read(f"Answer: {row.answer}") or row.answer
        return Task(self.name, KIND, row.question, answer, row.question, KIND, answer)

    def verify(self, task: Task, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.UNPARSED
        if answer == task.answer:
            return Verdict.RIGHT
        if self.inner is None:
            return Verdict.WRONG
        try:
            return self.inner.verify(task, answer)
        except (LookupError, ValueError):  # it looks at facts that only generated items have
            return Verdict.WRONG

    def worked(self, task: Task) -> str:
        return f"Answer: {task.answer}"

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        return {}

    def exemplars(self) -> list[str]:
        return [row.question for row in self.rows]
