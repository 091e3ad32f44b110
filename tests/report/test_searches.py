"""The attacks section: costs, learning curves, round trips."""

from __future__ import annotations

import pytest

from genward.report.searches import HEIGHT, PAD, WIDTH, curve, searches

ROW = {
    "attack": {"name": "ddim_inversion", "fields": {"steps": 50, "prompt": "", "refine": 0, "words": ["a"]}},
    "arms": ["uce", "uce + irece"],
    "scenarios": ["latent-white"],
    "cost": {"nfe": 1200, "gradient_nfe": 0, "seconds": 12.5},
    "facts": [{"round_trip": 0.2}, {"round_trip": 0.4}, {"round_trip": -1.0}, {"round_trip": None}],
}


def test_costs_and_round_trips_are_read() -> None:
    (found,) = searches([ROW])
    assert (found.attack, found.arms, found.nfe, found.seconds) == ("ddim_inversion", "uce, uce + irece", 1200, 12.5)
    assert found.fields == "steps 50, refine 0" and found.round_trip == pytest.approx(0.3) and found.curves == ()


def test_a_search_without_arms_went_through_the_undefended_model() -> None:
    (found,) = searches([{"attack": {"name": "x"}, "arms": [], "cost": {}, "facts": []}])
    assert found.arms == "the undefended model" and found.round_trip is None and found.seconds == 0


def test_a_falling_curve_goes_down_from_corner_to_corner() -> None:
    found = curve({"concept": "banana", "word": "object", "curve": [1.0, 0.5, 0.25]})
    assert found is not None and (found.first, found.last, found.steps) == (1.0, 0.25, 3)
    points = [tuple(map(float, p.split(","))) for p in found.points.split(" ")]
    assert points[0] == (PAD, PAD) and points[-1] == (WIDTH - PAD, HEIGHT - PAD)


@pytest.mark.parametrize("raw", [None, [], [1.0], "loss", [float("nan"), 1.0]])
def test_what_is_no_curve_is_left_out(raw: object) -> None:
    assert curve({"curve": raw}) is None
