"""Meeting rooms: the solver against brute force, the worked solution step by step, balance, wording."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from specialists.domain import Verdict, grade, items, load
from specialists.scheduling import Scheduling
from specialists.scheduling.problems import Problem, answer, free_starts, half_hour, label, peak, seeds
from specialists.scheduling.wording import COUNT, FITS, SLOTS, wording
from specialists.scheduling.worked import worked

STEP = 5
times = st.integers(8 * 12, 18 * 12 - 1).map(lambda t: t * STEP)
meetings = st.lists(
    st.tuples(times, st.integers(1, 24)).map(lambda m: (m[0], min(m[0] + m[1] * STEP, 20 * 60))),
    min_size=1,
    max_size=12,
).map(tuple)


def under_way(found: tuple[tuple[int, int], ...], minute: int) -> int:
    return sum(start <= minute < end for start, end in found)


@given(meetings)
def test_peak_is_the_busiest_minute(found: tuple[tuple[int, int], ...]) -> None:
    assert peak(found) == max(under_way(found, minute) for minute in range(8 * 60, 20 * 60))


@given(meetings, st.sampled_from((15, 30, 45, 90)), st.integers(0, 2))
def test_free_starts_are_those_that_find_a_room_all_along(
    found: tuple[tuple[int, int], ...], minutes: int, spare: int
) -> None:
    problem = Problem("slots", "easy", found, peak(found) + spare, (8 * 60, 20 * 60), minutes)
    rooms = problem.rooms or 0
    expected = [
        start
        for start in range(8 * 60, 20 * 60 - minutes + 1, STEP)
        if all(under_way(found, minute) < rooms for minute in range(start, start + minutes))
    ]
    assert [s for low, high in free_starts(problem) for s in range(low, high + 1, STEP)] == expected


@given(meetings, st.randoms(use_true_random=False), st.integers(-8, 3))
def test_order_and_hour_do_not_make_another_problem(
    found: tuple[tuple[int, int], ...], rng: Random, hours: int
) -> None:
    shuffled = [(start + 60 * hours, end + 60 * hours) for start, end in found]
    rng.shuffle(shuffled)
    assert Problem("fits", "easy", found, 2).key() == Problem("fits", "hard", tuple(shuffled), 2).key()
    assert Problem("fits", "easy", found, 2).key() != Problem("fits", "easy", found, 3).key()


def test_touching_meetings_do_not_conflict() -> None:
    assert peak(((540, 600), (600, 660))) == 1
    assert peak(((540, 600), (540, 600))) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400))
def test_every_step_of_a_worked_solution_is_true(index: int) -> None:
    domain = load("scheduling")
    task = domain.task("train", index)
    problem: Problem = task.facts["problem"]
    text = domain.worked(task)
    assert domain.verify(task, text.split("Answer: ")[1]).value == "right"
    moments = re.findall(r"^(\d{2})(\d{2})((?:[-+][A-L](?:\d| new\d| over))+)( open)?$", text, re.MULTILINE)
    assert [60 * int(h) + int(m) for h, m, _, _ in moments] == sorted(
        {moment for meeting in problem.meetings for moment in meeting}
    )[: len(moments)]
    for hour, minute, events, opens in moments:
        now = 60 * int(hour) + int(minute)
        assert f"{hour} " in text and re.search(rf"^{hour}( \d\d)* {minute}", text, re.MULTILINE)
        for sign, letter, after in re.findall(r"([-+])([A-L])(\d| new\d| over)", events):
            meeting = problem.meetings["ABCDEFGHIJKL".index(letter)]
            assert meeting[sign == "-"] == now, "a meeting starts or ends at the moment written"
            if after == " over":
                assert under_way(problem.meetings, now) > (problem.rooms or 0) and task.answer == "NO"
        last = re.search(r"[A-L](\d)$", events)
        if last and problem.rooms:
            assert int(last[1]) == problem.rooms - under_way(problem.meetings, now)
        full = problem.kind == "slots" and under_way(problem.meetings, now - 1) == problem.rooms
        assert bool(opens) == full
    gaps = r"^(\d\d)(\d\d)-(\d\d)(\d\d) (.+)=(\d\d) (\d{4}) (\d{4}) (no|ok \S+)$"
    found = re.findall(gaps, text, re.MULTILINE)
    empty = re.findall(r"^(\d{4})-\1 no$", text, re.MULTILINE)
    assert len(found) + len(empty) == len(re.findall(r" (?:no|ok \S+)$", text, re.MULTILINE))
    for since_hour, since_minute, hour, minute, steps, rest, last, since, verdict in found:
        now = (int(hour), int(minute))
        for step in steps.split(" borrow "):
            assert step == f"{now[0]:02d}h{now[1]:02d}-{problem.minutes}"
            assert (now[1] < problem.minutes) == (step != steps.split(" borrow ")[-1])
            final, now = now, (now[0] - 1, now[1] + 60)
        assert final[1] - problem.minutes == int(rest) and last == f"{final[0]:02d}{rest}"
        assert since == since_hour + since_minute
        span = f"{since_hour}:{since_minute}-{last[:2]}:{last[2:]}"
        assert verdict == (f"ok {span}" if last >= since else "no")
    if problem.kind == "slots":
        assert found or empty
        assert (", ".join(verdict[3:] for *_, verdict in found if verdict != "no") or "none") == task.answer


def test_half_hour_solutions_copy_each_meeting_first() -> None:
    domain, found = load("scheduling:half-hour"), 0
    for index in range(40):
        task = domain.task("train", index)
        lines = domain.worked(task).splitlines()
        for span in task.facts["spans"]:
            assert span in task.question and span in lines
            found += 1
        rest = [line for line in lines if line not in task.facts["spans"]]
        assert "\n".join(rest) == worked(task.facts["problem"])
    assert found > 100


def test_a_solution_as_it_is_read() -> None:
    day = ((540, 630), (600, 660), (645, 720))
    listed = "0900+A\n1030-A\n1000+B\n1100-B\n1045+C\n1200-C\n"
    assert worked(Problem("fits", "easy", day, 2)) == (
        f"Fit in 2\n{listed}free 2 until 12\n09 00\n0900+A1\n10 00 30 45\n1000+B0\n1030-A1\n1045+C0\n"
        "11 00\n1100-B1\n12 00\n1200-C2\nAnswer: YES"
    )
    assert worked(Problem("fits", "easy", day, 1)).endswith("1000+B over\nAnswer: NO")
    assert "\n1000+B new2\n" in worked(Problem("rooms", "easy", day))
    assert worked(Problem("rooms", "easy", day)).endswith("\nHow many: 2\nAnswer: 2")
    slots = worked(Problem("slots", "easy", day, 2, (540, 780), 30))
    assert "\n1030-A1 open\n" in slots and (
        "\n0900-1000 10h00-30 borrow 09h60-30=30 0930 0900 ok 09:00-09:30\n" in slots
    )


def test_labels_are_balanced_whatever_the_difficulty() -> None:
    found = items(load("scheduling:half-hour"), "test", 400)
    for difficulty in ("easy", "medium"):
        of = Counter(task.answer for task in found if task.difficulty == difficulty)
        assert 0.4 < of["YES"] / of.total() < 0.6
    for name, shortcut in load("scheduling:half-hour").heuristics().items():
        score = sum(shortcut(task) == task.answer for task in found) / len(found)
        assert score < 0.8, f"{name} scores {score}: the labels give themselves away"


def test_the_seeds_distribution_is_as_they_described_it() -> None:
    found = [seeds(Random(i)) for i in range(600)]
    yes = sum(answer(problem) == "YES" for problem in found) / 600
    assert 0.85 < yes < 0.91  # they stored 132 of 150
    assert all(answer(problem) == "YES" for problem in found if problem.difficulty == "easy")
    assert all(start % 60 == end % 60 == 0 for problem in found for start, end in problem.meetings)


def test_phrasings_are_many_and_every_fact_is_in_the_question() -> None:
    assert len(set(FITS + COUNT + SLOTS)) >= 30
    for index in range(100):
        problem = half_hour(Random(index))
        text = wording(problem, Random(index))[0]
        assert len(re.findall(r"\d\d?(?:[:h]\d\d|h)?(?:am|pm)?", text)) >= 2 * len(problem.meetings)
        assert "1 rooms" not in text and "one rooms" not in text
    assert label(Problem("slots", "easy", ((540, 600),), 1, (480, 1020), 30)) == "slots 2"


@given(
    st.sampled_from(["scheduling", "scheduling:half-hour", "scheduling:seeds"]),
    st.integers(0, 500),
    st.integers(),
)
@settings(max_examples=60, deadline=None)
def test_a_problem_told_again_is_the_same_problem(name: str, index: int, seed: int) -> None:
    """Key, answer and class stay; the answer is found by the worked solution of the new telling."""
    domain = Scheduling(name.partition(":")[2] or "full")
    task = domain.task("train", index)
    told = domain.retell(task, Random(seed))
    assert (told.key, told.label, told.kind, told.difficulty) == (
        task.key,
        task.label,
        task.kind,
        task.difficulty,
    )
    if task.kind != "slots":
        assert told.answer == task.answer
    assert grade(domain, told, domain.worked(told), truncated=False) is Verdict.RIGHT


def test_a_problem_is_told_in_many_ways() -> None:
    domain = Scheduling("half-hour")
    task = domain.task("train", 3)
    assert len({domain.retell(task, Random(seed)).question for seed in range(20)}) == 20
