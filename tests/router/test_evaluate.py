"""Batch evaluation against a scripted engine: arms, resumption, what is shown."""

import json
from pathlib import Path
from typing import Any

import pytest

from registry.report import Report, table
from registry.store import Version
from router.evaluate import human, measured_in, shortfalls
from router.saved import CHUNK, Saved
from specialists import domain as domains
from specialists.errors import BadInput, Damaged, Unavailable

from .scripted import FakeEngine, Sums, evaluate, right, total, toy_domain  # noqa: F401 - toy_domain is a fixture of every test


def test_the_stable_json_of_both_arms(tmp_path: Path) -> None:
    result = evaluate(tmp_path)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert result["command"] == "router eval sums -n 20 --arm specialist --arm base"
    entry = result["domains"]["sums"]
    assert (entry["n"], entry["split"], entry["specialist"], entry["base"]) == (
        20,
        "test",
        "sums@1.0.0",
        "toy@00",
    )
    specialist, base = entry["arms"]["specialist"], entry["arms"]["base"]
    assert (specialist["accuracy"], specialist["balanced_accuracy"], specialist["right"]) == (1.0, 1.0, 20)
    assert specialist["interval"] == pytest.approx([0.8389, 1.0], abs=1e-4)
    assert (base["accuracy"], base["unparsed"], base["truncated"]) == (0.0, 20, 0)
    assert entry["mcnemar_p"] == pytest.approx(2 / 2**20)
    assert entry["majority"] < 0.2 and entry["baselines"]["heuristic"]["name"] in ("zero", "hundred")
    assert entry["training"] == {"examples": 7}
    assert specialist["tokens"] == 20 * 4 and specialist["seconds"] > 0
    assert shortfalls(result) == []
    assert "100.0 (83.9–100.0)" in table([Report.from_dict(entry)])


def test_the_command_says_what_is_not_the_default(tmp_path: Path) -> None:
    command = evaluate(tmp_path, base="models/one two", precision="int8")["command"]
    assert command.endswith("--arm base --base 'models/one two' --precision int8")


def test_truncated_unparsed_wrong_and_errored_are_kept_apart(tmp_path: Path) -> None:
    said = {
        0: ("Answer: 100000", False),
        1: ("it is", True),
        2: ("hm", False),
        3: ("Answer: many", False),
    }
    engine = FakeEngine(specialist=lambda question: said.get(total(question) % 5, right(question)))
    entry = evaluate(tmp_path, engine, n=60)["domains"]["sums"]
    arm = entry["arms"]["specialist"]
    tasks = domains.items(Sums(), "test", 60)
    count = [sum(int(task.answer) % 5 == rest for task in tasks) for rest in range(5)]
    assert [arm[name] for name in ("wrong", "truncated", "unparsed", "errored", "right")] == count
    assert all(count)
    assert len(entry["errors"]) == 10
    assert "ValueError" in next(one["got"] for one in entry["errors"] if one["verdict"] == "errored")
    assert "errored" in human({"domains": {"sums": entry}})


def test_a_repeated_run_generates_nothing_and_says_the_same(tmp_path: Path) -> None:
    first = evaluate(tmp_path)
    engine = FakeEngine()
    assert evaluate(tmp_path, engine) == first
    assert engine.asked == []
    evaluate(tmp_path, engine, fresh=True)
    assert len(engine.asked) == 40


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first, second = FakeEngine(stop_after=7), FakeEngine()
    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, first)
    entry = evaluate(tmp_path, second)["domains"]["sums"]
    assert len(first.asked) == 7 and len(second.asked) == 33
    assert not set(first.asked) & set(second.asked)
    assert entry["arms"]["specialist"]["right"] == 20


def test_more_items_only_generate_the_difference_and_save_as_they_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate(tmp_path, arms=["base"])
    saves: list[int] = []
    keep = Saved.keep
    monkeypatch.setattr(Saved, "keep", lambda self, new: saves.append(len(new)) or keep(self, new))
    engine = FakeEngine()
    evaluate(tmp_path, engine, arms=["base"], n=150)
    assert engine.batches == [130]
    assert sum(saves) == 130 and max(saves) == CHUNK


@pytest.mark.parametrize("change", ["identity", "arithmetic", "adapter", "seed"])
def test_what_an_answer_depends_on_is_never_reused_across(tmp_path: Path, change: str) -> None:
    evaluate(tmp_path, arms=["specialist"])
    engine = FakeEngine()
    options: dict[str, Any] = {"identity": "toy@11", "arithmetic": "otherwise", "seed": 7}
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    options["adapter"] = folder
    result = evaluate(tmp_path, engine, arms=["specialist"], **{change: options[change]})
    assert len(engine.asked) == 20
    entry = result["domains"]["sums"]
    if change == "adapter":
        assert list(engine.adapters.values()) == [folder]
        assert entry["specialist"].startswith("sums@") and entry["specialist"] != "sums@1.0.0"
    if change == "seed":
        assert (entry["split"], entry["seed"]) == ("test-7", 7)


def test_a_line_cut_short_is_answered_again(tmp_path: Path) -> None:
    evaluate(tmp_path, arms=["base"])
    file = tmp_path / "cache/eval/test.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    engine = FakeEngine()
    evaluate(tmp_path, engine, arms=["base"])
    evaluate(tmp_path, engine, arms=["base"])
    assert len(engine.asked) == 1


def test_a_cache_that_cannot_be_written_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    engine = FakeEngine()
    with pytest.raises(Unavailable, match="Could not save answers"):
        evaluate(tmp_path, engine)
    assert engine.asked == []


def test_routed_counts_refused_and_misrouted(tmp_path: Path) -> None:
    def choose(question: str) -> str | None:
        return [None, "stranger", "sums"][total(question) % 3]

    engine = FakeEngine()
    result = evaluate(
        tmp_path, engine, choose, names=["sums", "sums:big"], arms=["specialist", "base", "routed"]
    )
    for name, variant in (("sums", ""), ("sums:big", "big")):
        arm = result["domains"][name]["arms"]["routed"]
        rest = [int(task.answer) % 3 for task in domains.items(Sums(variant), "test", 20)]
        assert (arm["refused"], arm["misrouted"], arm["right"]) == (
            rest.count(0),
            rest.count(1),
            20 - rest.count(0),
        )
        assert arm["accuracy"] == arm["right"] / 20
        assert result["domains"][name]["mcnemar"]["routed"]["b"] == arm["right"]
    assert len(engine.asked) == 80  # what the specialist has answered is not asked again
    assert "misrouted" in human(result)


def test_routed_questions_are_asked_as_one_mixed_stream(tmp_path: Path) -> None:
    engine = FakeEngine()
    evaluate(tmp_path, engine, names=["sums", "sums:big"], arms=["routed"])
    sides = [total(question) >= 1000 for question, _ in engine.asked]
    assert len(sides) == 40 and sides != sorted(sides) and sides != sorted(sides, reverse=True)


def test_a_version_under_evaluation_is_the_one_that_is_routed_to(tmp_path: Path) -> None:
    engine = FakeEngine()
    entry = evaluate(tmp_path, engine, names=["sums:big@2.0.0"], arms=["routed"])["domains"]["sums:big@2.0.0"]
    assert {adapter for _, adapter in engine.asked} == {"sums@2.0.0"}
    assert (entry["arms"]["routed"]["misrouted"], entry["specialist"]) == (0, "sums@2.0.0")


def test_a_specialist_that_must_not_run_on_this_base_is_refused(tmp_path: Path) -> None:
    def check(version: Version) -> None:
        raise Damaged(f"{version.ref} is for another base.")

    engine = FakeEngine()
    with pytest.raises(Damaged, match="another base"):
        evaluate(tmp_path, engine, check=check)
    assert engine.asked == []


def test_base_is_measured_for_a_domain_without_a_specialist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(domains.BUILT_IN, "later", "toy_sums:Sums")
    entry = evaluate(tmp_path, names=["later"], arms=["base"])["domains"]["later"]
    assert (entry["arms"]["base"]["unparsed"], entry["specialist"], entry["mcnemar_p"]) == (20, None, None)
    with pytest.raises(BadInput, match="no specialist 'later'"):
        evaluate(tmp_path, names=["later"], arms=["specialist"])


def test_without_names_every_specialist_with_a_domain_is_evaluated(tmp_path: Path) -> None:
    assert list(evaluate(tmp_path, names=None, n=3)["domains"]) == ["sums"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"names": ["nonsense"]}, "no domain 'nonsense'"),
        ({"arms": ["oracle"]}, "no arm oracle"),
        ({"arms": []}, "no arm"),
        ({"n": 0}, "at least 1"),
        ({"names": ["sums", "sums:big"], "adapter": Path("nowhere")}, "exactly one"),
        ({"adapter": Path("nowhere")}, "no adapter_model.safetensors"),
        ({"names": ["sums", "dates"], "questions": Path("nowhere")}, "one name"),
        ({"questions": Path("nowhere")}, "Could not read"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        evaluate(tmp_path, **options)


def test_shortfalls_name_every_rival_that_is_not_beaten(tmp_path: Path) -> None:
    engine = FakeEngine(specialist=lambda question: ("Answer: 0", False), base=right)
    found = shortfalls(evaluate(tmp_path, engine))
    assert [one.split("not above ")[1].split(" at ")[0] for one in found] == [
        "base",
        "the majority answer",
        "the best heuristic",
    ]
    assert shortfalls(evaluate(tmp_path, arms=["specialist"])) == [
        "sums: the arms specialist and base were not both measured."
    ]


def test_the_terminal_table_is_aligned(tmp_path: Path) -> None:
    lines = human(evaluate(tmp_path)).splitlines()
    assert lines[0].split()[:4] == ["domain", "n", "arm", "right"]
    ends = {line.index("%") for line in lines[1:5]}
    assert len(ends) == 1
    assert "McNemar p = 1.9e-06" in lines[-1]
    assert [line.split()[2].rstrip(":") for line in lines[1:5]] == [
        "specialist",
        "base",
        "majority",
        "heuristic",
    ]


@pytest.mark.parametrize(
    ("report", "can", "precision"),
    [
        (None, True, "bf16"),
        ({"base": "Qwen/Qwen2.5@0123456789abcdef"}, True, "bf16"),
        ({"base": "Qwen/Qwen2.5@0123456789abcdef int8"}, True, "int8"),
        ({"base": "Qwen/Qwen2.5@0123456789abcdef int8"}, False, "bf16"),
    ],
)
def test_a_report_is_checked_in_the_precision_it_was_measured_in(
    report: dict[str, Any] | None, can: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.engine.precision.can_multiply", lambda: can)
    assert measured_in(report) == precision
