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
from click.testing import CliRunner, Result

from router import cli as router_cli
from specialists import errors

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Run a router command line in this process: run("ask", "-", input="...")."""
    return lambda *args, **options: CliRunner().invoke(router_cli.cli, args, **options)


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


def test_ask_prints_the_answer_alone(run: Run, served: Any) -> None:
    """Only the answer on stdout; the worked steps are for a terminal or for --explain."""
    served.queue("Red is one.\nAnswer: yes")
    done = run("ask", "Is red a colour?")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "yes\n", "")


def test_ask_explains_on_stderr(run: Run, served: Any) -> None:
    served.queue("Red is one.\nAnswer: yes")
    done = run("ask", "--explain", "Is", "red", "a", "colour?")
    assert done.stdout == "yes\n"
    for part in (
        "colours 0.97 (next: dates 0.02)",
        "colours@1.0.0",
        "Which colours are warm?",
        "Red is one.",
    ):
        assert part in done.stderr
    assert "4 tokens in 0.5 s (8 tokens/s), the first after 0.1 s" in done.stderr


def test_ask_hands_on_to_the_base(run: Run, served: Any) -> None:
    served.queue("A mathematician.")
    done = run("ask", "Who was Ada Lovelace?")
    assert (done.exit_code, done.stdout) == (0, "A mathematician.\n")
    assert done.stderr == "router: no specialist reaches 0.50: the base answers, without an adapter.\n"


def test_ask_refuses_without_fallback(run: Run, served: Any) -> None:
    done = run("ask", "--fallback", "none", "Who was Ada Lovelace?")
    assert (done.exit_code, done.stdout) == (3, "")
    assert done.stderr.startswith("router: This question was refused") and done.stderr.count("\n") == 1
    done = run("ask", "--json", "--fallback", "none", "Who was Ada Lovelace?")
    assert (done.exit_code, json.loads(done.stdout)["status"]) == (3, "refused")


@pytest.mark.parametrize("text", ["Red is one.", "Red is one and..."])
def test_ask_without_an_answer_is_1(text: str, run: Run, served: Any) -> None:
    served.queue(text)
    done = run("ask", "Is red a colour?")
    assert (done.exit_code, done.stdout) == (1, "")
    assert text in done.stderr and "router: " in done.stderr


def test_ask_json_is_one_line(run: Run, served: Any) -> None:
    served.queue("Ja, für Ünal.\nAnswer: ja")
    done = run("ask", "--json", "Is ü a colour?")
    assert done.stdout.count("\n") == 1 and done.stdout.isascii()
    assert json.loads(done.stdout)["text"] == "Ja, für Ünal.\nAnswer: ja"


@pytest.mark.parametrize(
    "data",
    [
        b"Is red a colour?\n",
        b"\xef\xbb\xbfIs red a colour?",
        "Is red a colour?".encode("utf-16"),
        b"colour \xff\xfe",
    ],
)
def test_ask_reads_standard_input_in_any_encoding(data: bytes, run: Run, served: Any) -> None:
    served.queue("Answer: yes")
    assert run("ask", input=data).stdout == "yes\n"


def test_ask_lines_in_order(run: Run, served: Any) -> None:
    """A bad line keeps its place; the colours of 20 lines need two batches."""
    good = [f"colour {i}?" for i in range(20)]
    served.queue(*(f"Answer: {i}" for i in range(20)))
    lines = [*good[:5], "", "x" * 9000, *good[5:]]
    done = run("ask", "-", input="\n".join(lines).encode() + b"\n")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 0 and len(found) == 22
    assert [one["answer"] for one in found] == [*"01234", None, None, *(str(i) for i in range(5, 20))]
    assert [one["status"] for one in found[5:7]] == ["refused", "refused"]
    assert "empty" in found[5]["reason"] and len(found[6]["question"]) <= 200


@pytest.mark.parametrize("question", ["", "  ", "x" * 50_000])
def test_ask_refuses_what_is_no_question(question: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("router.ask.open_engine", lambda base: pytest.fail("the base was opened"))
    for command in ("ask", "route"):
        done = run(command, question)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        done = run(command, input=question.encode())
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_ask_with_an_unknown_specialist_or_base(run: Run, served: Any) -> None:
    done = run("ask", "--specialist", "colour", "x")
    assert done.exit_code == 2 and "colours" in done.stderr and done.stderr.count("\n") == 1
    assert run("ask", "--fallback", "claude", "x").exit_code == 2


def test_interrupted_answer(run: Run, served: Any) -> None:
    served.queue(KeyboardInterrupt())
    done = run("ask", "Is red a colour?")
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.strip() == "interrupted"


def test_control_characters_stay_out_of_the_terminal(run: Run, served: Any) -> None:
    served.queue("\x1b[2Jhello")
    assert run("ask", "Who?").stdout == "[2Jhello\n"


def test_route(run: Run, served: Any) -> None:
    assert run("route", "Is red a colour?").stdout == "colours 0.97 (next: dates 0.02)\n"
    assert run("route", "Who?").stdout == "none (closest: colours 0.31)\n"
    found = json.loads(run("route", "--json", "Who?").stdout)
    assert (found["specialist"], found["confidence"], found["threshold"]) == (None, 0.31, 0.5)
    lines = run("route", "-", input=b"colour\n\nwho\n").stdout.splitlines()
    assert [json.loads(line)["specialist"] for line in lines] == ["colours", None, None]
    assert "Which colours are warm?" in run("route", "--explain", "Who?").stderr


def test_chat_goes_on_after_errors_and_interrupts(run: Run, served: Any) -> None:
    served.queue("A mathematician.", KeyboardInterrupt(), "Answer: yes", "In 1815.")
    lines = ["Who was Ada?", "stop this", "", "y" * 9000, "a colour?", "When was she born?"]
    done = run("chat", input="\n".join(lines) + "\n")
    assert (done.exit_code, done.stdout) == (0, "A mathematician.\nyes\nIn 1815.\n")
    assert "interrupted" in done.stderr and "shorten" in done.stderr
    said = [message["content"] for message in served.requests[-1].messages]
    assert said[1:3] == ["Who was Ada?", "A mathematician."] and said[-1] == "When was she born?"


def test_eval_passes_its_options_and_checks(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from router import evaluate

    asked: dict[str, Any] = {}
    entry = {"n": 3, "arms": {}, "majority": 0.5, "heuristic": None, "baselines": {}, "mcnemar": {}}
    result = {"domains": {"dates": entry}, "command": "router eval"}
    monkeypatch.setattr(evaluate, "run", lambda **options: asked.update(options) or result)
    done = run("eval", "dates", "-n", "3", "--arm", "base", "--seed", "7", "--questions", "q.jsonl", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (0, result)
    assert asked == {
        "names": ("dates",),
        "n": 3,
        "arms": ("base",),
        "seed": 7,
        "questions": Path("q.jsonl"),
        "adapter": None,
        "fresh": False,
        "progress": False,
    }
    done = run("eval", "--check")
    assert done.exit_code == 1 and "router: dates" in done.stderr


def test_doctor_says_what_is_wrong(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from router import doctor

    found = [doctor.Finding("base", True, "here"), doctor.Finding("disk", False, "full", "free some")]
    monkeypatch.setattr(doctor, "check", lambda: found)
    done = run("doctor")
    assert done.exit_code == 5 and "free some" in done.stdout
    assert json.loads(run("doctor", "--json").stdout)[1]["name"] == "disk"
    monkeypatch.setattr(doctor, "check", lambda: found[:1])
    assert run("doctor").exit_code == 0


def test_distill_train_makes_what_register_takes(run: Run, tiny_base: Path, tmp_path: Path) -> None:
    """Two steps on a random model: a PEFT folder with a card of the next free version."""
    out = tmp_path / "made"
    command = [
        "distill",
        "train",
        "dates",
        "--out",
        str(out),
        "--examples",
        "4",
        "--rank",
        "2",
        "--epochs",
        "2",
    ]
    command += ["--base", str(tiny_base), "--test", "0", "--targets", "q_proj,v_proj", "--max-tokens", "8000"]
    done = run(*command)
    assert (done.exit_code, done.stdout) == (0, f"{out}\n"), done.stderr
    ref = run("register", str(out)).stdout.strip()
    assert ref.startswith("dates@") and "q_proj" in (out / "adapter_config.json").read_text()
    card = json.loads(run("show", ref, "--json").stdout)
    assert (card["prompt"], card["parser"], card["lineage"]["examples"]) == ("dates", "dates", 4)
    assert (
        run("distill", "train", "dates", "--out", str(out), "--examples", "5", "--test", "0").exit_code == 2
    )
    assert run("distill", "train", "no-such-domain", "--out", str(out)).exit_code == 2
