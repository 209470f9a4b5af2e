"""Counts, intervals and baselines, against published values and properties."""

import json
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.measures import ArmResult, Baseline, Outcome, Paired, mcnemar_p, tally, wilson
from registry.report import Report, best_heuristic, environment, majority, quote, table
from specialists.domain import Task, Verdict
from specialists.errors import Damaged


def task(label: str = "a", kind: str = "k", answer: str = "1", difficulty: str = "easy") -> Task:
    return Task("toy", kind, "How much?", answer, "key", difficulty, label)


def outcomes(*verdicts: Verdict | None, **fields: str) -> list[Outcome]:
    return [Outcome(task(**fields), verdict) for verdict in verdicts]


RIGHT, WRONG = Verdict.RIGHT, Verdict.WRONG


def test_wilson_matches_published_values() -> None:
    """Newcombe 1998, Table I, method 3: 81/263, 15/148, 0/20 and 1/29."""
    for right, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


def test_mcnemar_matches_the_binomial_by_hand() -> None:
    assert mcnemar_p(10, 2) == pytest.approx(2 * (1 + 12 + 66) / 2**12)
    assert mcnemar_p(2, 10) == mcnemar_p(10, 2)
    assert mcnemar_p(0, 0) == 1.0
    assert mcnemar_p(5, 5) == 1.0


def test_paired_counts_only_the_items_where_the_arms_differ() -> None:
    arm = outcomes(RIGHT, RIGHT, RIGHT, WRONG, Verdict.TRUNCATED)
    base = outcomes(RIGHT, WRONG, Verdict.UNPARSED, RIGHT, WRONG)
    assert Paired.of(arm, base) == Paired(2, 1)
    with pytest.raises(ValueError):
        Paired.of(arm, base[1:])


def test_a_constant_answer_has_chance_balanced_accuracy() -> None:
    """132 YES and 18 NO, always YES: 88.0 % right and worth nothing."""
    says_yes = outcomes(*[RIGHT] * 132, label="YES") + outcomes(*[WRONG] * 18, label="NO")
    counted = tally(says_yes)
    assert counted.accuracy == pytest.approx(0.88)
    assert counted.balanced_accuracy == 0.5
    assert counted.recalls == {"YES": 1.0, "NO": 0.0}


VERDICTS = st.lists(
    st.tuples(
        st.sampled_from([*Verdict, None]),
        st.sampled_from("abc"),
        st.sampled_from(["easy", "hard"]),
        st.sampled_from(["sum", "fits"]),
        st.integers(0, 50),
    ),
    min_size=1,
    max_size=40,
)


@given(VERDICTS)
def test_counts_sum_to_n_and_survive_json(drawn: list[tuple[Verdict | None, str, str, str, int]]) -> None:
    made = [Outcome(task(b, k, difficulty=d), v, tokens=t, seconds=t / 10) for v, b, d, k, t in drawn]
    arm = ArmResult.of(made)
    assert (
        arm.right + arm.wrong + arm.unparsed + arm.truncated + arm.errored + arm.refused == arm.n == len(made)
    )
    for groups in (arm.labels, arm.kinds, arm.difficulties):
        assert sum(n for _, n in groups.values()) == arm.n
        assert sum(right for right, _ in groups.values()) == arm.right
    low, high = arm.interval
    assert 0 <= low <= arm.accuracy <= high <= 1
    assert 0 <= arm.balanced_accuracy <= 1
    assert arm.tokens_per_second == pytest.approx(10 if arm.tokens else 0)
    assert ArmResult.from_dict(json.loads(json.dumps(arm.to_dict()))) == arm


class Toy:
    """Answers are as given; the heuristics are two constants."""

    name, prompt, parser, max_new_tokens = "toy", "plain", "answer_line", 16

    def task(self, split: str, index: int) -> Task:
        return (
            task("YES", "fits", "YES") if index % 2 else task("n", "count", "1" if index % 3 else str(index))
        )

    def verify(self, task: Task, answer: str | None) -> Verdict:
        if answer is None:
            return Verdict.UNPARSED
        return RIGHT if answer == task.answer else WRONG

    def worked(self, task: Task) -> str:
        return f"Answer: {task.answer}"

    def heuristics(self) -> dict:  # type: ignore[type-arg]
        return {"never": lambda task: "NO", "always one": lambda task: "1"}

    def exemplars(self) -> list[str]:
        return []


def drawn(toy: Toy, n: int) -> Sequence[Task]:
    return [toy.task("test", index) for index in range(n)]


def test_the_majority_by_kind_is_used_where_it_scores_more() -> None:
    toy = Toy()
    baseline = majority(toy, drawn(toy, 12))
    assert baseline.answers == {"fits": "YES", "count": "1"}
    assert baseline.name == "most common answer of each kind"
    assert baseline.tally.right == 6 + 4


def test_the_overall_majority_is_used_where_kinds_add_nothing() -> None:
    toy = Toy()
    baseline = majority(toy, [task("YES", "fits", "YES")] * 4, [task("YES", "fits", "YES")])
    assert (baseline.name, baseline.answers, baseline.tally.accuracy) == (
        "most common answer",
        {"": "YES"},
        1.0,
    )


def test_the_best_heuristic_is_measured_on_the_same_items() -> None:
    toy = Toy()
    best = best_heuristic(toy, drawn(toy, 12))
    assert best and (best.name, best.tally.right, best.tally.n) == ("always one", 4, 12)


def test_quotes_only_what_was_not_right_and_at_most_ten() -> None:
    quoted = quote([*outcomes(RIGHT, None), *outcomes(*[WRONG] * 20)])
    assert len(quoted) == 10
    assert quoted[0] == {"question": "How much?", "gold": "1", "got": "", "verdict": "refused"}
    assert {one["verdict"] for one in quoted[1:]} == {"wrong"}


def report(**changes: object) -> Report:
    arm, base = outcomes(*[RIGHT] * 9, WRONG), outcomes(*[RIGHT] * 2, *[Verdict.TRUNCATED] * 8)
    values: dict[str, object] = {
        "domain": "toy",
        "split": "test",
        "n": 10,
        "command": "router eval toy -n 10",
        "arms": {"specialist": ArmResult.of(arm), "base": ArmResult.of(base)},
        "majority": Baseline("most common answer", tally(base), {"": "1"}),
        "heuristic": Baseline("always one", tally(base)),
        "mcnemar": {"specialist": Paired.of(arm, base)},
        "errors": quote(arm),
        "training": {"examples": 100},
        "environment": environment(),
        **changes,
    }
    return Report(**values)  # type: ignore[arg-type]


def test_a_report_survives_json_and_explains_itself() -> None:
    made = report()
    data = json.loads(made.to_json())
    assert Report.from_json(made.to_json()) == made
    assert (data["majority"], data["heuristic"], data["n"]) == (0.2, 0.2, 10)
    assert data["mcnemar_p"] == pytest.approx(2 / 2**7)
    assert data["arms"]["base"]["truncated"] == 8
    assert data["arms"]["specialist"]["interval"] == pytest.approx([0.5958, 0.9821], abs=1e-4)
    assert data["environment"]["cores"] >= 1
    bare = report(heuristic=None, mcnemar={}, arms={"routed": made.arms["base"]})
    assert Report.from_json(bare.to_json()) == bare


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"domain": "toy", "baselines": 3}'])
def test_what_is_no_report_is_one_sentence(text: str) -> None:
    with pytest.raises(Damaged, match="report"):
        Report.from_json(text)


def test_the_table_has_a_row_for_each_report() -> None:
    lines = table([report(), report(domain="bare", heuristic=None, mcnemar={})]).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert lines[2].startswith("| toy | 10 | 90.0 (59.6–98.2) | 90.0 | 20.0 (5.7–51.0) | – | 20.0 |")
    assert "20.0 (always one) | 0.02 | 0 / 0 | 0 |" in lines[2]
    assert "| – | – | 0 / 0 |" in lines[3]


def test_reports_are_read_without_importing_heavy_packages() -> None:
    check = "import registry.report, sys; print({'torch', 'scipy', 'sklearn', 'router'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
