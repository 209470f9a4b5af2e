"""The first experiment done again, on a tiny base: its problems, its texts and parser, the sums, and going on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from distill.config import TrainConfig
from distill.studies import seeds, stream
from distill.studies.cli import seeds_command
from distill.studies.page import page
from distill.train import batch_loss
from registry.measures import Outcome
from router.engine.base import find_base, load_model, load_tokenizer
from specialists.domain import Task, Verdict, load
from specialists.errors import BadInput
from specialists.parsers import PARSERS
from specialists.scheduling import LONGEST
from specialists.scheduling.problems import Problem, answer

TINY = TrainConfig(rank=2, alpha=4, epochs=1, batch_size=2)


def busiest(problem: Problem) -> int:
    """Rooms needed, by looking at every hour in turn: a meeting does not take the hour at which it ends."""
    return max(sum(start <= 60 * hour < end for start, end in problem.meetings) for hour in range(24))


def test_the_stream_has_the_experiments_parameters() -> None:
    problems = stream.drawn(stream.TEST, dict.fromkeys(stream.LEVELS, 50))
    assert problems == stream.drawn(stream.TEST, dict.fromkeys(stream.LEVELS, 50)) and len(problems) == 150
    for one in problems:
        low, high, rooms = stream.LEVELS[one.difficulty]
        assert low <= len(one.meetings) <= high and one.rooms and 2 <= one.rooms <= rooms
        assert all(9 <= s / 60 <= 15 and (e - s) / 60 in (1, 2, 3) and s % 60 == 0 for s, e in one.meetings)
        assert answer(one) == ("YES" if busiest(one) <= one.rooms else "NO")
    assert {answer(one) for one in problems if one.difficulty == "easy"} == {"YES"}
    assert {answer(one) for one in problems} == {"YES", "NO"}
    assert all(isinstance(stream.task(one, 1, 0).question, str) for one in problems)
    assert stream.evenly(100) == {"easy": 34, "medium": 33, "hard": 33}


def test_touching_meetings_share_a_room() -> None:
    row = tuple((60 * a, 60 * b) for a, b in pairwise(range(9, 14)))
    assert answer(Problem("fits", "hard", row, 1)) == "YES"


def test_test_problems_in_the_training_are_counted_whatever_the_order() -> None:
    one = Problem("fits", "easy", ((540, 600), (660, 720)), 2)
    turned = Problem("fits", "easy", one.meetings[::-1], 2)
    later = Problem("fits", "easy", ((600, 660), (720, 780)), 2)
    other = Problem("fits", "easy", one.meetings, 3)
    assert stream.again([turned, later, other], [one]) == {"any_order": 1, "any_order_and_hour": 2}


@pytest.mark.parametrize(
    ("text", "said", "strict", "neither"),
    [
        ("YES", "YES", None, False),
        ("No, because yesterday", "YES", None, False),
        ("The meetings overlap a lot, and so the answer is NO", "NO", None, True),
        (f"{'x' * stream.READ} Answer: YES", "NO", "YES", True),
        ("Answer: NO", "NO", "NO", False),
        ("", "NO", None, True),
    ],
)
def test_the_lenient_parser_reads_what_the_strict_one_does_not(
    text: str, said: str, strict: str | None, neither: bool
) -> None:
    assert stream.lenient(text) == said and PARSERS["scheduling"](text) == strict
    assert stream.says_neither(text) is neither


def test_their_rows_are_cut_unmasked_and_have_no_template_or_end(tiny_base: Path) -> None:
    import torch

    base = find_base(str(tiny_base))
    tokenizer = load_tokenizer(base)
    (problem,) = stream.drawn(stream.EXAMPLES, {"easy": 1})
    text = stream.plain(problem, long=False) + " " + answer(problem)
    rows, lost = stream.rows(tokenizer, [problem] * 2, long=True)
    assert lost == 2 and [len(row.ids) for row in rows] == [stream.CUT] * 2 and rows[0].prompt == 1
    assert tokenizer.decode(rows[0].ids) == stream.plain(problem, long=True)[: stream.CUT]
    stream_cut, stream.CUT = stream.CUT, 4096  # the tiny tokenizer has a token a letter
    try:
        (row,), lost = stream.rows(tokenizer, [problem], long=False)
    finally:
        stream.CUT = stream_cut
    assert lost == 0 and tokenizer.decode(row.ids) == text and tokenizer.eos_token_id not in row.ids
    model = load_model(base)
    loss, found = batch_loss(model, [row])
    ids = torch.tensor([row.ids])
    assert len(found) == len(row.ids) - 1
    with torch.no_grad():
        assert abs(loss.item() - model(input_ids=ids, labels=ids).loss.item()) < 0.05


def test_our_examples_are_balanced_and_not_in_the_test() -> None:
    domain = load("scheduling:seeds")
    test = [domain.task("train", index) for index in range(30)]
    found = seeds.our_examples("scheduling:seeds", 10, test)
    assert sorted(one.label for one in found) == ["fits NO"] * 5 + ["fits YES"] * 5
    assert not {one.key for one in found} & {task.key for task in test}
    with pytest.raises(BadInput, match="use scheduling:half-hour"):
        seeds.our_examples("dates", 2, [])


def test_scores_add_up() -> None:
    def task(label: str) -> Task:
        return Task("d", "fits", "q", label, label, "hard", f"fits {label}")

    golds = ["YES"] * 8 + ["NO"] * 2
    yes = [Outcome(task(one), Verdict.RIGHT if one == "YES" else Verdict.WRONG) for one in golds]
    mine = [Outcome(task(one), Verdict.RIGHT) for one in golds[1:]]
    made = seeds.scores([Outcome(task("YES"), Verdict.UNPARSED), *mine], {"always YES": yes})
    assert made["accuracy"] == 0.9 and made["unparsed"] == 1 and made["balanced_accuracy"] == (7 / 8 + 1) / 2
    assert made["recall"] == {"NO": 1.0, "YES": 7 / 8} and made["levels"] == {"hard": 0.9}
    assert made["mcnemar"] == {"always YES": {"b": 2, "c": 1, "p": 1.0}}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes, answers and the method short enough for a test."""
    monkeypatch.setattr(seeds, "their_config", lambda: TINY)
    monkeypatch.setattr(seeds, "BASE_TOKENS", 3)
    monkeypatch.setitem(LONGEST, "half-hour", 3)
    monkeypatch.setattr(seeds, "PLAIN_TOKENS", 3)


@pytest.mark.usefixtures("small")
def test_the_study_goes_on_where_it_stopped(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(out: Path, n: int = 4) -> dict[str, Any]:
        return seeds.run(out, str(tiny_base), n=n, each=2, ours=TINY)

    real = seeds.answer

    def stops(engine: Any, asks: Any, saved: Any, on_done: Any) -> Any:
        if len(saved.answers) >= 6:
            raise KeyboardInterrupt
        return real(engine, asks, saved, on_done)

    monkeypatch.setattr(seeds, "answer", stops)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a")
    assert not (tmp_path / "a" / "result.json").exists()
    monkeypatch.setattr(seeds, "answer", real)
    trained = {path: path.stat().st_mtime_ns for path in (tmp_path / "a").glob("*/adapter_model.safetensors")}
    made = run(tmp_path / "a")
    assert len(trained) == 3 and all(path.stat().st_mtime_ns == when for path, when in trained.items())
    assert json.loads((tmp_path / "a" / "result.json").read_text()) == made

    monkeypatch.setattr(seeds, "answer", lambda *_: pytest.fail("it answers again what it has answered"))
    assert run(tmp_path / "a") == made
    with pytest.raises(BadInput, match="choose another --out"):
        run(tmp_path / "a", n=6)

    arms = made["arms"]
    assert set(arms) == {arm.name for arm in seeds.ARMS} | set(seeds.RULES)
    assert all(arm["n"] == 6 for arm in arms.values())
    assert [arms[name]["unparsed"] for name in ("theirs", "base_ours", "base_ours_lenient")] == [0, 0, 0]
    assert arms["base_ours"]["truncated"] == 6 and arms["base_ours_lenient"]["defaults"] == 6
    assert arms["always YES"]["recall"]["YES"] == 1.0
    assert "ours" not in arms["ours"]["mcnemar"] and set(arms["theirs"]["mcnemar"]) == {"ours", *seeds.RULES}
    assert made["training"]["theirs_cut"]["answers_lost"] == 4
    assert made["training"]["ours"]["labels"] == {"fits NO": 2, "fits YES": 2}
    text = page(made)
    assert all(f"| {name}" in text for name in arms) and "not measured" not in text


@pytest.mark.usefixtures("small")
def test_the_command_prints_the_page_and_writes_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = seeds.run
    monkeypatch.setattr(
        seeds, "run", lambda out, base, **given: real(out, base, n=2, each=2, ours=TINY, **given)
    )
    words = ["--out", str(tmp_path / "s"), "--base", str(tiny_base), "--page", str(tmp_path / "seeds.md")]
    done = CliRunner().invoke(seeds_command, words, catch_exceptions=False)
    assert done.exit_code == 0 and (tmp_path / "seeds.md").read_text() in done.stdout
    again = CliRunner().invoke(seeds_command, [*words, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["problems"]["n"] == 6


def test_the_page_says_what_is_not_measured() -> None:
    assert "not measured yet" in page() and "88.0 %" in page()
