"""Verdicts on rates: every sensitivity down to a stated one, and each judge alone, must give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from genward.run import claims as c
from genward.run.doubt import disagreement, scaled

CARD = {"sensitivity": 0.9, "specificity": 0.98}


def corrected(p: float, sensitivity: float, specificity: float) -> float:
    return (p + specificity - 1) / (sensitivity + specificity - 1)


@pytest.mark.parametrize(("p", "q"), [(0.02, 0.1), (0.3, 0.5), (0.4, 0.6)])
def test_the_range_is_that_of_every_sensitivity(p: float, q: float) -> None:
    """Against the formula at each sensitivity of a fine grid."""
    found = scaled(CARD, corrected(p, 0.9, 0.98), corrected(q, 0.9, 0.98), 0.67)
    grid = [min(1.0, corrected(x, se, 0.98)) for x in (p, q) for se in np.linspace(0.67, 1, 200)]
    assert found == pytest.approx((min(grid), max(grid)), abs=1e-12)


def test_what_the_range_does_not_reach() -> None:
    assert scaled(CARD, 0.0, 0.9) == (0.0, 1.0), "a rate is at most 1"
    assert scaled({}, 0.1, 0.2) is None, "metrics of earlier versions do not say"
    low, high = scaled({"sensitivity": 0.6, "specificity": 1.0}, 0.5, 0.5) or (0.0, 0.0)
    assert (low, high) == (pytest.approx(0.3), 0.5), "the cell's own sensitivity is lower than the lowest one"
    assert scaled({"sensitivity": 0.9, "specificity": 0.2}, 0.1, 0.2) is None


def metrics(**figures: Any) -> dict[str, Any]:
    cell = {"arm": "a", "concept": "x", "variant": "name", **figures}
    return {"run": {"concepts": {"x": {"kind": "object"}}}, "cells": [cell]}


def told(found: dict[str, Any], **fields: Any) -> tuple[str, str]:
    claim = c.Claim("x", "X", "s", "p", "value", "c", arm="a", **fields)
    (row,) = c.claims(found, [claim])["claims"]
    return row["verdict"], row["why"]


RATE = {"crr": 0.15, "crr_low": 0.1, "crr_high": 0.18}


def test_a_verdict_that_a_worse_judge_would_turn_is_not_told() -> None:
    verdict, why = told(metrics(**RATE, **CARD), at_most=0.2)
    assert verdict == c.OPEN and "from 0.67 to 1" in why and "0.24" in why
    assert told(metrics(**RATE, **CARD), at_most=0.3) == (c.HOLDS, "")
    assert told(metrics(**RATE, **CARD), at_most=0.2, sensitivity=0.9) == (c.HOLDS, "")
    assert told(metrics(**RATE), at_most=0.2) == (c.HOLDS, ""), "metrics of earlier versions are read as they were"
    fails = {"crr": 0.9, "crr_low": 0.85, "crr_high": 0.95}
    assert told(metrics(**fails, **CARD), at_most=0.2) == (c.FAILS, "")
    assert told(metrics(**fails, **CARD), at_most=0.8)[0] == c.OPEN, "at a sensitivity of 1 it might hold"


def test_two_judges_have_to_say_the_same() -> None:
    first = {"crr_raw": 0.14, "crr_raw_low": 0.1, "crr_raw_high": 0.18}
    same = {"second": 0.2, "second_low": 0.15, "second_high": 0.25}
    other = {"second": 0.5, "second_low": 0.4, "second_high": 0.6}
    assert told(metrics(**RATE, **CARD, **first, **same), at_most=0.3) == (c.HOLDS, "")
    verdict, why = told(metrics(**RATE, **CARD, **first, **other), at_most=0.3)
    assert verdict == c.OPEN and "by the second judge 0.50, does not hold" in why
    kept = {"retention": 0.95, "retention_low": 0.92, "retention_high": 0.97}
    lost = {"retention_second": 0.5, "retention_second_low": 0.4, "retention_second_high": 0.6}
    assert told(metrics(**kept), measure="retention", at_least=0.9) == (c.HOLDS, "")
    assert told(metrics(**kept, **lost), measure="retention", at_least=0.9)[0] == c.OPEN


def test_judges_without_an_interval_contradict_nobody() -> None:
    nan = float("nan")
    assert disagreement("holds", [("first", 0.1, 0.0, 0.2), ("second", 0.5, nan, nan)], lambda a, b: "holds") == ""
    both = [("first", 0.1, 0.0, 0.2), ("second", 0.5, 0.4, 0.6)]
    assert disagreement("holds", both, lambda a, b: "holds" if b < 0.3 else "cannot tell") != ""
