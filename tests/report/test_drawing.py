"""Plots and curves in SVG units: inside the frame, labels apart, curves from corner to corner."""

from __future__ import annotations

import random

import pytest

from genward.core.blocks import Axis, Curve, Plot, Point
from genward.report.drawing import (
    BOTTOM,
    CURVE_HEIGHT,
    CURVE_WIDTH,
    HEIGHT,
    LEFT,
    PAD,
    PITCH,
    RIGHT,
    TOP,
    WIDTH,
    column,
    draw,
    line,
    palette,
)

AXIS = Axis("share, %", ((0.0, "0"), (0.5, "50"), (1.0, "100")))


def test_a_plot_goes_from_corner_to_corner_and_bars_stay_inside() -> None:
    points = (
        Point("low", 0.0, 0.0, "low: 0, 0"),
        Point("high", 1.0, 1.0, "high: 1, 1", "base", 0.9, 1.2, 0.5, 1.4),
        Point("mid", 0.5, 0.25, "mid", "oracle", None, 0.75),
    )
    found = draw(Plot("x", AXIS, AXIS, points))
    low, high, mid = found.marks
    assert (low.x, low.y) == (LEFT, HEIGHT - BOTTOM) and (high.x, high.y) == (WIDTH - RIGHT, TOP)
    assert mid.x == (LEFT + WIDTH - RIGHT) / 2 and mid.x1 == mid.x < mid.x2 and mid.y1 == mid.y2 == mid.y
    assert (high.x2, high.y2) == (WIDTH - RIGHT, TOP) and high.x1 < high.x and high.y1 > high.y
    assert found.xticks == ((LEFT, "0"), (mid.x, "50"), (WIDTH - RIGHT, "100"))
    assert [m.role for m in found.marks] == ["defense", "base", "oracle"] and low.tip == "low: 0, 0"


@pytest.mark.parametrize("many", [1, 2, 12, 19, 40])
def test_labels_never_collide_and_stay_within_the_frame(many: int) -> None:
    """However near the marks are: all in one place, all at one end, or anywhere."""
    rng = random.Random(many)
    for at in (
        [(200.0, 300.0)] * many,
        [(float(HEIGHT - BOTTOM), 60.0)] * many,
        [(rng.uniform(TOP, HEIGHT - BOTTOM), rng.uniform(LEFT, WIDTH - RIGHT)) for _ in range(many)],
    ):
        places = column(at)
        pitch = min(float(PITCH), (HEIGHT - BOTTOM - TOP - 10) / max(1, many - 1))
        ordered = sorted(places)
        assert all(b - a >= pitch - 0.11 for a, b in zip(ordered, ordered[1:], strict=False))
        assert ordered[0] >= TOP and ordered[-1] <= HEIGHT - BOTTOM
        assert [k for _, k in sorted((p, k) for k, p in enumerate(places))] == sorted(
            range(many), key=lambda k: (at[k], k)
        ), "in the order of the marks, so that few lines cross"
    if many == 2:
        assert column([(100.0, 60.0), (300.0, 60.0)]) == [100.0, 300.0], "beside its mark where there is room"


def test_an_axis_is_as_long_as_the_other_and_arms_keep_their_looks() -> None:
    assert WIDTH - LEFT - RIGHT == HEIGHT - TOP - BOTTOM
    arms = [Point(f"arm {k}", 0.5, 0.5, "x") for k in range(28)]
    looks = [(m.color, m.shape) for m in draw(Plot("x", AXIS, AXIS, tuple(arms))).marks]
    assert len(set(looks)) == 28
    whole = Plot("x", AXIS, AXIS, tuple(arms[:3]))
    part = Plot("x", AXIS, AXIS, (arms[2], Point("base", 0.1, 0.1, "x", "base")))
    numbers = palette([whole, part])
    assert draw(part, numbers).marks[0].color == draw(whole, numbers).marks[2].color == 2


def test_a_falling_curve_goes_down_from_corner_to_corner() -> None:
    points = [tuple(map(float, p.split(","))) for p in line(Curve("x", (1.0, 0.5, 0.25))).split(" ")]
    assert points[0] == (PAD, PAD) and points[-1] == (CURVE_WIDTH - PAD, CURVE_HEIGHT - PAD)
    flat = [tuple(map(float, p.split(","))) for p in line(Curve("x", (1.0, 1.0))).split(" ")]
    assert {y for _, y in flat} == {CURVE_HEIGHT / 2}
