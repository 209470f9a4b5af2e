"""The parts of a run's report: each gives the blocks of one section, none where there is nothing to say."""

from __future__ import annotations

from collections.abc import Sequence

from registry.measures import Groups, wilson
from router.ledger import Usage, dollars, money, prices

from .page import Block, Chart, Paragraph, Quote, Table
from .result import Arm, Point, Result
from .svg import Bar, Line, intervals, lines, smooth


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _range(right: int, n: int) -> str:
    low, high = wilson(right, n)
    return f"{percent(low)}–{percent(high)}"


def main(result: Result) -> tuple[str, Arm]:
    """The arm that the report is about: the first."""
    return next(iter(result.arms.items()))


def rivals(result: Result) -> dict[str, float]:
    """What the specialist has to beat, with its accuracy."""
    found = {"the majority answer": result.majority.tally.accuracy}
    if result.heuristic:
        found[f"the best shortcut ({result.heuristic.name})"] = result.heuristic.tally.accuracy
    if "base" in result.arms and main(result)[0] != "base":
        found["the base under the same prompt"] = result.arms["base"].result.accuracy
    return found


def arms(result: Result) -> list[Block]:
    rows = [
        [
            "arm",
            "right",
            "% (95 % interval)",
            "balanced %",
            "wrong",
            "unparsed",
            "truncated",
            "errored",
            "p",
            "what",
        ]
    ]
    against = {pair.b: pair for pair in result.pairs}
    bars = []
    for name, arm in result.arms.items():
        one = arm.result
        counts = [str(count) for count in (one.wrong, one.unparsed, one.truncated, one.errored)]
        p = f"{against[name].p:.2g}" if name in against else ""
        share = f"{percent(one.accuracy)} ({_range(one.right, one.n)})"
        rows.append(
            [name, f"{one.right}/{one.n}", share, percent(one.balanced_accuracy), *counts, p, arm.about]
        )
        bars.append(Bar(name, one.accuracy, *one.interval))
    levels = []
    for baseline, about in ((result.majority, "majority"), (result.heuristic, "shortcut")):
        if baseline:
            one_ = baseline.tally
            share = f"{percent(one_.accuracy)} ({_range(one_.right, one_.n)})"
            empty = ["", "", "", "", ""]
            name = f"{about}: {baseline.name}"
            rows.append(
                [name, f"{one_.right}/{one_.n}", share, percent(one_.balanced_accuracy), *empty, "no model"]
            )
            levels.append((about, one_.accuracy))
    first = main(result)[0]
    return [
        Chart(intervals("Accuracy on the same items", bars, levels)),
        Table(
            f"The same {result.n} items of the {result.split} split for all. p: McNemar's exact test against {first}.",
            rows,
        ),
    ]


def difficulty(result: Result) -> list[Block]:
    levels: Groups = main(result)[1].result.difficulties
    if len(levels) < 2:
        return []
    rows = [["difficulty", "right", "% (95 % interval)"]]
    bars = []
    for level, (right, n) in levels.items():
        rows.append([level, f"{right}/{n}", f"{percent(right / n)} ({_range(right, n)})"])
        bars.append(Bar(level, right / n, *wilson(right, n)))
    return [Chart(intervals(f"{main(result)[0]}, by difficulty", bars)), Table("", rows)]


def confusion(result: Result) -> list[Block]:
    said = sorted({word for row in result.confusion.values() for word in row})
    if not said or len(result.confusion) < 2:
        return []
    rows = [["right answer", *said]]
    for gold, row in result.confusion.items():
        rows.append([gold, *(str(row.get(word, 0)) for word in said)])
    return [Table(f"{main(result)[0]}: how often it said what.", rows)]


def _point_row(point: Point) -> list[str]:
    share = f"{percent(point.accuracy)} ({_range(point.right, point.n)})"
    return [str(point.seed), f"{point.right}/{point.n}", share, percent(point.balanced_accuracy)]


def curve(result: Result) -> list[Block]:
    points = sorted(result.learning, key=lambda point: (point.examples, point.seed))
    if len({point.examples for point in points}) < 2:
        return []
    first = [point for point in points if point.seed == min(p.seed for p in points)]
    rest = [point for point in points if point not in first]
    series = [
        Line(
            "first seed",
            [(point.examples, point.accuracy) for point in first],
            [point.interval for point in first],
        )
    ]
    if rest:
        series.append(Line("other seeds", [(point.examples, point.accuracy) for point in rest], dots=True))
    rows = [["examples", "seed", "right", "% (95 % interval)", "balanced %"]]
    rows += [[str(point.examples), *_point_row(point)] for point in points]
    return [Chart(lines("Learning curve", series, "examples", "accuracy", percent=True)), Table("", rows)]


def smallest(points: Sequence[Point]) -> Point | None:
    """The smallest adapter whose 95 % interval holds the best accuracy of all."""
    best = max((point.accuracy for point in points), default=0.0)
    return min((p for p in points if p.interval[1] >= best), key=lambda p: p.bytes, default=None)


def sizes(result: Result) -> list[Block]:
    points = sorted(result.sizes, key=lambda point: point.bytes)
    if len(points) < 2:
        return []
    series = [
        Line("accuracy", [(p.bytes / 1e6, p.accuracy) for p in points], [point.interval for point in points])
    ]
    rows = [["MB", "rank", "layers", "seed", "right", "% (95 % interval)", "balanced %"]]
    for point in points:
        rows.append(
            [f"{point.bytes / 1e6:.1f}", str(point.rank), ", ".join(point.targets), *_point_row(point)]
        )
    held = smallest(points)
    text = (
        f"The smallest adapter whose interval holds the best accuracy: rank {held.rank} on "
        f"{', '.join(held.targets)}, {held.bytes / 1e6:.1f} MB."
        if held
        else ""
    )
    return [
        Paragraph(text),
        Chart(lines("Accuracy by size", series, "MB", "accuracy", percent=True)),
        Table("", rows),
    ]


def training(result: Result) -> list[Block]:
    runs = result.training
    rows = [
        ["adapter", "examples", "epochs", "rate", "rank", "last loss", "kept step", "minutes", "tokens/s"]
    ]
    for run in runs:
        last = run.loss[-20:]
        end = f"{sum(last) / len(last):.4f}" if last else ""
        figures = [
            f"{run.examples} in {run.texts} texts" if run.texts > run.examples else str(run.examples),
            f"{run.epochs:g}",
            f"{run.lr:g}",
            str(run.rank),
            end,
            str(run.best_step),
        ]
        rows.append([run.name, *figures, f"{run.seconds / 60:.1f}", f"{run.tokens_per_second:.0f}"])
    loss = [Line(run.name, smooth(run.loss, 80)) for run in runs if run.loss]
    dev = [
        Line(run.name, [(step, right / n) for step, right, n in run.dev if n])
        for run in runs
        if len(run.dev) > 1
    ]
    marks = [(float(run.best_step), f"{run.name}: kept") for run in runs if len(run.dev) > 1]
    events = [Paragraph(f"{run.name}: {event}") for run in runs for event in run.events]
    return [
        Chart(lines("Loss, nats a token", loss, "step", "loss", log=True)),
        Chart(lines("Right on dev items", dev, "step", "share right", marks=marks, percent=True)),
        Table("Last loss: the mean of the last 20 steps.", rows),
        *events,
    ]


def examples(result: Result) -> list[Block]:
    found = result.examples
    counts = [["what", "count"], ["kept", str(found.kept)]]
    counts += [[f"not kept: {reason}", str(count)] for reason, count in found.rejected.items()]
    labels = [["label", "kept"], *([label, str(count)] for label, count in found.labels.items())]
    names = ("A kept example", "One that was not kept")
    quotes = [Quote(name, text) for name, text in zip(names, found.quoted, strict=False)]
    return [Table("", counts), Table("", labels), *quotes]


def strategy(result: Result) -> list[Block]:
    found = result.strategy
    if not found:
        return []
    rows = [["version", "from", "accepted", "dev right", "why"]]
    for one in found.versions:
        parent = "" if one.parent is None else f"v{one.parent}"
        rows.append(
            [f"v{one.version}", parent, "yes" if one.accepted else "no", f"{one.right}/{one.n}", one.why]
        )
    diffs = [
        Quote(f"v{one.version} against v{one.parent}", one.diff) for one in found.versions if one.diff.strip()
    ]
    return [Quote("The strategy that the examples follow", found.text), Table("", rows), *diffs]


def errors(result: Result) -> list[Block]:
    return [
        Quote(
            f"{one['verdict']}: {one['got'][:60]}, right is {one['gold'][:60]}",
            f"{one['question']}\n\n{one['got']}",
        )
        for one in result.errors
    ]


def costs(result: Result) -> list[Block]:
    rows = [["stage", "minutes", "calls", "tokens in", "from the prompt cache", "tokens out", "dollars"]]
    for one in result.stages:
        tokens = [f"{one.tokens_in:,}", f"{one.cache_read:,}", f"{one.tokens_out:,}"]
        rows.append([one.name, f"{one.seconds / 60:.1f}", str(one.calls), *tokens, money(one.dollars)])
    rows.append(
        [
            "together",
            f"{result.minutes:.1f}",
            str(sum(one.calls for one in result.stages)),
            "",
            "",
            "",
            money(result.dollars),
        ]
    )
    return [Table("", rows), Paragraph(break_even(result)), Table("", _prices(result))]


def _per_question(result: Result) -> Usage:
    """Mean tokens of a question to the main arm, and of its answer."""
    arm = main(result)[1]
    return Usage(round(arm.tokens_in / arm.result.n), round(arm.result.tokens / arm.result.n))


def _prices(result: Result) -> list[list[str]]:
    usage = _per_question(result)
    rows = [["the same tokens from", "a question", "paid back after"]]
    for model in prices()["models"]:
        price = dollars(model, usage)
        count = f"{result.dollars / price:,.0f} questions" if price and result.dollars else ""
        rows.append([model, money(price), count or "nothing was paid"])
    return rows


def break_even(result: Result) -> str:
    """What the API would take for the same tokens, by prices.json, against what the run cost."""
    usage = _per_question(result)
    return (
        f"A question takes {usage.input} tokens in and {usage.output} out. At the API prices of {prices()['as_of']} "
        f"the run's {money(result.dollars)} are paid back after so many questions; its {result.minutes:.0f} minutes of "
        "computing here are not counted as money."
    )


def again(result: Result) -> list[Block]:
    hashes = [["what", "sha256"], *([name, value] for name, value in result.hashes.items())]
    about = [["what", "which"], *([name, str(value)] for name, value in result.environment.items())]
    base = Paragraph(f"Base: {result.base}.")
    return [Quote("Command", result.command), base, Table("", hashes), Table("", about)]
