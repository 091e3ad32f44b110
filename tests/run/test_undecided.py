"""Why a claim is open: not measured here, interval too wide, figure in doubt; with the rows behind it and the rows it
would take."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest

from genward.metrics.intervals import wilson
from genward.run import claims as c
from genward.run.undecided import DOUBT, MISSING, WIDE, needed

NUMBERS = {
    "tenth": 0.1, "tenths": 0.1, "fifth": 0.2, "quarter": 0.25, "third": 1 / 3, "half": 0.5, "six tenths": 0.6,
    "nine tenths": 0.9, "twentieth": 0.05,
}  # fmt: skip


def claim(**fields: Any) -> c.Claim:
    given = {"id": "x", "system": "X", "statement": "s", "paper": "p", "form": "value", "command": "c", "arm": "a"}
    return c.Claim(**{**given, "variant": ("name",), **fields})


def metrics(*cells: dict[str, Any], pairs: Any = ()) -> dict[str, Any]:
    return {"run": {"name": "mine", "concepts": {}}, "cells": list(cells), "pairs": list(pairs)}


def cell(arm: str = "a", crr: float | None = 0.1, half: float = 0.2, n: int = 12, **fields: Any) -> dict[str, Any]:
    ends = {} if crr is None else {"crr_low": max(0.0, crr - half), "crr_high": crr + half}
    return {"arm": arm, "concept": "cat", "variant": "name", "crr": crr, **ends, "n": n, **fields}


def row(data: dict[str, Any], asked: c.Claim) -> dict[str, Any]:
    (found,) = c.claims(data, [asked])["claims"]
    return found


def test_what_is_missing_is_named() -> None:
    for data, asked, why in (
        (metrics(cell("b")), claim(at_most=0.2), "this run has no arm a"),
        (metrics(cell(variant="scene")), claim(at_most=0.2), "this run has no column name"),
        (metrics(cell()), claim(at_most=0.2, kinds=("style",)), "kind style"),
        (
            metrics(cell(crr=None, why="no scored rows")),
            claim(at_most=0.2),
            "a has no figure crr on cat, name: no scored rows",
        ),
        (metrics(cell(crr=0.9, half=0.0)), claim(above=0.8, base_at_least=0.85), "no arm base"),
    ):
        found = row(data, asked)
        assert (found["verdict"], found["reason"]) == (c.OPEN, MISSING) and why in found["why"], found
        assert found["rows_needed"] is None and found["run"] == "mine"


def test_an_interval_that_is_too_wide_says_from_how_many_rows_and_how_many_it_takes() -> None:
    found = row(metrics(cell(crr=0.1, half=0.2)), claim(at_most=0.2))
    assert (found["verdict"], found["reason"], found["n"], found["rows_needed"]) == (c.OPEN, WIDE, 12, 48)
    assert found["why"] == "0.2 lies within 0 to 0.3, from 12 rows; about 48 would decide it if the figure stays"
    decided = row(metrics(cell(crr=0.1, half=0.05)), claim(at_most=0.2))
    assert (decided["verdict"], decided["reason"], decided["why"], decided["rows_needed"]) == (c.HOLDS, "", "", None)
    assert decided["n"] == 12


def ends(hits: float, n: int) -> tuple[float, float]:
    found = wilson(hits, n)
    return found.low, found.high


def test_the_rows_it_takes_do_decide_it() -> None:
    """Against the interval itself: Wilson's, of the same share at that many rows, no longer holds the bound."""
    for hits, n, limit in ((3, 12, 0.4), (0, 6, 0.2), (0, 24, 0.05), (11, 12, 0.7), (12, 12, 0.9), (40, 60, 0.75)):
        asked = claim(at_most=limit)
        rate = c.Estimate(hits / n, *ends(hits, n))
        assert rate.low < limit < rate.high
        rows = needed(asked, rate, n)
        assert rows is not None and rows > n
        low, high = ends(hits / n * rows, rows)
        assert not low <= limit <= high or min(abs(limit - low), abs(limit - high)) < 0.02, (hits, n, limit, rows)


def test_no_number_where_none_would_do() -> None:
    assert needed(claim(at_most=0.2), c.Estimate(0.2, 0.1, 0.3), 12) is None, "it lies on the bound"
    assert needed(claim(at_most=0.2), c.Estimate(0.2001, 0.1, 0.3), 12) is None, "millions of rows"
    assert needed(claim(at_most=0.2), c.Estimate(0.1, 0.0, 0.3), None) is None
    assert needed(claim(at_most=0.2), c.UNKNOWN, 12) is None
    band = claim(at_least=0.1, at_most=0.5)
    assert needed(band, c.Estimate(0.2, 0.0, 0.6), 10) == math.ceil(10 * 2**2), "both bounds have to be cleared"


def test_a_figure_in_doubt_says_so() -> None:
    data = metrics(cell("a", 0.97, 0.02), cell("base", 0.5, 0.02))
    found = row(data, claim(above=0.9, base_at_least=0.85))
    assert (found["verdict"], found["reason"], found["rows_needed"]) == (c.OPEN, DOUBT, None)
    assert "the undefended model reaches 0.50" in found["why"]


def test_rows_are_counted_as_the_measure_counts_them() -> None:
    two = metrics(cell(within=0.9, within_n=5, n_benign=7, benign_fpr=0.1), cell("b", n=9))
    assert row(two, claim(measure="within", above=0.5))["n"] == 5
    assert row(two, claim(measure="benign_fpr", at_most=0.5))["n"] == 7
    assert row(two, claim(form="difference", versus="b", at_most=0.5))["n"] == 9, "the smaller of two"
    pair = {"arm": "a", "versus": "b", "concept": "cat", "variant": "name", "measure": "crr", "n": 8}
    paired = metrics(cell(), cell("b", n=9), pairs=[pair])
    assert row(paired, claim(form="difference", versus="b", at_most=0.5))["n"] == 8, "pairs that both have"
    unknown = metrics(cell(retention=0.9))
    assert row(unknown, claim(measure="retention", above=0.5))["n"] is None


@pytest.mark.parametrize("asked", c.load_claims(), ids=lambda x: x.id)
def test_ids_agree_with_statements(asked: c.Claim) -> None:
    """An id that names a share names the one of its statement, and that is the bound."""
    named = [word for word in NUMBERS if word.replace(" ", "-") in asked.id and word not in ("tenths", "tenth")]
    for word in named:
        assert word in asked.statement, f"{asked.id}: {asked.statement}"
        limits = [x for x in (asked.at_most, asked.at_least, asked.below, asked.above) if x is not None]
        assert any(abs(abs(x) - NUMBERS[word]) < 1e-3 for x in limits)
    assert not re.search(r"halves|thirds|quarters", asked.id), "a verb that claims another share than the bound"
