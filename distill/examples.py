"""Training examples: worked solutions that a teacher wrote, checked, balanced, and never shared with a test."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from specialists.domain import Domain, Task, Verdict, grade, load
from specialists.errors import BadInput, Damaged
from specialists.prompts import PROMPTS, messages
from specialists.steps import wrong_step

from .choose import covering
from .example import Example
from .solve import Attempt, solve
from .teacher import Teacher

HELD_OUT = 1000  # test items of every variant of a domain that training never sees
TRIES = 3  # tasks that a teacher may be asked for each example wanted
ANSWER_LINE = re.compile(r"^Answer:.*", re.MULTILINE)


@dataclass(frozen=True)
class Collected:
    """Examples kept, and how many solutions were not, by reason; `quoted` has the first rejected of each reason."""

    kept: list[Example]
    rejected: Mapping[str, int]
    quoted: Mapping[str, str]


def held_out(domain: Domain) -> set[str]:
    """Contents of the test items of this domain's variants whose distribution is not thinned by split."""
    variants: Iterable[str] = getattr(domain, "unthinned", ())
    return {load(name).task("test", index).key for name in variants for index in range(HELD_OUT)}


def tasks(domain: Domain, split: str = "train", dropped: Counter[str] | None = None) -> Iterator[Task]:
    """The split's items with distinct contents that no test has, in order; ends when nothing new comes any more.

    dropped: counts what was passed over, by reason.
    """
    tests = held_out(domain)
    seen: set[str] = set()
    index = since = 0
    while since < 2000:
        task = domain.task(split, index)
        index, since = index + 1, since + 1
        if task.key not in seen and task.key not in tests:
            seen.add(task.key)
            since = 0
            yield task
        elif dropped is not None:
            dropped["in a test" if task.key in tests else "drawn before"] += 1


def examples(domain: Domain, n: int, split: str = "train", skip: int = 0) -> list[Example]:
    """n examples of the domain's own solver, checked, after the first `skip`; labels as even as the split allows.

    Raises BadInput when the domain's own worked solution does not pass its own grader, or too few exist.
    """
    found = _first(domain, skip + n, split)
    return [_own(domain, task) for task in found[skip:]]


def retold(domain: Domain, found: Sequence[Example], times: int, seed: int = 0) -> list[Example]:
    """Each example told `times` ways: as it is, and by the domain's own retelling of its problem, solved by its solver.

    The problems stay the same ones, by their keys; only words, order and the like differ. All come once before any
    comes a second time. Raises BadInput where the domain cannot tell a problem again, or did not draw it.
    """
    again = getattr(domain, "retell", None)
    if again is None:
        raise BadInput(f"{domain.name} cannot tell a problem in other words; leave out --retell.")
    wanted = {example.key for example in found}
    drawn: dict[str, Task] = {}
    for task in tasks(domain):
        if task.key in wanted:
            drawn[task.key] = task
        if len(drawn) == len(wanted):
            break
    told = list(found)
    for at in range(1, times):
        for example in found:
            task = again(drawn[example.key], Random(f"{at}/{example.key}/{seed}"))
            if task.key != example.key:
                raise BadInput(f"{domain.name} told {example.key!r} as another problem: mend its retell().")
            told.append(_own(domain, task))
    return told


def candidates(
    domain: Domain, n: int, among: int | None = None, dropped: Counter[str] | None = None
) -> list[Task]:
    """Tasks for a teacher to write n examples of, TRIES times as many where there are.

    Those come first that `covering` chooses out of `among`, judged by the domain's own solutions; in the order of the
    split without `among`. dropped: as in `tasks`.
    """
    if not among:
        return _first(domain, TRIES * n, "train", least=n, dropped=dropped)
    by_key = {task.key: task for task in _first(domain, max(among, n), "train", dropped=dropped)}
    own = [_own(domain, task) for task in by_key.values()]
    return [by_key[example.key] for example in covering(own, min(len(own), TRIES * n))]


def collect(
    teacher: Teacher,
    domain: Domain,
    n: int,
    strategy: str,
    found: Sequence[Task],
    done: Callable[[], object] | None = None,
) -> Collected:
    """n examples whose solutions the teacher writes under a strategy, from the first tasks that it solves rightly.

    Kept is what the domain verifies, with no wrong step where the domain can tell (specialists.steps). No label gets
    more than its even share as long as the others can be had. Raises BadInput when too few are kept.
    """
    kept: list[Example] = []
    rejected: Counter[str] = Counter()
    quoted: dict[str, str] = {}
    mark = _mark(strategy)
    waiting = list(found)
    share = -(-n // max(1, len({task.label for task in found})))
    while len(kept) < n and waiting:
        had = Counter(example.label for example in kept)
        even = [task for task in waiting if had[task.label] < share]
        wanted: list[Task] = []
        planned = Counter(had)
        for task in even or waiting:
            if len(wanted) < n - len(kept) and (planned[task.label] < share or not even):
                wanted.append(task)
                planned[task.label] += 1
        asked = {task.key for task in wanted}
        waiting = [task for task in waiting if task.key not in asked]
        for one in solve(teacher, domain, wanted, strategy, "examples", done):
            reason = _unfit(domain, one)
            if reason:
                rejected[reason] += 1
                quoted.setdefault(reason, f"{one.task.question}\n\n{one.reply.text}")
                continue
            source = {"teacher": teacher.id, "strategy": mark, "domain": domain.name}
            kept.append(_example(domain, one.task, _ended(one.reply.text), source))
    if len(kept) < n:
        raise BadInput(
            f"{teacher.id} gave {len(kept)} right solutions to {len(found)} tasks of {domain.name}, {n} are wanted "
            f"({_counts(rejected)}); ask for fewer examples, or choose a stronger teacher."
        )
    return Collected(kept, dict(sorted(rejected.items())), quoted)


def _counts(rejected: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "nothing rejected"


def _unfit(domain: Domain, one: Attempt) -> str | None:
    """Why a solution is not learnt from; None when it is good."""
    if one.reply.ended not in ("end_turn", "max_tokens"):
        return one.reply.ended
    if one.reply.truncated:
        return "truncated"
    if not one.right:
        return str(one.verdict)
    return "wrong step" if wrong_step(domain, one.task, one.reply.text) else None


def _ended(text: str) -> str:
    """A solution up to its last answer line: what a teacher says after it is not to be learnt."""
    last = max((match.end() for match in ANSWER_LINE.finditer(text)), default=len(text))
    return text[:last].strip()


def _mark(strategy: str) -> str:
    """What names a strategy in provenance: the sha256 of its text, or none."""
    return sha256(strategy.strip().encode()).hexdigest() if strategy.strip() else "none"


def answers_only(found: Iterable[Example]) -> list[Example]:
    """The same examples with nothing but the answer line: what the worked steps are worth is seen beside them."""
    return [
        replace(
            example,
            completion=ANSWER_LINE.findall(example.completion)[-1],
            source={**example.source, "steps": False},
        )
        for example in found
    ]


def write_jsonl(found: Iterable[Example]) -> bytes:
    """One JSON object a line, the same bytes for the same examples."""
    return b"".join(
        json.dumps(asdict(example), ensure_ascii=False, sort_keys=True).encode() + b"\n" for example in found
    )


def read_jsonl(path: Path) -> list[Example]:
    """Examples of a file. Raises BadInput when it is not there, Damaged when a line is no example."""
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"Could not read the examples {path} ({error}); make them with router distill examples."
        ) from error
    if lines == [""]:
        raise BadInput(f"{path} holds no example; make them with router distill examples.")
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(Example(**json.loads(line)))
            roles = [(turn["role"], turn["content"] + "") for turn in found[-1].messages]
            if not roles or not isinstance(found[-1].completion, str):
                raise ValueError("no messages or no completion")
        except (ValueError, TypeError, KeyError) as error:
            raise Damaged(
                f"Line {number} of {path} is no example ({error!r}); make the file again."
            ) from error
    return found


def _first(
    domain: Domain, n: int, split: str, least: int | None = None, dropped: Counter[str] | None = None
) -> list[Task]:
    """The first n tasks of a split. Raises BadInput when there are fewer than `least`, by default n."""
    found = list(islice(tasks(domain, split, dropped), n))
    if len(found) < (n if least is None else least):
        raise BadInput(
            f"{domain.name} has only {len(found)} distinct {split} examples; ask for at most that many."
        )
    return found


def _own(domain: Domain, task: Task) -> Example:
    completion = domain.worked(task)
    verdict = grade(domain, task, completion, truncated=False)
    if verdict is not Verdict.RIGHT:
        raise BadInput(
            f"The worked solution of {domain.name} item {task.key!r} is {verdict}: mend its worked()."
        )
    return _example(domain, task, completion, {"teacher": "solver", "domain": domain.name})


def _example(domain: Domain, task: Task, completion: str, source: Mapping[str, Any]) -> Example:
    said = messages(PROMPTS[domain.prompt], task.question)
    return Example(said, completion, task.key, task.label, source)
