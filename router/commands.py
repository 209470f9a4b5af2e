"""Commands that route and answer. Whatever loads a model is imported inside, so that the rest starts fast."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from specialists.errors import BadInput, Refused, RouterError, Unavailable

from .render import (
    Page,
    batches,
    dim,
    explain_answer,
    explain_bill,
    explain_route,
    note,
    print_json,
    question_from,
    route_line,
)

if TYPE_CHECKING:
    from .answer import Answer
    from .ask import Asker
    from .decision import Decision

NO_ANSWER = FELL_SHORT = 1  # exit codes: a text without an answer; a specialist not shown to be better
SHOWN = 200  # characters of a refused line that its JSON repeats
PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1, 32768)
F = TypeVar("F", bound=Callable[..., Any])

_question = click.argument("question", nargs=-1)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
BASE_OPTION = click.option(
    "--base", metavar="SPEC", help="Base weights: a folder, or a Hub id with @REVISION."
)
_PRECISIONS = click.Choice(["auto", "bf16", "int8", "int4"])
PRECISION_OPTION = click.option(
    "--precision",
    type=_PRECISIONS,
    help="How weights are multiplied; auto: in 8 bits where the processor can.",
)
CLAUDE_MODEL_OPTION = click.option(
    "--claude-model", metavar="ID", help="Which Claude; else the setting, else the cheapest."
)
_no_server = click.option(
    "--no-server", is_flag=True, help="Answer here, even where `router serve` runs on this machine."
)


def _answering(command: F) -> F:
    """The options of every command that answers."""
    options = [
        click.option(
            "--specialist",
            metavar="NAME[@VERSION]",
            default="auto",
            help="Who answers, instead of who fits; or base.",
        ),
        click.option(
            "--explain", is_flag=True, help="Show the route, the nearest exemplars and the speed on stderr."
        ),
        click.option(
            "--fallback",
            type=click.Choice(["base", "none", "claude"]),
            default="base",
            show_default=True,
            help="Where no specialist fits: the base without adapter answers, or nobody, or Claude, who is "
            "sent the question and paid.",
        ),
        CLAUDE_MODEL_OPTION,
        click.option(
            "--budget",
            type=click.FloatRange(0),
            metavar="DOLLARS",
            help="The most Claude may cost.  [default: 0.05]",
        ),
        BASE_OPTION,
        PRECISION_OPTION,
        _no_server,
        click.option(
            "--max-new-tokens", type=COUNT, help="Cut answers there, instead of where the specialist says."
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@_question
@_answering
@_json
def ask(question: tuple[str, ...], explain: bool, as_json: bool, **options: Any) -> int:
    """Answer a question with the specialist that fits it.

    The answer goes to stdout, the worked steps and remarks to stderr. Without QUESTION it is read from
    standard input; with - every line is a question, and one JSON object a line comes out, in order.
    """
    from .answer import Status
    from .ask import clean

    if question == ("-",):
        _ask_lines(_asker(**options))
        return 0
    text = clean(question_from(question))
    asker = _asker(**options)
    asker.prepare()
    answer = _ask(asker, text, explain, quiet=as_json)
    if as_json:
        print_json(answer.to_json())
    if answer.status is Status.REFUSED and asker.claude:
        raise Refused(answer.decision.reason)
    if answer.status is Status.REFUSED:
        raise Refused(
            f"This question was refused ({answer.decision.reason}); rephrase it, or allow --fallback base."
        )
    return 0 if answer.status in (Status.ANSWERED, Status.HANDED_ON) else NO_ANSWER


def _asker(no_server: bool, **options: Any) -> Asker:
    """Who answers: a server of this machine, unless a base or precision of one's own is asked for."""
    from .ask import Asker

    if no_server or options.get("base") or options.get("precision"):
        return Asker(**options)
    from .remote import find

    return Asker(**options, server=find())


def _ask(asker: Asker, text: str, explain: bool, quiet: bool = False, history: Any = ()) -> Answer:
    """Answer one question, printing it as it is generated unless quiet."""
    from .answer import Status

    (decision,) = asker.decide([text])
    if explain:
        explain_route(decision)
        if asker.server:
            dim(f"  server   {asker.server.url}")
    if asker.hands_on(decision) and asker.fallback == "base" and not quiet:
        note(f"{decision.reason}: the base answers, without an adapter.")
    elif asker.hands_on(decision) and asker.claude:
        note(f"{decision.reason}: asking {asker.claude.model}.")
    page = Page(decision, explain)
    (answer,) = asker.answer([decision], None if quiet else page.token, history)
    if not quiet and answer.status is not Status.REFUSED:
        page.end(answer)
    if answer.model:
        explain_bill(answer.model, answer.dollars)
    if answer.status is Status.UNPARSED:
        note(f"{decision.specialist} wrote no answer that could be read; rephrase the question.")
    elif answer.status is Status.TRUNCATED:
        note(f"the text was cut after {answer.tokens} tokens; raise --max-new-tokens.")
    if explain:
        explain_answer(answer)
    return answer


def _each_line(work: Callable[[list[str]], Sequence[Any]], refuse: Callable[[Decision], Any]) -> None:
    """Every line of standard input to a JSON object; one that is no question is refused, the others go on."""
    from .ask import clean, undecided

    for lines in batches():
        questions: dict[int, str] = {}
        found: dict[int, Any] = {}
        for place, line in enumerate(lines):
            try:
                questions[place] = clean(line)
            except BadInput as error:
                found[place] = refuse(undecided(line.strip()[:SHOWN], str(error)))
        if questions:
            found |= zip(questions, work(list(questions.values())), strict=True)
        for place in range(len(lines)):
            print_json(found[place].to_json())


def _ask_lines(asker: Asker) -> None:
    from .answer import Answer, Status

    asker.prepare()
    try:
        _each_line(
            lambda questions: asker.answer(asker.decide(questions)),
            refuse=lambda decision: Answer(decision, Status.REFUSED),
        )
    finally:  # what was spent is told even when a later line fails
        if asker.claude and asker.claude.budget.spent:
            explain_bill(asker.claude.model, asker.claude.budget.spent)


@click.command()
@_question
@click.option("--explain", is_flag=True, help="Show the nearest exemplars and the reason on stderr.")
@_no_server
@_json
def route(question: tuple[str, ...], explain: bool, as_json: bool, no_server: bool) -> None:
    """Name the specialist for a question, without answering it.

    Without QUESTION it is read from standard input; with - every line is a question, and one JSON object a
    line comes out, in order.
    """
    from .ask import clean

    if question == ("-",):
        return _each_line(_asker(no_server).decide, refuse=lambda decision: decision)
    text = clean(question_from(question))
    (decision,) = _asker(no_server).decide([text])
    if explain:
        explain_route(decision)
    if as_json:
        print_json(decision.to_json())
    else:
        click.echo(route_line(decision))


@click.command()
@_answering
def chat(explain: bool, **options: Any) -> None:
    """Answer questions one after another.

    Each goes to the specialist that fits it. A specialist sees one question at a time; only the base or Claude,
    answering where none fits, sees the last few turns. Ctrl-C stops an answer, Ctrl-D ends the conversation.
    """
    from .answer import Status

    asker = _asker(**options)
    asker.prepare()
    terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
    turns: list[tuple[str, str]] = []
    while True:
        try:
            text = input("> " if terminal else "")
        except EOFError:
            return
        if not text.strip():
            continue
        try:
            answer = _ask(asker, text, explain, history=turns)
        except RouterError as error:
            note(str(error))
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
        else:
            if answer.status is Status.REFUSED:
                note(answer.decision.reason)
            turns.append((text, answer.text))


@click.command("eval")
@click.argument("names", nargs=-1, metavar="[NAME[:VARIANT][@VERSION]]...")
@click.option(
    "-n", "n", type=click.IntRange(1), default=100, show_default=True, help="Test questions a domain."
)
@click.option(
    "--arm",
    "arms",
    type=click.Choice(["specialist", "base", "routed"]),
    multiple=True,
    default=["specialist", "base"],
    show_default=True,
    help="Who answers; may be given several times.",
)
@click.option("--seed", type=int, help="Another stream of test questions.")
@click.option(
    "--questions", type=PATH, help="Your own set: JSON lines of question, answer and perhaps specialist."
)
@click.option("--adapter", type=PATH, help="An adapter folder in place of the registered specialist.")
@click.option("--fresh", is_flag=True, help="Answer again what earlier runs have saved.")
@click.option(
    "--check", is_flag=True, help="Exit with 1 unless every specialist is shown to beat base and shortcuts."
)
@BASE_OPTION
@click.option(
    "--precision", type=_PRECISIONS, default="bf16", show_default=True, help="How weights are multiplied."
)
@_json
def evaluate(as_json: bool, check: bool, **options: Any) -> int:
    """Measure specialists on fresh test questions.

    Prints accuracy with its 95 % Wilson interval beside what the base scores under the same prompt, what a
    constant and the best shortcut score, and McNemar's p. Answers are saved as they come: an interrupted run
    goes on where it was.
    """
    from .evaluate import human, run, shortfalls

    result = run(**options, progress=sys.stderr.isatty())
    click.echo(json.dumps(result, indent=2, allow_nan=False) if as_json else human(result), nl=as_json)
    found = shortfalls(result) if check else []
    for shortfall in found:
        note(shortfall)
    return FELL_SHORT if found else 0


@click.command()
@_json
def doctor(as_json: bool) -> int:
    """Check weights, memory, disk and specialists."""
    from .doctor import check, render

    findings = check()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        click.echo(render(findings))
    return 0 if all(finding.ok for finding in findings) else Unavailable.exit_code
