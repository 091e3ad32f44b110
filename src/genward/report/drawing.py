"""Plots and curves in SVG units: where marks, bars, ticks and labels go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from genward.core.blocks import Axis, Curve, Plot, Point

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 18, 52
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
    anchor: str


class Drawing(NamedTuple):
    """A plot ready to draw."""

    marks: tuple[Mark, ...]
    xticks: tuple[tuple[float, str], ...]
    """(place, text)"""
    yticks: tuple[tuple[float, str], ...]


def draw(plot: Plot) -> Drawing:
    """Where everything of a plot goes."""

    def x(v: float) -> float:
        return round(LEFT + _share(plot.x, v) * (WIDTH - LEFT - RIGHT), 1)

    def y(v: float) -> float:
        return round(HEIGHT - BOTTOM - _share(plot.y, v) * (HEIGHT - TOP - BOTTOM), 1)

    at = [(x(p.x), y(p.y)) for p in plot.points]
    places = place([p.label for p in plot.points], at)
    marks = []
    for p, (px, py), (tx, ty, anchor) in zip(plot.points, at, places, strict=True):
        (x1, x2), (y1, y2) = _ends(p)
        marks.append(Mark(p.label, p.role or "defense", p.text, px, py, x(x1), x(x2), y(y1), y(y2), tx, ty, anchor))
    xticks = tuple((x(v), text) for v, text in plot.x.ticks)
    return Drawing(tuple(marks), xticks, tuple((y(v), text) for v, text in plot.y.ticks))


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


def place(labels: Sequence[str], at: Sequence[tuple[float, float]]) -> list[tuple[float, float, str]]:
    """For each label a position (x, y, anchor) near its point that covers no point and no earlier label, if there is
    one.

    Greedy over 14 places around the point; 6.6 units a letter at the plot's letter size.
    """
    boxes = [(px - 6, py - 6, px + 6, py + 6) for px, py in at]
    out = []
    for k, (label, (px, py)) in enumerate(zip(labels, at, strict=True)):
        width = 6.6 * min(len(label), 28)
        best: tuple[float, tuple[float, float, str], tuple[float, float, float, float]] | None = None
        for rank, (dx, dy, anchor) in enumerate(_around()):
            x, y = px + dx, py + dy
            left = x if anchor == "start" else x - width if anchor == "end" else x - width / 2
            box = (left, y - 10, left + width, y + 3)
            out_of = (
                max(0.0, LEFT + 2 - box[0])
                + max(0.0, box[2] - WIDTH + 2)
                + max(0.0, TOP - box[1])
                + max(0.0, box[3] - HEIGHT + BOTTOM + 2)
            )
            cost = rank + 50 * out_of + 10 * sum(_shared(box, other) for j, other in enumerate(boxes) if j != k)
            if best is None or cost < best[0]:
                best = cost, (round(x, 1), round(y, 1), anchor), box
        assert best is not None
        boxes.append(best[2])
        out.append(best[1])
    return out


def _around() -> list[tuple[float, float, str]]:
    near = [
        (10, -6, "start"),
        (10, 14, "start"),
        (-10, -6, "end"),
        (-10, 14, "end"),
        (0, -12, "middle"),
        (0, 20, "middle"),
    ]
    far = [(s * 14, dy, "start" if s > 0 else "end") for dy in (-20, 28, -34, 42) for s in (1, -1)]
    return [(float(dx), float(dy), anchor) for dx, dy, anchor in near + far]


def _shared(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
