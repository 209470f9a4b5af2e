"""Meeting rooms: the solver against brute force, the worked solution step by step, balance, wording."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from specialists.domain import items, load
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
    hours = text.split("By hour\n")[1].split("\nRooms")[0]
    assert re.findall(r"\d{4}-\d{4}", hours) == [
        f"{s // 60:02}{s % 60:02}-{e // 60:02}{e % 60:02}" for s, e in sorted(problem.meetings)
    ]
    for start, checks in re.findall(r"^(\d{4})-\d{4}:(.*) >", text, re.MULTILINE):
        for end, verdict in re.findall(r"[A-L](\d{4}) (free|busy)", checks):
            assert (end <= start) == (verdict == "free")
    for hour, minute, less, rest, last in re.findall(r": (\d+)h(\d+)-(\d+)=(\d+) > (\d{4})", text):
        assert int(minute) - int(less) == int(rest)
        assert f"{hour}{rest}" == last


def test_a_solution_as_it_is_read() -> None:
    assert worked(Problem("fits", "easy", ((540, 630), (600, 660), (645, 720)), 2)) == (
        "Fit in 2\n0900-1030\n1000-1100\n1045-1200\nBy hour\n09 0900-1030\n10 1000-1100 1045-1200\nRooms\n"
        "0900-1030: > A1030\n1000-1100: A1030 busy > B1100\n1045-1200: A1030 free B1100 busy > A1200\n"
        "Used A B = 2, have 2\nAnswer: YES"
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
        text = wording(problem, Random(index))
        assert len(re.findall(r"\d\d?(?:[:h]\d\d|h)?(?:am|pm)?", text)) >= 2 * len(problem.meetings)
        assert "1 rooms" not in text and "one rooms" not in text
    assert label(Problem("slots", "easy", ((540, 600),), 1, (480, 1020), 30)) == "slots 2"
