"""The trade-off plot: what is left of a concept against what is kept of everything else, as an SVG written by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from genward.report.tables import Estimate, Grid, interval, percent

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 18, 52


@dataclass(frozen=True)
class Point:
    """One arm: retention to the right, residual upwards; both shares from 0 to 1."""

    label: str
    role: str
    x: Estimate
    y: Estimate
    text: str = ""
    """The point in words; empty: as residual and retention"""


@dataclass(frozen=True)
class Mark:
    """A point in SVG units, with its bars and the place of its label."""

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


@dataclass(frozen=True)
class Plot:
    """One concept and wording, ready to draw."""

    concept: str
    variant: str
    marks: tuple[Mark, ...]
    xticks: tuple[tuple[float, str], ...]
    yticks: tuple[tuple[float, str], ...]
    missing: tuple[str, ...]


def points(grid: Grid, concept: str, variant: str = "") -> tuple[list[Point], list[str]]:
    """Arms that have both figures, and the labels of those that have cells but lack one."""
    out, missing = [], []
    for arm in grid.arms:
        x, y = grid.measure(arm.label, concept, "retention"), grid.residual(arm.label, concept, variant)
        if x.value is not None and y.value is not None:
            out.append(Point(arm.label, arm.role, x, y))
        elif grid.cells(arm.label, concept):
            missing.append(arm.label)
    return out, missing


def ticks(low: float, high: float) -> list[float]:
    """Round shares that enclose ``low`` and ``high``, at most seven, within 0 and 1."""
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if s == 0.2 or (high - low) / s <= 5)
    first, last = max(0, floor(low / step + 1e-9)), min(round(1 / step), ceil(high / step - 1e-9))
    if last <= first:
        first, last = max(0, last - 1), max(0, last - 1) + 1
    return [round(k * step, 4) for k in range(first, last + 1)]


def _ends(e: Estimate) -> tuple[float, float]:
    value = e.value or 0.0
    return (value if e.low is None else min(e.low, value)), (value if e.high is None else max(e.high, value))


def plots(grid: Grid, concept: str) -> list[Plot]:
    """One plot over all wordings, then one a wording; all on the same axes, so that they compare."""
    variants = grid.variants(concept)
    drawn = {w: points(grid, concept, w) for w in (["", *variants] if len(variants) > 1 else variants)}
    every = [p for found, _ in drawn.values() for p in found]
    if not every:
        return []
    xs, ys = [v for p in every for v in _ends(p.x)], [v for p in every for v in _ends(p.y)]
    xt, yt = ticks(min(xs), max(xs)), ticks(0.0, max(ys))
    return [_plot(concept, variant, found, missing, xt, yt) for variant, (found, missing) in drawn.items() if found]


def square(concept: str, found: Sequence[Point], missing: Sequence[str]) -> Plot:
    """One plot of points whose axes both start at 0."""
    xt, yt = ticks(0.0, max(_ends(p.x)[1] for p in found)), ticks(0.0, max(_ends(p.y)[1] for p in found))
    return _plot(concept, "", found, missing, xt, yt)


def _plot(
    concept: str, variant: str, found: Sequence[Point], missing: Sequence[str], xt: Sequence[float], yt: Sequence[float]
) -> Plot:
    def x(v: float) -> float:
        return round(LEFT + (v - xt[0]) / (xt[-1] - xt[0]) * (WIDTH - LEFT - RIGHT), 1)

    def y(v: float) -> float:
        return round(HEIGHT - BOTTOM - (v - yt[0]) / (yt[-1] - yt[0]) * (HEIGHT - TOP - BOTTOM), 1)

    at = [(x(p.x.value or 0.0), y(p.y.value or 0.0)) for p in found]
    places = place([p.label for p in found], at)
    marks = []
    for p, (px, py), (tx, ty, anchor) in zip(found, at, places, strict=True):
        (x1, x2), (y1, y2) = _ends(p.x), _ends(p.y)
        marks.append(Mark(p.label, p.role, tip(p), px, py, x(x1), x(x2), y(y1), y(y2), tx, ty, anchor))
    scale = [tuple((f(v), percent(v)) for v in t) for f, t in ((x, xt), (y, yt))]
    return Plot(concept, variant, tuple(marks), scale[0], scale[1], tuple(missing))


def tip(p: Point) -> str:
    """A point in words."""
    if p.text:
        return p.text
    parts = [
        f"{name} {percent(e.value)} %" + (f" ({interval(e, percent)})" if e.half is not None else "")
        for name, e in (("residual", p.y), ("retention", p.x))
    ]
    return f"{p.label}: {', '.join(parts)}"


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
