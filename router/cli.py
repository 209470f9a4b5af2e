"""The `router` command: finds commands without importing them, and turns errors into exit codes."""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import click

from specialists.errors import RouterError, Unavailable

GROUP = "router.commands"
INTERRUPTED, BUG, CLOSED_PIPE = 130, 70, 141  # 128 + SIGINT, EX_SOFTWARE of sysexits.h, 128 + SIGPIPE

# What `router --help` lists. The line of help is repeated here so that listing a command need not import it.
COMMANDS = {
    "ask": ("router.commands:ask", "Answer a question with the specialist that fits it."),
    "route": ("router.commands:route", "Name the specialist for a question, without answering it."),
    "chat": ("router.commands:chat", "Answer questions one after another."),
    "serve": ("router.serving.cli:serve", "Serve all specialists to a team."),
    "list": ("registry.cli:list_", "List the registered specialists."),
    "show": ("registry.cli:show", "Show everything a specialist's card says."),
    "register": ("registry.cli:register", "Add a specialist from an adapter folder or the Hub."),
    "unregister": ("registry.cli:unregister", "Remove a registered specialist."),
    "registry": (
        "router.publishing:registry",
        "Publish, pull, promote and roll back versions of specialists.",
    ),
    "eval": ("router.commands:evaluate", "Measure specialists on fresh test questions."),
    "doctor": ("router.commands:doctor", "Check weights, memory, disk and specialists."),
}
OURS = {"distill": "Make a new specialist."}

EPILOG = """\b
Exit codes:
    0  done
    1  no answer in the text, or it was cut short; eval --check fell short
    2  bad input or usage
    3  refused: no specialist fits and no fallback was allowed, by flag or budget, or it declined; a version does not
       pass the gate
    4  damaged or mismatching files
    5  something needed is missing: weights, network, disk space
   70  a bug; ROUTER_DEBUG=1 shows the traceback
  130  interrupted
"""


def plugins() -> dict[str, EntryPoint]:
    """Commands of installed packages, by name; a built-in name cannot be taken over."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in COMMANDS}


def _origin(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else entry.value


class Commands(click.Group):
    """The built-in commands and those of the entry-point group `router.commands`, imported only when run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(plugins())]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module, _, attribute = COMMANDS[cmd_name][0].partition(":")
            command = getattr(import_module(module), attribute)
            assert isinstance(command, click.Command)
            return command
        entry = plugins().get(cmd_name)
        return _load(entry, silent=ctx.resilient_parsing) if entry else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        found = plugins()
        rows = [(name, COMMANDS[name][1]) for name in COMMANDS]
        rows += [
            (name, OURS.get(name) or f"From the package {_origin(found[name])}.") for name in sorted(found)
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would exit with 1, which means something else here
            raise click.exceptions.Exit(CLOSED_PIPE) from error

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit: 0, the code a command returned, or the code of its error."""
        call = partial(super().main, args, prog_name, complete_var, standalone_mode=False, **extra)
        if not standalone_mode:
            return call()
        with warnings.catch_warnings():
            _quiet()
            code = _exit_code(call)
        sys.exit(code)


def _load(entry: EntryPoint, silent: bool) -> click.Command | None:
    """A plugin's command; where it cannot be loaded, an error, or None while the shell completes names."""
    try:
        command = entry.load()
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.value} is a {type(command).__name__}, not a click command")
        return command
    except Exception as error:
        if silent:
            return None
        raise RouterError(
            f"The command {entry.name!r} of the package {_origin(entry)} could not be loaded "
            f"({type(error).__name__}: {error}); update that package or uninstall it."
        ) from error


def debugging() -> bool:
    """Whether ROUTER_DEBUG asks for tracebacks and for the chatter of the libraries below."""
    return os.environ.get("ROUTER_DEBUG", "") not in ("", "0")


def _quiet() -> None:
    """Make output survive any terminal encoding, and silence the libraries below unless debugging."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not debugging():
        for library in ("TRANSFORMERS", "HF_HUB"):
            os.environ.setdefault(f"{library}_VERBOSITY", "error")
        warnings.simplefilter("ignore")
        logging.lastResort = logging.NullHandler()  # it prints the warnings of loggers nobody configured


def _exit_code(call: Callable[[], Any]) -> int:
    """Run a command; tell of a failure in one line on stderr. A command may return its exit code."""
    try:
        result = call()
        sys.stdout.flush()
        return result if type(result) is int else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        code, message = CLOSED_PIPE, ""
    except (click.Abort, KeyboardInterrupt):
        code, message = INTERRUPTED, "interrupted"
    except RouterError as error:
        code, message = error.exit_code, f"router: {error}"
    except Exception as error:
        if debugging():
            traceback.print_exc()
        code, message = _unexpected(error)
    _let_go_of_stdout()
    if message:
        click.echo(message, err=True)
    return code


def _unexpected(error: Exception) -> tuple[int, str]:
    """Exit code and message of an error that nobody foresaw: the system's, or else a bug of ours."""
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or "the output could not be written"
        return Unavailable.exit_code, f"router: {error.strerror}: {place}."
    first = (str(error).splitlines() or ["no message"])[0][:200]
    return BUG, (
        f"router: this is a bug ({type(error).__name__}: {first}); "
        "run again with ROUTER_DEBUG=1 to see the traceback, and please report it."
    )


def _let_go_of_stdout() -> None:
    """Drop what cannot be written to stdout: the interpreter would fail at it once more, and loudly."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="specialist-router", prog_name="router")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Route each question to a small specialist model, and answer it on this machine.

    \b
    router ask "Do 2 rooms cover 9-10:30, 10-11 and 10:45-12?"
    """
    if os.environ.get("NO_COLOR"):
        ctx.color = False


def main() -> None:
    """The console script."""
    cli(prog_name="router")


if __name__ == "__main__":
    main()
