"""Plots and curves in SVG units: where marks, bars, ticks and labels go.

Labels stand in a column beside the frame, each tied to its mark by a line, so that no two of them collide however near
the marks are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from genward.core.blocks import Axis, Curve, Plot, Point

WIDTH, HEIGHT = 574, 398
LEFT, RIGHT, TOP, BOTTOM = 58, 188, 18, 52
"""Around the frame, which is a square: a point is as long on both axes. Labels stand in the space on the right."""
PITCH = 18
"""From one label's line to the next, where there is room."""
LETTERS = 20
"""Of a label; the rest is in the tip."""
COLORS = 7
SHAPES = ("circle", "up", "down", "cross")
"""Color and shape go round apart, so that 28 arms differ in one of the two, without either in most."""
CURVE_WIDTH, CURVE_HEIGHT, PAD = 260, 90, 6
"""Size of a curve's picture and the space around the line."""


class Mark(NamedTuple):
    """A point with its bars and the place of its label."""

    label: str
    role: str
    tip: str
    x: float
    y: float
    x1: float
    x2: float
    y1: float
    y2: float
    tx: float
    ty: float
    color: int
    shape: str


class Drawing(NamedTuple):
    """A plot ready to draw."""

    marks: tuple[Mark, ...]
    xticks: tuple[tuple[float, str], ...]
    """(place, text)"""
    yticks: tuple[tuple[float, str], ...]


def palette(plots: Sequence[Plot]) -> dict[str, int]:
    """Label of an arm under test -> its number, the same in every plot of a choice."""
    tested = (p.label for plot in plots for p in plot.points if p.role in ("", "defense"))
    return {label: k for k, label in enumerate(dict.fromkeys(tested))}


def draw(plot: Plot, numbers: Mapping[str, int] | None = None) -> Drawing:
    """Where everything of a plot goes; ``numbers`` as ``palette`` gives them, by default the plot's own."""
    numbers = palette([plot]) if numbers is None else numbers

    def x(v: float) -> float:
        return round(LEFT + _share(plot.x, v) * (WIDTH - LEFT - RIGHT), 1)

    def y(v: float) -> float:
        return round(HEIGHT - BOTTOM - _share(plot.y, v) * (HEIGHT - TOP - BOTTOM), 1)

    places = column([(y(p.y), x(p.x)) for p in plot.points])
    marks = []
    for p, ty in zip(plot.points, places, strict=True):
        (x1, x2), (y1, y2) = _ends(p)
        k = numbers.get(p.label, 0)
        at = (x(p.x), y(p.y), x(x1), x(x2), y(y1), y(y2), WIDTH - RIGHT + 24.0, ty)
        marks.append(Mark(p.label, p.role or "defense", p.text, *at, k % COLORS, SHAPES[k % len(SHAPES)]))
    xticks = tuple((x(v), text) for v, text in plot.x.ticks)
    return Drawing(tuple(marks), xticks, tuple((y(v), text) for v, text in plot.y.ticks))


def column(at: Sequence[tuple[float, float]]) -> list[float]:
    """The height of each label in the column, for marks at (y, x): in the order of the marks from above, as near to
    them as ``PITCH`` allows, within the frame; closer together where there are more than fit."""
    order = sorted(range(len(at)), key=lambda k: (at[k], k))
    low, high = float(TOP + 6), float(HEIGHT - BOTTOM - 4)
    pitch = min(float(PITCH), (high - low) / max(1, len(at) - 1))
    out = [0.0] * len(at)
    above = low - pitch
    for k in order:
        above = out[k] = max(at[k][0], above + pitch)
    below = high + pitch
    for k in reversed(order):
        below = out[k] = min(out[k], below - pitch)
    return [round(v, 1) for v in out]


def _share(axis: Axis, value: float) -> float:
    """How far along the axis a value lies, 0 to 1; what lies beyond an end is drawn at the end."""
    low, high = axis.ticks[0][0], axis.ticks[-1][0]
    return min(1.0, max(0.0, (value - low) / (high - low)))


def _ends(p: Point) -> tuple[tuple[float, float], tuple[float, float]]:
    def ends(value: float, low: float | None, high: float | None) -> tuple[float, float]:
        return (value if low is None else min(low, value)), (value if high is None else max(high, value))

    return ends(p.x, p.x_low, p.x_high), ends(p.y, p.y_low, p.y_high)


def line(curve: Curve) -> str:
    """A curve's points as SVG writes them, from corner to corner; a flat one runs through the middle."""
    low, high = min(curve.values), max(curve.values)
    across, down = CURVE_WIDTH - 2 * PAD, CURVE_HEIGHT - 2 * PAD
    points = []
    for k, v in enumerate(curve.values):
        y = PAD + down * (1 - (v - low) / (high - low)) if high > low else CURVE_HEIGHT / 2
        points.append(f"{PAD + across * k / (len(curve.values) - 1):.1f},{y:.1f}")
    return " ".join(points)
