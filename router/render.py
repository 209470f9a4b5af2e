"""What people see on the terminal: the answer on stdout, everything about it on stderr."""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from specialists.errors import BadInput

if TYPE_CHECKING:
    from .answer import Answer
    from .decision import Decision

BATCH = 16  # lines answered together: decoding is bound by memory, so sixteen cost little more than one
PATIENCE = 0.02  # seconds to wait for one more line of a batch
ENOUGH = 1 << 20  # bytes: more than any question that is accepted, and no endless stream fills the memory


def safe(text: str) -> str:
    """Text without control characters that could steer a terminal."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


def note(text: str) -> None:
    """A remark on stderr."""
    click.echo(f"router: {safe(text)}", err=True)


def dim(text: str, nl: bool = True) -> None:
    """Text on stderr that is beside the point."""
    click.echo(click.style(safe(text), dim=True), err=True, nl=nl)


def print_json(value: Any) -> None:
    """One line of JSON on stdout; ASCII, so that no terminal encoding can spoil it."""
    click.echo(json.dumps(value, allow_nan=False))


def decode(data: bytes) -> str:
    """Bytes from a pipe as text: UTF-8, or UTF-16 with its mark as some shells write it; never an error."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")


def question_from(words: tuple[str, ...]) -> str:
    """The question given as arguments, or else the whole of standard input."""
    if words:
        return " ".join(words)
    if sys.stdin is None or sys.stdin.isatty():
        raise BadInput("There is no question; give it as an argument or on standard input.")
    return decode(sys.stdin.buffer.read(ENOUGH))


def batches() -> Iterator[list[str]]:
    """Lines of standard input, as many as are there up to BATCH: a slow writer is answered as it goes."""
    lines: queue.Queue[bytes | None] = queue.Queue(maxsize=4 * BATCH)
    stdin = sys.stdin.buffer

    def read() -> None:
        for line in stdin:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    while (line := lines.get()) is not None:
        batch = [line]
        while len(batch) < BATCH:
            try:
                more = lines.get(timeout=PATIENCE)
            except queue.Empty:
                break
            if more is None:
                lines.put(None)  # for the outer loop; the reader is done, so there is room
                break
            batch.append(more)
        yield [decode(line) for line in batch]


def route_line(decision: Decision) -> str:
    """Such as `scheduling 0.97 (next: dates 0.02)`, or `none (closest: dates 0.31)`."""
    name = decision.specialist or "none"
    if decision.specialist and decision.confidence is not None:
        name += f" {decision.confidence:.2f}"
    if decision.runner_up is None:
        return name
    other, confidence = decision.runner_up
    return f"{name} ({'next' if decision.specialist else 'closest'}: {other} {confidence:.2f})"


def explain_route(decision: Decision) -> None:
    """The decision and what it rests on."""
    click.echo(click.style(safe(route_line(decision)), bold=True), err=True)
    if decision.specialist:
        dim(f"  version  {decision.specialist}@{decision.version}")
    dim(f"  because  {decision.reason}")
    for near in decision.exemplars:
        dim(f"  near     {near.similarity:.2f} {near.text} ({near.specialist})")


def explain_answer(answer: Answer) -> None:
    """What generating took."""
    rate = answer.tokens / answer.seconds if answer.seconds else 0.0
    dim(
        f"  {answer.tokens} tokens in {answer.seconds:.1f} s ({rate:.0f} tokens/s), "
        f"the first after {answer.first_token_seconds:.1f} s"
    )


def explain_bill(model: str, dollars: float) -> None:
    """What a model elsewhere cost."""
    from .ledger import money

    note(f"{model} cost {money(dollars)}." if dollars else f"{model} cost nothing: its answer was kept.")


class Page:
    """Prints one answer while it is generated.

    A specialist's worked steps go to stderr (on a terminal, or if asked to explain) and its answer to stdout;
    the base has no steps, so that its text goes straight to stdout.
    """

    def __init__(self, decision: Decision, explain: bool) -> None:
        self._base = decision.specialist is None
        self._steps = explain or sys.stderr.isatty()
        self._written = False

    def token(self, _index: int, piece: str) -> None:
        """A piece of text as it is generated."""
        if self._base:
            click.echo(safe(piece), nl=False)
        elif self._steps:
            dim(piece, nl=False)
        self._written = True

    def end(self, answer: Answer) -> None:
        """Whatever the tokens did not show yet."""
        if self._base:
            click.echo("" if self._written else safe(answer.text))
        else:
            if self._steps and self._written:
                dim("")
            if answer.answer is not None:
                click.echo(safe(answer.answer))
            elif not self._steps:
                dim(answer.text)
        for text in answer.notes:
            note(text)
