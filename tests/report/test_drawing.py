"""Plots and curves in SVG units: inside the frame, labels apart, curves from corner to corner."""

from __future__ import annotations

from genward.core.blocks import Axis, Curve, Plot, Point
from genward.report.drawing import (
    BOTTOM,
    CURVE_HEIGHT,
    CURVE_WIDTH,
    HEIGHT,
    LEFT,
    PAD,
    RIGHT,
    TOP,
    WIDTH,
    draw,
    line,
    place,
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


def test_labels_of_one_place_avoid_each_other() -> None:
    places = place(["base", "zero"], [(300.0, 200.0), (300.0, 200.0)])
    assert places[0] != places[1]


def test_a_falling_curve_goes_down_from_corner_to_corner() -> None:
    points = [tuple(map(float, p.split(","))) for p in line(Curve("x", (1.0, 0.5, 0.25))).split(" ")]
    assert points[0] == (PAD, PAD) and points[-1] == (CURVE_WIDTH - PAD, CURVE_HEIGHT - PAD)
    flat = [tuple(map(float, p.split(","))) for p in line(Curve("x", (1.0, 1.0))).split(" ")]
    assert {y for _, y in flat} == {CURVE_HEIGHT / 2}
