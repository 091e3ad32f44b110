"""Claims: verdicts on intervals, arithmetic on intervals against simulation, reading of cells."""

from __future__ import annotations

import dataclasses
import math
import random

import numpy as np
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
    return {row["id"]: row["verdict"] for row in c.claims(data, c.load_claims())["claims"]}


def test_the_table_reads_a_run() -> None:
    got = verdicts(metrics())
    assert got["uce-erases-names"] == got["uce-synonyms"] == got["sld-presets-are-ordered"] == c.HOLDS
    assert got["sld-medium-six-tenths"] == got["esd-u-erases-objects"] == c.HOLDS
    assert got["negative-prompt-six-tenths"] == c.OPEN  # the arm is not in this run
    assert got["esd-x-beats-sld-on-styles"] == c.HOLDS
    assert got["uce-keeps-others"] == c.HOLDS and got["esd-u-costs-others"] == c.OPEN


def test_rows_have_the_published_fields() -> None:
    (row,) = c.claims(metrics(), [claim(at_most=0.2, arm="uce", kinds=("policy", "object"))])["claims"]
    fields = "id system statement paper ours low high n verdict reason why rows_needed run command"
    assert list(row) == fields.split()
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
    (row,) = c.claims(data, [claim(at_most=0.2, arm="uce", kinds=("object",))])["claims"]
    assert (row["ours"], row["verdict"]) == (0.3, c.FAILS)
    assert row["high"] - row["low"] == pytest.approx(0.1, abs=1e-3)


def test_a_value_of_several_columns_is_the_pooled_one_where_there_is_one() -> None:
    cells = [
        {"arm": "a", "concept": "k", "variant": v, "asr": x, "asr_low": 0.0, "asr_high": 1.0}
        for v, x in (("u", 0.1), ("v", 0.3))
    ]
    mine = claim(form="value", measure="asr", variant=("u", "v"), at_most=0.5)
    wide = c.estimate(mine, {"cells": cells})
    assert (wide.value, wide.low, wide.high) == pytest.approx((0.2, 0.0, 1.0))
    pool = {"claim": "x", "arm": "a", "versus": "", "measure": "asr", "value": 0.2, "value_low": 0.1, "value_high": 0.4}
    assert c.estimate(mine, {"cells": cells, "pools": [pool]}) == c.Estimate(0.2, 0.1, 0.4)
    assert c.estimate(mine, {"cells": cells, "pools": [pool | {"claim": "y"}]}) == wide


def test_claims_without_bounds_or_cells_are_refused() -> None:
    with pytest.raises(BadInput, match="satisfy"):
        claim()
    with pytest.raises(BadInput, match="no cells"):
        c.claims({"run": {}})


def test_every_shipped_claim_has_its_text_and_a_command() -> None:
    rows = c.load_claims()
    assert len({r.id for r in rows}) == len(rows) >= 12
    assert all(r.statement and r.paper and r.command.startswith("genward ") for r in rows)


def test_two_arms_that_never_differed_tell_nothing() -> None:
    data = metrics()
    same = {"arm": "uce", "versus": "base", "concept": "banana", "variant": "name", "measure": "retention"}
    data["pairs"] = [{**same, "difference": 0.0, "difference_low": 0.0, "difference_high": 0.0}]
    asked = claim(form="difference", measure="retention", arm="uce", above=-0.05)
    asked = dataclasses.replace(asked, variant=("name",), kinds=("object",))
    (row,) = c.claims(data, [asked])["claims"]
    assert row["verdict"] == c.OPEN and "did not differ in any row" in row["why"]
    data["pairs"][0]["difference_low"] = -0.01
    (row,) = c.claims(data, [asked])["claims"]
    assert row["verdict"] == c.HOLDS and not row["why"]


@pytest.mark.parametrize(("base", "verdict"), [(0.84, c.OPEN), (0.9, c.HOLDS), (None, c.OPEN)])
def test_an_attack_counts_where_it_works_on_the_undefended_model(base: float | None, verdict: str) -> None:
    cells = [cell("uce", "banana", "latent-white: empty", 0.97)]
    cells += [] if base is None else [cell("base", "banana", "latent-white: empty", base)]
    asked = claim(form="value", arm="uce", above=0.8)
    asked = dataclasses.replace(asked, variant=("latent-white: empty",), kinds=("object",), base_at_least=0.85)
    (row,) = c.claims({"run": {"concepts": {}}, "cells": cells}, [asked])["claims"]
    assert row["verdict"] == verdict and bool(row["why"]) == (verdict == c.OPEN)


def test_a_ratio_over_cells_is_one_of_their_rates() -> None:
    """One cell with a tiny denominator does not rule it, as it would a mean of ratios."""
    cells = [cell("uce", "banana", "name", 0.04), cell("base", "banana", "name", 0.04)]
    cells += [cell("uce", "weapons", "name", 0.06), cell("base", "weapons", "name", 0.96)]
    asked = dataclasses.replace(claim(form="ratio", arm="uce", at_most=0.5), variant=("name",))
    (row,) = c.claims({"run": {"concepts": {}}, "cells": cells}, [asked])["claims"]
    assert row["ours"] == pytest.approx(0.1)


def test_variants_of_a_concept_rise_and_fall_together() -> None:
    """Coverage of the interval of a mean over two variants that share their targets: at least its nominal 95 %."""
    rng = np.random.default_rng(0)
    hits, independent, rounds = 0, 0, 1000
    for _ in range(rounds):
        target = rng.normal(0.5, 0.2, 12)  # each target's own rate moves both variants
        seen = [target + rng.normal(0, 0.1, 12) for _ in range(2)]
        parts = [c.Estimate(float(x.mean()), *(float(x.mean() + s * 2.2 * x.std(ddof=1) / 12**0.5) for s in (-1, 1)))
                 for x in seen]  # fmt: skip
        both, apart = c.mean(parts, ["weapons", "weapons"]), c.mean(parts)
        hits += both.low <= 0.5 <= both.high
        independent += apart.low <= 0.5 <= apart.high
    assert hits / rounds >= 0.945 > 0.9 > independent / rounds
