"""docs/seeds.md from the result of the study, or with dashes where nothing is measured yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

UNKNOWN = "–"
TITLES = (
    *("who", "parser", "right % (95 % interval)", "balanced %", "YES % / NO %", "easy / medium / hard %"),
    *("unparsed / cut off", "NO by default", "p against ours", "p against always YES"),
)

HEAD = """# The first experiment, done again

The first experiment reported that a student of 1.5B, tuned on 100 examples, answers 82.7 % of 150 meeting-room
questions, more than its teacher's 81.3 %. Its stored results do not carry that. Two meetings always fit in two rooms,
so a third of the test is always YES, and who says YES to everything scores 88.0 %; "YES if there are at most two
meetings more than rooms", which compares no times, scores 91.3 %. The stored students found at most one of the
eighteen questions whose answer is NO: a balanced accuracy of 0.47 to 0.51, a coin's. The parser read YES anywhere in
the first 20 to 50 characters and NO from everything else, prompts changed together with the adapter, and the training
texts had no steps, no chat template, no end and no loss mask, and were cut at 512 tokens, probably before the answer.
82.7 against 81.3 % is 124 against 122 questions (p = 0.76).
"""

FOOT = """
`theirs` has the texts with a short strategy, so that the answers are in them; `theirs_cut` has a long one, and every
answer is cut off. Which of the two the first experiment trained on cannot be told from what it published. Neither can
the bytes of its questions: these have its parameters and seeds. Lenient is its parser, strict is ours: an answer line,
or nothing. "NO by default" counts answers in which the lenient parser saw neither word. p is McNemar's, exact and
two-sided. `base` is the model without an adapter under the same prompt.
"""


def page(result: Mapping[str, Any] | None = None) -> str:
    """The page as markdown: what their numbers meant, what holds now, and the table."""
    arms = result["arms"] if result else {}
    rows = [_row(name, one) for name, one in arms.items()] or [(UNKNOWN,) * len(TITLES)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (TITLES, ("---",) * len(TITLES), *rows)]
    how = "`router distill study seeds --out DIR --page docs/seeds.md` makes this page."
    return f"{HEAD}\n{_now(result)}\n\n" + "\n".join(lines) + f"\n{FOOT}\n{how}\n"


def _now(result: Mapping[str, Any] | None) -> str:
    if not result:
        return f"What holds now is not measured yet: {UNKNOWN}."
    arms, problems, training = result["arms"], result["problems"], result["training"]
    no = sum(level["NO"] for level in problems["labels"].values())
    theirs, cut, ours = (arms[name] for name in ("theirs", "theirs_cut", "ours"))
    always, rule = arms["always YES"], arms["meetings <= rooms + 2"]
    twice = problems["in_training"]["seed 999"]
    return (
        f"With the same parameters and seeds and {result['base']['id']}, {no} of {problems['n']} questions are NO; "
        f"always YES scores {_percent(always['accuracy'])} % and the rule {_percent(rule['accuracy'])} %. Their "
        f"recipe, {training['theirs']['minutes']:.0f} minutes of training, scores {_score(theirs)}, and "
        f"{_score(cut)} with the answers cut off: {_against(theirs, 'always YES')}. Ours, on {result['examples']} "
        f"balanced examples with the steps written out ({result['own_examples']}, none of them in the test, "
        f"{training['ours']['minutes']:.0f} minutes), scores {_score(ours)}: {_against(ours, 'always YES')}, and "
        f"{_against(ours, 'meetings <= rooms + 2', 'the rule')}. Against each other, ours alone is right on "
        f"{theirs['mcnemar']['ours']['c']} questions and theirs alone on {theirs['mcnemar']['ours']['b']} "
        f"(p = {theirs['mcnemar']['ours']['p']:.2g}). {twice['any_order']} test questions are among their training "
        f"questions when the order of the meetings is ignored, {twice['any_order_and_hour']} when the hour is too."
    )


def _score(arm: Mapping[str, Any]) -> str:
    low, high = arm["interval"]
    return (
        f"{_percent(arm['accuracy'])} % ({_percent(low)}–{_percent(high)}), balanced "
        f"{_percent(arm['balanced_accuracy'])} %"
    )


def _against(arm: Mapping[str, Any], other: str, called: str | None = None) -> str:
    """Whether the arm is better or worse than a rule, by McNemar at 5 %."""
    pair = arm["mcnemar"][other]
    word = (
        "no different from" if pair["p"] >= 0.05 else "better than" if pair["b"] > pair["c"] else "worse than"
    )
    return f"{word} {called or other} (p = {pair['p']:.2g})"


def _row(name: str, one: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = one["interval"]
    strict, rule = one["parser"] == "strict", one["parser"] == "rule"
    recall, levels = one["recall"], one["levels"]
    return (
        name if name == one["about"] else f"{name}: {one['about']}",
        UNKNOWN if rule else one["parser"],
        f"{_percent(one['accuracy'])} ({_percent(low)}–{_percent(high)})",
        _percent(one["balanced_accuracy"]),
        f"{_of(recall, 'YES')} / {_of(recall, 'NO')}",
        " / ".join(_of(levels, level) for level in ("easy", "medium", "hard")),
        f"{one['unparsed']} / {one['truncated']}" if strict else UNKNOWN,
        UNKNOWN if strict or rule else str(one["defaults"]),
        _p(one, "ours"),
        _p(one, "always YES"),
    )


def _of(shares: Mapping[str, float], name: str) -> str:
    return _percent(shares[name]) if name in shares else UNKNOWN


def _p(one: Mapping[str, Any], other: str) -> str:
    pair = one["mcnemar"].get(other)
    return f"{pair['p']:.2g}" if pair else UNKNOWN


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
