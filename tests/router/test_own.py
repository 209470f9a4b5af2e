"""Evaluation on questions of one's own: who answers them, how they are graded, which files are refused."""

import json
from pathlib import Path

import pytest

from router.evaluate import shortfalls
from specialists.domain import Verdict
from specialists.errors import BadInput

from .scripted import Sums, evaluate, total, toy_domain  # noqa: F401 - toy_domain is a fixture of every test


def questions(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_own_questions_are_graded_by_the_specialist_they_name(tmp_path: Path) -> None:
    path = questions(
        tmp_path,
        {"question": "What is 1 + 2?", "answer": 3, "specialist": "sums"},
        "",
        {"question": "What is 1 + 2?", "answer": "4", "specialist": "sums"},
        {"question": "What is 2 + 2?", "answer": "Answer: 4.", "specialist": "stranger"},
    )
    result = evaluate(tmp_path, questions=path, names=None)
    assert result["command"] == f"router eval --questions {path} --arm specialist --arm base"
    sums, stranger = result["domains"]["sums"], result["domains"]["stranger"]
    assert (sums["n"], sums["arms"]["specialist"]["right"], sums["arms"]["specialist"]["wrong"]) == (2, 1, 1)
    assert (stranger["n"], stranger["arms"]["specialist"]["accuracy"], stranger["majority"]) == (1, 1.0, 1.0)
    assert (sums["split"], sums["heuristic"]) == ("own", None)
    assert shortfalls(result)[0].startswith("sums: the specialist's interval starts at 9.5%")


def test_own_questions_without_a_specialist_go_where_the_router_says(tmp_path: Path) -> None:
    lines = [{"question": f"What is {a} + 1?", "answer": str(a + 1)} for a in range(6)]
    path = questions(tmp_path, *lines)

    def choose(question: str) -> str | None:
        return "sums" if total(question) > 2 else None

    entry = evaluate(tmp_path, choose=choose, questions=path, names=None)["domains"]["questions"]
    assert (entry["n"], entry["arms"]["specialist"]["right"], entry["arms"]["specialist"]["refused"]) == (
        6,
        4,
        2,
    )
    assert entry["arms"]["base"]["unparsed"] == 6
    named = evaluate(tmp_path, choose=choose, questions=path, names=["sums"])["domains"]["sums"]
    assert (named["n"], named["arms"]["specialist"]["right"]) == (6, 6)


def test_verify_accepts_what_exact_match_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A domain whose verify reads numbers takes 7 for the expected 07."""
    monkeypatch.setattr(
        Sums,
        "verify",
        lambda self, task, answer: Verdict.RIGHT if int(answer) == int(task.answer) else Verdict.WRONG,
    )
    path = questions(tmp_path, {"question": "What is 3 + 4?", "answer": "07", "specialist": "sums"})
    entry = evaluate(tmp_path, questions=path, names=None)["domains"]["sums"]
    assert entry["arms"]["specialist"]["right"] == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is not an object"),
        ({"question": "What?"}, "line 2 has no answer"),
        ({"question": " ", "answer": "1"}, "line 2 has no question"),
        ({"question": "What?", "answer": True}, "line 2 has no answer"),
        ({"question": "What?", "answer": "1", "gold": "1"}, "unknown field 'gold'"),
        ({"question": "What?", "answer": "1", "specialist": 3}, "line 2 has a specialist"),
        ({"question": "What?", "answer": "1", "specialist": "nobody"}, "no specialist 'nobody'"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, message: str) -> None:
    path = questions(tmp_path, {"question": "What is 1 + 1?", "answer": "2", "specialist": "sums"}, line)
    with pytest.raises(BadInput, match=message):
        evaluate(tmp_path, questions=path, names=None)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_file_without_questions_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadInput, match="mine.jsonl"):
        evaluate(tmp_path, questions=path, names=None)
