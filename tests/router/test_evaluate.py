"""Batch evaluation against a scripted engine: arms, resumption, questions of one's own, what is shown."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from registry.card import Card
from registry.report import Report, table
from registry.store import Version
from router.arms import Tools
from router.evaluate import human, run, shortfalls
from router.saved import CHUNK, Saved
from specialists import domain as domains
from specialists.domain import Task, Verdict, draw
from specialists.errors import BadInput, Damaged, Unavailable


class Sums:
    """Additions, labelled odd or even; "big" has larger numbers, and verify looks at facts."""

    prompt, parser, max_new_tokens = "plain", "answer_line", 20

    def __init__(self, variant: str = "") -> None:
        self.name = "sums"
        self.offset = 1000 if variant == "big" else 0

    def task(self, split: str, index: int) -> Task:
        def make(rng: Any) -> Task:
            a, b = rng.randint(0, 99) + self.offset, rng.randint(0, 99)
            parity = "odd" if (a + b) % 2 else "even"
            sure = {"total": a + b}
            return Task(self.name, "sum", f"What is {a} + {b}?", str(a + b), f"{a}+{b}", "easy", parity, sure)

        return draw(self.name, split, index, make)

    def verify(self, task: Task, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.UNPARSED
        return Verdict.RIGHT if int(answer) == task.facts["total"] else Verdict.WRONG

    def worked(self, task: Task) -> str:
        return f"Answer: {task.answer}"

    def heuristics(self) -> Mapping[str, Callable[[Task], str]]:
        return {"zero": lambda task: "0", "hundred": lambda task: "100"}

    def exemplars(self) -> list[str]:
        return ["What is 1 + 1?"]


def total(question: str) -> int:
    a, b = question.removeprefix("What is ").removesuffix("?").split(" + ")
    return int(a) + int(b)


def right(question: str) -> tuple[str, bool]:
    return f"Adding up.\nAnswer: {total(question)}", False


@dataclass
class FakeEngine:
    """Specialists add up, base answers what `base` says. `stop_after` interrupts after so many answers."""

    base: Callable[[str], tuple[str, bool]] = lambda question: ("I cannot say.", False)
    specialist: Callable[[str], tuple[str, bool]] = right
    stop_after: int | None = None
    adapters: dict[str, Path] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)

    def add(self, name: str, folder: Path) -> None:
        self.adapters[name] = folder

    def generate(
        self, requests: Sequence[Any], *, on_done: Callable[[int, Any], None] | None = None
    ) -> list[Any]:
        self.batches.append(len(requests))
        made = []
        for index in reversed(range(len(requests))):  # answers come in any order
            if self.stop_after is not None and len(self.asked) == self.stop_after:
                raise KeyboardInterrupt
            request = requests[index]
            assert request.adapter is None or request.adapter in self.adapters
            question = request.messages[-1]["content"]
            self.asked.append((question, request.adapter))
            text, truncated = (self.specialist if request.adapter else self.base)(question)
            made.append(SimpleNamespace(text=text, tokens=len(text.split()), truncated=truncated))
            assert on_done
            on_done(index, made[-1])
        return made[::-1]


class FakeStore:
    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.names = folder, names

    def list(self) -> list[Version]:
        return [self.resolve(name) for name in self.names]

    def resolve(self, ref: str) -> Version:
        name, _, version = ref.partition("@")
        if name not in self.names:
            raise BadInput(f"There is no specialist {name!r}.")
        card = Card(
            name=name,
            version=version or "1.0.0",
            description="adds",
            base="toy",
            base_weights="unknown",
            adapter="0" * 64,
            prompt="plain",
            parser="answer_line",
            exemplars=("What is 1 + 1?",),
            max_new_tokens=20,
            report={"training": {"examples": 7}},
        )
        return Version(card, self.folder / name, "local")


class FakeRouter:
    def __init__(self, choose: Callable[[str], str | None]) -> None:
        self.choose = choose

    def route_many(self, questions: Sequence[str]) -> list[Any]:
        return [SimpleNamespace(specialist=self.choose(question)) for question in questions]


@pytest.fixture(autouse=True)
def sums(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("toy_sums")
    module.Sums = Sums  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_sums", module)
    monkeypatch.setitem(domains.BUILT_IN, "sums", "toy_sums:Sums")


def evaluate(
    tmp_path: Path,
    engine: FakeEngine | None = None,
    choose: Callable[[str], str | None] = lambda question: "sums",
    check: Callable[[Version], object] = lambda version: None,
    base: str = "toy@00",
    **options: Any,
) -> Any:
    store = FakeStore(tmp_path, "sums", "stranger")
    tools = Tools(engine or FakeEngine(), base, store, lambda: FakeRouter(choose), check)
    return run(**({"names": ["sums"], "n": 20, "progress": False} | options), tools=tools)


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


@pytest.mark.parametrize("change", ["base", "adapter", "seed"])
def test_what_an_answer_depends_on_is_never_reused_across(tmp_path: Path, change: str) -> None:
    evaluate(tmp_path, arms=["specialist"])
    engine = FakeEngine()
    options: dict[str, Any] = {"base": "toy@11", "seed": 7}
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
    routed = [question for question, _ in engine.asked[80:]]
    sides = [total(question) >= 1000 for question in routed]
    assert sides != sorted(sides) and sides != sorted(sides, reverse=True)  # one mixed stream
    assert "misrouted" in human(result)


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
