"""Claims: verdicts on intervals, arithmetic on intervals against simulation, reading of cells."""

from __future__ import annotations

import math
import random

import pytest

from genward.errors import BadInput
from genward.run import claims as c


def claim(**fields: object) -> c.Claim:
    return c.Claim(
        **{
            "id": "x",
            "system": "X",
            "statement": "s",
            "paper": "p",
            "form": "ratio",
            "command": "c",
            "arm": "a",
            "versus": "base",
            **fields,
        }
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("low", "high", "bound", "want"),
    [
        (0.1, 0.2, {"at_most": 0.2}, c.HOLDS),
        (0.1, 0.21, {"at_most": 0.2}, c.OPEN),
        (0.21, 0.3, {"at_most": 0.2}, c.FAILS),
        (0.0, 0.3, {"above": 0.0}, c.OPEN),
        (0.01, 0.3, {"above": 0.0}, c.HOLDS),
        (-0.2, 0.0, {"above": 0.0}, c.FAILS),
        (-0.2, -0.1, {"below": 0.0}, c.HOLDS),
        (0.0, 0.1, {"below": 0.0}, c.FAILS),
        (1.0, 1.0, {"at_least": 1.0}, c.HOLDS),
        (0.0, 0.0, {"at_least": 1.0}, c.FAILS),
        (0.2, 0.4, {"at_least": 0.1, "at_most": 0.5}, c.HOLDS),
        (0.0, 0.9, {"at_least": 0.1, "at_most": 0.5}, c.OPEN),
        (0.6, 0.9, {"at_least": 0.1, "at_most": 0.5}, c.FAILS),
        (math.nan, 0.1, {"at_most": 0.2}, c.OPEN),
    ],
)
def test_the_whole_interval_decides(low: float, high: float, bound: dict[str, float], want: str) -> None:
    assert c.judge_interval(claim(**bound), low, high) == want


def test_interval_arithmetic_covers_like_simulation() -> None:
    rng = random.Random(3)
    a, b = (0.30, 0.04), (0.80, 0.05)
    inside = {"difference": 0, "ratio": 0, "mean": 0}
    rounds = 2000
    for _ in range(rounds):
        x, y = (c.Estimate(v, v - 1.96 * s, v + 1.96 * s) for v, s in ((rng.gauss(*a), a[1]), (rng.gauss(*b), b[1])))
        for name, got, truth in (
            ("difference", c.difference(x, y), a[0] - b[0]), ("ratio", c.ratio(x, y), a[0] / b[0]), ("mean", c.mean([x,
            y]), (a[0] + b[0]) / 2),
        ):  # fmt: skip
            inside[name] += got.low <= truth <= got.high
    assert all(0.93 < v / rounds < 0.97 for v in inside.values()), inside


def test_nothing_is_made_of_nothing() -> None:
    assert not c.mean([]).known
    assert not c.ratio(c.Estimate(0.1, 0.0, 0.2), c.Estimate(0.1, 0.0, 0.2)).known
    assert not c.difference(c.UNKNOWN, c.Estimate(0.1, 0.0, 0.2)).known


def cell(
    arm: str, concept: str, variant: str, crr: float, half: float = 0.02, retention: float = 0.9
) -> dict[str, object]:
    around = {"crr": crr, "crr_low": max(0.0, crr - half), "crr_high": crr + half}
    return {
        "arm": arm,
        "concept": concept,
        "variant": variant,
        **around,
        "retention": retention,
        "retention_low": 0.88,
        "retention_high": 0.92,
    }


def metrics() -> dict[str, object]:
    figures = {
        "base": 0.9,
        "uce": 0.1,
        "esd-u": 0.2,
        "sld medium": 0.3,
        "sld strong": 0.2,
        "sld max": 0.1,
        "sld weak": 0.6,
        "concept ablation": 0.88,
    }
    cells = [
        cell(a, k, w, v)
        for a, v in figures.items()
        for k in ("weapons", "banana")
        for w in ("name", "synonym", "synonym-heldout", "description")
    ]
    cells += [
        cell("base", "style-monotone", "name", 0.9),
        cell("esd-x", "style-monotone", "name", 0.5),
        cell("sld medium", "style-monotone", "name", 0.6),
    ]
    return {"run": {"concepts": {}}, "cells": cells}


def verdicts(data: dict[str, object]) -> dict[str, str]:
    return {
        row["id"]: row["verdict"] for row in c.claims(data, [x for x in c.load_claims() if x.form != "exact"])["claims"]
    }


def test_the_table_reads_a_run() -> None:
    got = verdicts(metrics())
    assert got["uce-erases-names"] == got["uce-synonyms"] == got["sld-presets-are-ordered"] == c.HOLDS
    assert got["sld-medium-halves"] == got["esd-u-erases-objects"] == c.HOLDS
    assert got["negative-prompt-halves"] == c.OPEN  # the arm is not in this run
    assert got["esd-x-beats-sld-on-styles"] == c.HOLDS
    assert got["uce-keeps-others"] == c.HOLDS and got["esd-u-costs-others"] == c.OPEN


def test_rows_have_the_published_fields() -> None:
    (row,) = c.claims(metrics(), [claim(at_most=0.2, arm="uce", kinds=("policy", "object"))])["claims"]
    assert set(row) == {"id", "system", "statement", "paper", "ours", "low", "high", "verdict", "command"}
    assert row["ours"] == pytest.approx(0.1111, abs=1e-3)
    assert row["low"] < row["ours"] < row["high"]


def test_the_order_of_presets_fails_where_one_step_certainly_rises() -> None:
    data = metrics()
    for row in data["cells"]:  # type: ignore[attr-defined]
        if row["arm"] == "sld max":
            row |= {"crr": 0.5, "crr_low": 0.48, "crr_high": 0.52}
    assert verdicts(data)["sld-presets-are-ordered"] == c.FAILS


def test_paired_intervals_are_taken_where_the_run_has_them() -> None:
    data = metrics()
    pair = {
        "arm": "uce",
        "versus": "base",
        "variant": "name",
        "measure": "crr",
        "ratio": 0.3,
        "ratio_low": 0.25,
        "ratio_high": 0.35,
    }
    data["pairs"] = [{**pair, "concept": k} for k in ("weapons", "banana")]
    (row,) = c.claims(data, [claim(at_most=0.2, arm="uce", kinds=("policy", "object"))])["claims"]
    assert (row["ours"], row["verdict"]) == (0.3, c.FAILS)
    assert row["high"] - row["low"] == pytest.approx(0.1 / math.sqrt(2), abs=1e-3)


def test_claims_without_bounds_or_cells_are_refused() -> None:
    with pytest.raises(BadInput, match="satisfy"):
        claim()
    with pytest.raises(BadInput, match="no cells"):
        c.claims({"run": {}})


def test_every_shipped_claim_has_its_text_and_a_command() -> None:
    rows = c.load_claims()
    assert len({r.id for r in rows}) == len(rows) >= 12
    assert all(r.statement and r.paper and r.command.startswith("genward ") for r in rows)
