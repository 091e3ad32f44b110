"""The trade-off of an erasure-like run: what is left of a concept against what is kept of everything else."""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, floor

from genward.core.blocks import Axis, Choice, Plot, Point, Section, Text
from genward.sections.cells import Grid
from genward.sections.numbers import Estimate, interval, percent

NOTE = (
    "Further down is better erasure, further right is less damage; both axes have one scale. Bars are intervals. "
    "Filled: defenses; hollow: controls. Point at a mark, or reach it with Tab, to read it."
)


def section(grid: Grid) -> Section:
    """A plot per concept; no blocks where no arm has both figures."""
    drawn = [p for c in grid.concepts if (p := plots(grid, c)) is not None]
    return Section("tradeoff", "Trade-off: what is removed, what is lost", (Text(NOTE), *drawn) if drawn else ())


def plots(grid: Grid, concept: str) -> Choice | Plot | None:
    """One plot over all prompt variants, then one per variant; all on the same axes, so that they compare. ``None``
    where no arm has both figures."""
    variants = grid.variants(concept)
    several = len(variants) > 1
    drawn = {w: points(grid, concept, w) for w in (["", *variants] if several else variants)}
    every = [p for found, _ in drawn.values() for p in found]
    if not every:
        return None
    x, y = equal_axes("retention, % (more is better)", "concept left, % (less is better)", every)
    options = []
    for variant, (found, missing) in drawn.items():
        if found:
            said = f"Residual {concept} against retention, {variant or 'mean over prompt variants'}"
            options.append((variant or "all (mean)", Plot(concept, x, y, tuple(found), said, tuple(missing))))
    return Choice(concept, "prompt variant", tuple(options)) if len(options) > 1 else options[0][1]


def points(grid: Grid, concept: str, variant: str = "") -> tuple[list[Point], list[str]]:
    """Arms that have both figures, and the labels of those that have cells but lack one."""
    out, missing = [], []
    for arm in grid.arms:
        x, y = grid.measure(arm.label, concept, "retention"), grid.residual(arm.label, concept, variant)
        if x.value is not None and y.value is not None:
            parts = [
                f"{name} {percent(e.value)} %" + (f" ({interval(e, percent)})" if e.half is not None else "")
                for name, e in (("residual", y), ("retention", x))
            ]
            out.append(point(arm.label, arm.role, x, y, f"{arm.label}: {', '.join(parts)}"))
        elif grid.cells(arm.label, concept):
            missing.append(arm.label)
    return out, missing


def point(label: str, role: str, x: Estimate, y: Estimate, text: str) -> Point:
    """A plot's point of two estimates that have values."""
    assert x.value is not None and y.value is not None, f"{label} has no place in a plot"
    return Point(label, x.value, y.value, text, role, x.low, x.high, y.low, y.high)


def reach(ends: Iterable[tuple[float, float | None, float | None]]) -> tuple[float, float]:
    """The smallest and the largest of values and interval ends, (value, low, high) each."""
    every = [v for part in ends for v in part if v is not None]
    return min(every), max(every)


def equal_axes(x: str, y: str, points: Iterable[Point]) -> tuple[Axis, Axis]:
    """Two axes of shares over one range, from 0 to what holds every bar: a point is as long on both."""
    ends = [e for p in points for e in ((p.x, p.x_low, p.x_high), (p.y, p.y_low, p.y_high))]
    high = reach(ends)[1]
    return share_axis(x, 0.0, high), share_axis(y, 0.0, high)


def share_axis(name: str, low: float, high: float) -> Axis:
    """An axis of shares, marked in percent, that encloses ``low`` and ``high``."""
    return Axis(name, tuple((v, percent(v)) for v in ticks(low, high)))


def ticks(low: float, high: float) -> list[float]:
    """Round shares that enclose ``low`` and ``high``, at most seven, within 0 and 1."""
    step = next(s for s in (0.02, 0.05, 0.1, 0.2) if s == 0.2 or (high - low) / s <= 5)
    first, last = max(0, floor(low / step + 1e-9)), min(round(1 / step), ceil(high / step - 1e-9))
    if last <= first:
        first, last = max(0, last - 1), max(0, last - 1) + 1
    return [round(k * step, 4) for k in range(first, last + 1)]
