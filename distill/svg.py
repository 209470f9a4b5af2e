"""Small charts as inline SVG: lines, and intervals beside each other. No script, no library; colours come from CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 260
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 14, 40  # room for labels, in pixels
ROW = 28  # pixels of one interval
LEAST = 1e-5  # what a logarithmic scale shows of anything smaller


@dataclass(frozen=True)
class Line:
    """Points (x, y) in order; `bars`: their intervals (low, high), drawn as whiskers; dots: draw points alone."""

    name: str
    points: Sequence[tuple[float, float]]
    bars: Sequence[tuple[float, float]] = ()
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """One interval: a point between low and high, as fractions of 1."""

    name: str
    value: float
    low: float
    high: float


def lines(
    title: str,
    series: Sequence[Line],
    x: str,
    y: str,
    log: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    percent: bool = False,
) -> str:
    """A line chart; log: y on a logarithmic scale; marks: upright lines (x, words)."""
    points = [point for line in series for point in line.points]
    if not points:
        return ""
    xs = [point[0] for point in points]
    ys = [point[1] for point in points] + [edge for line in series for bar in line.bars for edge in bar]
    if log:
        ys = [max(value, LEAST) for value in ys]
        low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
        ticks = [10.0**power for power in range(low, max(high, low + 1) + 1)]
    else:
        ticks = steps(0.0 if percent and min(ys) < 0.5 else min(ys), 1.0 if percent else max(ys))
    bottom, top = ticks[0], ticks[-1]
    left, right = min(xs), max(xs)

    def at_x(value: float) -> float:
        share = (value - left) / (right - left) if right > left else 0.5
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def at_y(value: float) -> float:
        if log:
            share = (math.log10(max(value, bottom)) - math.log10(bottom)) / math.log10(top / bottom)
        else:
            share = (value - bottom) / (top - bottom)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    parts = []
    for tick in ticks:
        label = f"{100 * tick:.0f} %" if percent else f"{tick:g}"
        parts.append(_rule(LEFT, at_y(tick), WIDTH - RIGHT, at_y(tick), "grid"))
        parts.append(_text(LEFT - 6, at_y(tick) + 4, label, "end"))
    for tick in steps(left, right) if right > left else [left]:
        if left <= tick <= right:
            parts.append(_text(at_x(tick), HEIGHT - BOTTOM + 16, f"{tick:g}", "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x, "middle"))
    for place, words in marks:
        parts.append(_rule(at_x(place), TOP, at_x(place), HEIGHT - BOTTOM, "mark", words))
    for number, line in enumerate(series):
        colour = f"c{number % 6}"
        path = " ".join(f"{at_x(a):.1f},{at_y(b):.1f}" for a, b in line.points)
        if not line.dots and len(line.points) > 1:
            parts.append(f'<polyline class="{colour}" points="{path}"/>')
        for index, (a, b) in enumerate(line.points):
            if line.bars:
                low_, high_ = line.bars[index]
                parts.append(_rule(at_x(a), at_y(low_), at_x(a), at_y(high_), f"whisker {colour}"))
            if line.dots or line.bars or len(line.points) == 1:
                words = f"{line.name}: {b:.3g} at {a:g}"
                parts.append(
                    f'<circle class="{colour}" cx="{at_x(a):.1f}" cy="{at_y(b):.1f}" r="4">'
                    f"<title>{escape(words)}</title></circle>"
                )
    return _figure(title, f"{y} by {x}", HEIGHT, parts, [line.name for line in series])


def intervals(title: str, bars: Sequence[Bar], levels: Sequence[tuple[str, float]] = ()) -> str:
    """Intervals from 0 to 100 %, one a row; levels: named dashed lines across all, such as a baseline."""
    if not bars:
        return ""
    label = 190.0
    height = TOP + ROW * len(bars) + 24 + 16 * len(levels)

    def at(share: float) -> float:
        return label + share * (WIDTH - label - RIGHT - 40)

    bottom = TOP + ROW * len(bars)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(_rule(at(tick), TOP, at(tick), bottom, "grid"))
        parts.append(_text(at(tick), bottom + 16, f"{100 * tick:.0f} %", "middle"))
    for number, (name, share) in enumerate(levels):
        parts.append(_rule(at(share), TOP, at(share), bottom, "level"))
        y = float(bottom) + 34 + 16 * number
        parts.append(_rule(at(share), bottom, at(share), y - 10, "level"))
        side = "end" if share > 0.5 else "start"
        parts.append(_text(at(share), y, f"{name} {100 * share:.1f} %", side))
    for row, bar in enumerate(bars):
        y = TOP + ROW * row + ROW / 2
        parts.append(_text(label - 10, y + 4, _cut(bar.name), "end"))
        parts.append(_rule(at(bar.low), y, at(bar.high), y, "whisker c0"))
        parts.append(f'<circle class="c0" cx="{at(bar.value):.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(_text(at(1.0) + 10, y + 4, f"{100 * bar.value:.1f}", "start"))
    return _figure(title, "accuracy with its 95 % interval", height + 8, parts, [])


def steps(low: float, high: float) -> list[float]:
    """Round numbers from at or below `low` to at or above `high`, about five."""
    if high <= low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    size *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first, last = math.floor(low / size + 1e-9), math.ceil(high / size - 1e-9)
    return [round(number * size, 10) for number in range(first, last + 1)]


def smooth(values: Sequence[float], most: int = 200) -> list[tuple[float, float]]:
    """(step, mean) of at most so many equal stretches."""
    width = max(1, -(-len(values) // most))
    return [
        (at + min(width, len(values) - at) / 2, sum(values[at : at + width]) / len(values[at : at + width]))
        for at in range(0, len(values), width)
    ]


def _figure(title: str, about: str, height: float, parts: Sequence[str], names: Sequence[str]) -> str:
    keys = "".join(f'<span class="key c{n % 6}">{escape(name)}</span>' for n, name in enumerate(names))
    legend = f'<div class="keys">{keys}</div>' if len(names) > 1 else ""
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>{legend}"
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img"><title>{escape(title)}</title>'
        f"<desc>{escape(about)}</desc>{''.join(parts)}</svg></figure>"
    )


def _rule(x1: float, y1: float, x2: float, y2: float, kind: str, words: str = "") -> str:
    inside = f"<title>{escape(words)}</title>" if words else ""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}">{inside}</line>'


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _cut(words: str, most: int = 28) -> str:
    return words if len(words) <= most else words[: most - 1] + "…"
