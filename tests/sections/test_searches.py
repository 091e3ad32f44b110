"""The attacks section: costs, learning curves, round trips."""

from __future__ import annotations

import pytest

from genward.core.blocks import Curve, Heading, Table, Text
from genward.sections.searches import curve, search, section

ROW = {
    "attack": {"name": "ddim_inversion", "fields": {"steps": 50, "prompt": "", "refine": 0, "words": ["a"]}},
    "arms": ["uce", "uce + irece"],
    "scenarios": ["latent-white"],
    "cost": {"nfe": 1200, "gradient_nfe": 0, "seconds": 12.5},
    "facts": [{"round_trip": 0.2}, {"round_trip": 0.4}, {"round_trip": -1.0}, {"round_trip": None}],
}


def test_costs_and_round_trips_are_read() -> None:
    found = search(ROW)
    values = [c.value for c in found.cells if c is not None]
    assert found.label == "ddim_inversion" and found.note == "steps 50, refine 0"
    assert values[:5] == ["uce, uce + irece", "latent-white", 1200, 0, 12.5] and values[5] == pytest.approx(0.3)
    assert [type(b) for b in section({"attacks": [ROW]}).blocks] == [Text, Table]


def test_a_search_without_arms_went_through_the_undefended_model() -> None:
    found = search({"attack": {"name": "x"}, "arms": [], "cost": {}, "facts": []})
    values = [c.value for c in found.cells if c is not None]
    assert values == ["the undefended model", "", 0, 0, 0.0, None]


def test_a_curve_is_smoothed_over_a_tenth_of_its_steps() -> None:
    found = curve({"concept": "banana", "word": "object", "curve": [1.0, 0.5, 0.25]})
    assert found == Curve("banana, from “object”", (1.0, 0.5, 0.25))
    raw = [float((7 * k) % 10) for k in range(40)]
    found = curve({"concept": "banana", "curve": raw})
    assert found is not None and len(found.values) == 40
    assert found.values[0] == raw[0] and found.values[20] == pytest.approx(sum(raw[17:21]) / 4)
    row = {**ROW, "facts": [{"concept": "banana", "curve": raw}]}
    assert [type(b) for b in section({"attacks": [row]}).blocks] == [Text, Table, Heading, Curve]


@pytest.mark.parametrize("raw", [None, [], [1.0], "loss", [float("nan"), 1.0]])
def test_what_is_no_curve_is_left_out(raw: object) -> None:
    assert curve({"curve": raw}) is None
