"""The command line: what it lists, what it prints where, and which exit code each failure has."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import Result

from router import cli as router_cli
from specialists import errors

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


def process(*args: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a router command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "router.cli", *args], cwd=ROOT, capture_output=True, timeout=60, **options
    )


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[BaseException], None]]:
    """Make `router doctor` raise what is given."""
    from router import commands

    def arrange(error: BaseException) -> None:
        def fail() -> None:
            raise error

        monkeypatch.setattr(commands, "doctor", click.Command("doctor", callback=fail))

    yield arrange


def test_help_lists_commands_and_exit_codes(run: Run) -> None:
    done = run("--help")
    assert done.exit_code == 0
    for name, (_, line) in router_cli.COMMANDS.items():
        assert f"  {name} " in done.output and line in done.output
    assert "130  interrupted" in done.output


@pytest.mark.parametrize("name", router_cli.COMMANDS)
def test_listed_help_is_the_commands_own(name: str, run: Run) -> None:
    """The list repeats each first line so as not to import the command: they must not drift apart."""
    context = click.Context(router_cli.cli)
    command = router_cli.cli.get_command(context, name)
    assert command is not None and command.name == name
    assert command.get_short_help_str(200) == router_cli.COMMANDS[name][1]
    assert run(name, "--help").exit_code == 0


def test_help_is_light_and_quick() -> None:
    """Half a second is the promise: of processor time here, for a busy machine makes any wall time long."""
    code = (
        "import sys; from router.cli import main\n"
        "try: main()\n"
        "except SystemExit: print([m for m in ('numpy', 'yaml', 'torch', 'transformers', 'pydantic', 'tqdm',"
        " 'router.commands', 'registry', 'distill') if m in sys.modules], file=sys.stderr)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.strip()) == (0, "[]")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def plugin(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    found = {name: EntryPoint(name, target, router_cli.GROUP) for name, target in targets.items()}
    monkeypatch.setattr(router_cli, "plugins", lambda: found)


def test_plugin_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, extra=f"{__name__}:extra")
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _this_module())
    done = run("extra")
    assert (done.exit_code, done.stdout) == (7, "hello\n")


@click.command()
def extra() -> int:
    click.echo("hello")
    return 7


def _this_module() -> Any:
    import types

    module = types.ModuleType(__name__)
    module.extra = extra  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("target", ["no_such_module:cli", "json:no_such_name", "json:dumps"])
def test_broken_plugin_hurts_only_itself(target: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, broken=target)
    assert "broken" in run("--help").output
    assert run("list").exit_code == 0
    done = run("broken")
    assert done.exit_code == 1
    assert done.stderr.startswith("router: The command 'broken'") and done.stderr.count("\n") == 1


def test_broken_plugin_leaves_completion_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(monkeypatch, broken="no_such_module:cli")
    context = click.Context(router_cli.cli, resilient_parsing=True)
    assert router_cli.cli.get_command(context, "broken") is None


def test_plugin_cannot_take_a_built_in_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("ask", "json:dumps", router_cli.GROUP),
        EntryPoint("more", "json:dumps", router_cli.GROUP),
    ]
    monkeypatch.setattr(router_cli, "entry_points", lambda group: entries)
    assert list(router_cli.plugins()) == ["more"]


@pytest.mark.parametrize("kind", ["RouterError", "BadInput", "Refused", "Damaged", "Unavailable"])
def test_router_errors_are_one_line_and_their_code(kind: str, run: Run, failing: Any) -> None:
    error = getattr(errors, kind)
    failing(error("Tried this; do that."))
    done = run("doctor")
    assert (done.exit_code, done.stdout, done.stderr) == (
        error.exit_code,
        "",
        "router: Tried this; do that.\n",
    )


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division\nby zero"), 70, "this is a bug (ZeroDivisionError: division)"),
        (OSError(28, "No space left on device", "/full"), 5, "No space left on device: /full"),
    ],
)
def test_other_errors(error: BaseException, code: int, said: str, run: Run, failing: Any) -> None:
    failing(error)
    done = run("doctor")
    assert done.exit_code == code
    assert said in done.stderr and "Traceback" not in done.stderr


def test_debugging_shows_the_traceback(run: Run, failing: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROUTER_DEBUG", "1")
    failing(ZeroDivisionError("x"))
    assert "Traceback" in run("doctor").stderr


@pytest.mark.parametrize("args", [["nonsense"], ["ask", "--nonsense"], ["show"], ["eval", "-n", "0"]])
def test_usage_errors_are_2(args: list[str], run: Run) -> None:
    done = run(*args)
    assert done.exit_code == 2
    assert done.stdout == "" and "Error:" in done.stderr


def test_closed_pipe_is_quiet() -> None:
    """What `router list --json | true` leaves behind: nothing on stderr."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "router.cli", "list", "--json"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_full_disk_behind_stdout() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "router.cli", "--help"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 5
    assert done.stderr.startswith("router: No space left") and done.stderr.count("\n") == 1


def test_ascii_terminal_still_works() -> None:
    """A description with letters the terminal cannot show is not a reason to fail."""
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("ask", "--specialist", "naïve", "x", env=env)
    assert (done.returncode, b"Traceback" in done.stderr) == (2, False)


@pytest.fixture
def added(run: Run, tiny_adapter: Callable[..., Path], tmp_path: Path) -> Callable[..., Result]:
    """Register a tiny adapter: added("name", "--prompt", "...")."""
    exemplars = tmp_path / "exemplars.txt"
    exemplars.write_text("What is red?\nIs blue a colour?\n")

    def add(name: str, *options: str) -> Result:
        given = options if "--prompt" in options else ("--prompt", "plain", *options)
        return run("register", str(tiny_adapter(name)), "--name", name, "--exemplars", str(exemplars), *given)

    return add


def test_register_list_show_unregister(run: Run, added: Callable[..., Result]) -> None:
    done = added("colours")
    assert (done.exit_code, done.stdout) == (0, "colours@1.0.0\n"), done.stderr
    listed = {entry["name"]: entry for entry in json.loads(run("list", "--json").stdout)}
    assert listed["colours"] == {
        "name": "colours",
        "version": "1.0.0",
        "channel": "stable",
        "base": "tiny",
        "accuracy": None,
        "exemplars": 2,
    }
    assert "colours@1.0.0" in run("list").stdout
    assert "Is blue a colour?" in run("show", "colours").stdout
    assert json.loads(run("show", "colours@1.0.0", "--json").stdout)["parser"] == "answer_line"
    assert run("unregister", "colours").exit_code == 0
    assert "colours" not in run("list").stdout
    assert run("show", "colours").exit_code == 2


def test_register_takes_the_prompt_as_text(run: Run, added: Callable[..., Result]) -> None:
    assert added("colours", "--prompt", "You know colours.").exit_code == 0
    assert "You know colours." in run("show", "colours").stdout


def test_register_refuses(run: Run, added: Callable[..., Result], tiny_adapter: Callable[..., Path]) -> None:
    assert run("register", "/no/such/folder").exit_code == 2
    assert run("register", str(tiny_adapter("bare"))).exit_code == 2
    assert added("Bad Name").exit_code == 2
    assert added("colours", "--prompt", "misspelt").exit_code == 2
    assert added("colours", "--parser", "misspelt").exit_code == 2
    assert "colours" not in run("list").stdout
