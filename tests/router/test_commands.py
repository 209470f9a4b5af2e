"""What each command prints on stdout and on stderr, and the exit code it ends with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]


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
    monkeypatch.setattr("router.ask.open_engine", lambda *_: pytest.fail("the base was opened"))
    for command in ("ask", "route"):
        done = run(command, question)
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        done = run(command, input=question.encode())
        assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_ask_with_an_unknown_specialist_or_base(run: Run, served: Any) -> None:
    done = run("ask", "--specialist", "colour", "x")
    assert done.exit_code == 2 and "colours" in done.stderr and done.stderr.count("\n") == 1
    assert run("ask", "--fallback", "gpt", "x").exit_code == 2


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
        "base": None,
        "precision": "bf16",
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
