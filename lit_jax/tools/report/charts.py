"""Lines over steps as coordinates of an SVG: ticks, curves and bands, which a template draws."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 24  # Margins of the plot.
LARGEST, SMALLEST = 1e30, 1e-30  # A larger number is not drawn, a smaller one is 0.
MOST = 240  # Most points of a line; if there are more, neighbours are averaged.

Point = tuple[float, float]
T = TypeVar("T")


@dataclass(frozen=True)
class Line:
    """Values over steps, in order, and for some steps an interval: (step, low, high)."""

    name: str
    points: Sequence[Point]
    band: Sequence[tuple[float, float, float]] = ()


class Mark(NamedTuple):
    """A point of a line on the page, and its tooltip."""

    x: float
    y: float
    says: str


class Curve(NamedTuple):
    """A line on the page: `path` and `band` are the points of an SVG polyline and polygon, `bars` (x, low, high)."""

    name: str
    path: str
    band: str
    bars: list[tuple[float, float, float]]
    marks: list[Mark]


class Chart(NamedTuple):
    """A chart of WIDTH x HEIGHT; ticks are (coordinate, text)."""

    title: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    curves: list[Curve]


def chart(title: str, lines: Sequence[Line], *, zero: bool = False) -> Chart | None:
    """The chart of `lines`, or None if none of them has a point. With `zero` the axis of values begins at 0."""
    lines = [Line(line.name, _drawn(line.points), line.band) for line in lines]
    lines = [Line(line.name, _thin(line.points), line.band) for line in lines if line.points]
    if not lines:
        return None
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points] + [
        y for line in lines for b in line.band for y in b[1:]
    ]
    x_ticks, y_ticks = _ticks(min(xs), max(xs)), _ticks(0.0 if zero else min(ys), max(ys))
    x_low, x_high = min(xs), max(*xs, min(xs) + 1)
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    def curve(line: Line) -> Curve:
        ends = [f"{across(x)},{down(high)}" for x, _, high in line.band]
        ends += [f"{across(x)},{down(low)}" for x, low, _ in reversed(line.band)]
        intervals = {x: f" ({low:.4g} to {high:.4g})" for x, low, high in line.band}
        return Curve(
            line.name,
            " ".join(f"{across(x)},{down(y)}" for x, y in line.points),
            " ".join(ends),
            [(across(x), down(low), down(high)) for x, low, high in line.band],
            [
                Mark(across(x), down(y), f"step {x:,.0f}: {line.name} {y:.4g}{intervals.get(x, '')}")
                for x, y in line.points
            ],
        )

    return Chart(
        title,
        [(across(x), short(x)) for x in x_ticks if x_low <= x <= x_high],
        [(down(y), short(y)) for y in y_ticks],
        [curve(line) for line in lines],
    )


def groups(items: Sequence[T]) -> list[Sequence[T]]:
    """At most MOST groups of neighbours; a line has a point for each, at the last step of the group."""
    size = max(1, -(-len(items) // MOST))
    return [items[start : start + size] for start in range(0, len(items), size)]


def short(value: float) -> str:
    """A number for an axis: 0.25, 1,500, 20k, 1.5M, 2e-05."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers, the first not above `low` and the last not below `high`."""
    span, size = high - low, max(abs(low), abs(high))
    if span <= 1e-6 * size or size < SMALLEST:  # The line is flat.
        span = abs(high) if abs(high) >= SMALLEST else 1.0
    rough = span / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [float(f"{i * step:.10g}") for i in range(first, last + 1)]


def _drawn(points: Sequence[Point]) -> list[Point]:
    return [(x, y if abs(y) >= SMALLEST else 0.0) for x, y in points if abs(y) <= LARGEST]


def _thin(points: Sequence[Point]) -> list[Point]:
    """At most MOST points, each the mean of its neighbours."""
    return [(group[-1][0], math.fsum(y for _, y in group) / len(group)) for group in groups(points)]
