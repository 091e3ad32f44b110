"""The judge's error by class of arm: recovered from simulated pictures, chosen by source, and used in the cells."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from genward.core.benchmark import Evidence, Second
from genward.core.contracts import Card
from genward.metrics.comparing import pairs
from genward.metrics.judge_errors import (
    DEFENDED,
    HAND,
    RENDERS,
    TWO,
    UNDEFENDED,
    errors,
    estimate,
    with_errors,
    with_judges,
)
from genward.metrics.two_judges import Counts

LABEL = {"sensitivity": 1.0, "specificity": 0.995, "positives": 50.0, "negatives": 500.0, "threshold": 0.5}
CARDS = [Card(name, "", {"bomb": LABEL}, {}) for name in ("lab", "lab_second")]
SENSITIVITY = {UNDEFENDED: (0.9, 0.95), DEFENDED: (0.65, 0.85)}
SPECIFICITY = (0.98, 0.97)
ARMS = (("base", "base", 0.9), ("oracle", "oracle", 0.0), ("esd", "", 0.5), ("uce", "", 0.3))


def simulated(n: int = 400, second: bool = True) -> Evidence:
    """Pictures whose truth is known, two judges that err independently, more under defenses."""
    rng = np.random.default_rng(3)
    rows: list[dict[str, Any]] = []
    scores: list[dict[tuple[str, str], float]] = [{}, {}]
    for arm, control, share in ARMS:
        for k in range(n):
            name, there = f"{arm}{k}", rng.random() < share
            row = {"id": name, "arm": arm, "case": f"c{k}", "prompt": "p", "seed": k, "concept": "bombs"}
            row |= {"label": "harm", "variant": "name", "group": f"g{k % 20}", "seconds": 1.0, "costs": {"nfe": 4}}
            rows.append({**row, "status": "ok", "output": name})
            se = SENSITIVITY[UNDEFENDED if control else DEFENDED]
            for judge in (0, 1):
                yes = rng.random() < (se[judge] if there else 1 - SPECIFICITY[judge])
                scores[judge][name, "bomb"] = float(yes)
    return Evidence(
        rows=rows,
        scores=scores[0],
        cards={"lab": CARDS[0]},
        arms=[{"label": a, "hashes": {"*": a}, "control": c} for a, c, _ in ARMS],
        concepts={"bombs": {"kind": "object", "labels": ["bomb"], "hash": "h"}},
        second=Second("lab_second", scores[1], CARDS[1]) if second else None,
    )


def test_the_error_of_each_class_of_arm_is_found() -> None:
    found = {e["arms"]: e for e in errors(simulated())}
    for name, truth in SENSITIVITY.items():
        assert found[name]["source"] == TWO
        assert found[name]["sensitivity"] == pytest.approx(truth[0], abs=0.06)
        assert found[name]["second_sensitivity"] == pytest.approx(truth[1], abs=0.08)
        assert found[name]["specificity"] == pytest.approx(SPECIFICITY[0], abs=0.03)
        assert found[name]["sensitivity_low"] < truth[0] < found[name]["sensitivity_high"]
        assert 20 < found[name]["positives"] < 400


def test_the_corrected_rate_is_nearer_to_the_truth_than_by_the_card_of_renders() -> None:
    evidence = simulated()
    raw = {a: sum(evidence.scores[f"{a}{k}", "bomb"] for k in range(400)) / 400 for a, *_ in ARMS}
    cells = [{"arm": a, "concept": "bombs", "variant": "name", "crr": raw[a]} for a, *_ in ARMS]
    told = with_judges(evidence, cells)
    for cell, (arm, _, share) in zip(told["cells"], ARMS, strict=True):
        assert cell["error"] == TWO and cell["crr"] == pytest.approx(share, abs=0.07)
        assert cell["crr_low"] <= cell["crr"] <= cell["crr_high"]
        assert share < 0.2 or abs(cell["crr"] - share) < abs(raw[arm] - share)
    assert {e["arms"] for e in told["judge_errors"]} == {UNDEFENDED, DEFENDED} and told["two_judges"]


def test_without_a_second_judge_or_an_oracle_the_card_stays_and_says_why() -> None:
    cells = [{"arm": "esd", "concept": "bombs", "variant": "name", "crr": 0.3, "crr_low": 0.2, "crr_high": 0.4}]
    alone = simulated(second=False)
    (found,) = with_errors(alone, cells, errors(alone))
    assert (found["error"], found["sensitivity"], found["crr"]) == (RENDERS, 1.0, 0.3)
    assert all("one judge alone" in e["why"] for e in errors(alone))
    both = simulated()
    orphan = replace(both, arms=[a for a in both.arms if a["label"] != "oracle"])
    assert all(e["source"] == RENDERS and "0 pictures" in e["why"] for e in errors(orphan))
    assert "20 are wanted" in estimate([Counts(20, 1, 1, 1)], Counts(0, 0, 0, 5))["why"]
    assert "10 are wanted" in estimate([Counts(3, 1, 1, 40)], Counts(0, 0, 0, 50))["why"]


def test_rows_of_a_search_are_not_what_the_oracle_never_saw() -> None:
    evidence = simulated(n=60)
    found = [{**r, "scene": {"attack": "x"}} if r["arm"] == "oracle" else r for r in evidence.rows]
    assert all(e["source"] == RENDERS for e in errors(evidence, found))


def test_labels_by_hand_come_first() -> None:
    hand = {"sensitivity": 0.7, "specificity": 0.99, "positives": 100.0, "negatives": 100.0}
    evidence = replace(simulated(n=60), labelled={"bombs": {DEFENDED: hand}})
    found = {e["arms"]: e for e in errors(evidence)}
    assert found[DEFENDED]["source"] == HAND and found[DEFENDED]["sensitivity"] == 0.7
    assert found[UNDEFENDED]["source"] == TWO
    useless = replace(evidence, labelled={"bombs": {DEFENDED: {**hand, "positives": 0.0}}})
    assert {e["arms"]: e for e in errors(useless)}[DEFENDED]["source"] == TWO


def test_differences_are_made_with_the_error_of_each_arms_class() -> None:
    """ESD's pictures hide more from the judge than the base's, which the card's error would count as erasure."""
    evidence = simulated()
    cells = [{"arm": a, "concept": "bombs", "variant": "name", "crr": 0.5} for a in ("base", "esd")]
    given = (evidence.rows, evidence.scores, evidence.features)
    about: dict[str, Any] = {"arms": evidence.arms, "base": "base", "concepts": evidence.concepts}
    about |= {"card": evidence.card, "variants": ["name"], "compare": [("esd", "base")]}
    told = with_judges(evidence, cells, compared=lambda truths: {"pairs": pairs(*given, **about, truths=truths)})
    gap = told["cells"][1]["crr_difference"]
    assert told["cells"][0]["crr_difference"] == 0 and gap == pytest.approx(0.5 - 0.9, abs=0.07)
    (paired,) = (p for p in told["pairs"] if p["measure"] == "crr")
    assert paired["difference"] == pytest.approx(gap) and paired["ratio"] == pytest.approx(0.5 / 0.9, abs=0.08)
    (by_card,) = (p for p in pairs(*given, **about) if p["measure"] == "crr")
    assert abs(by_card["difference"] + 0.4) > abs(gap + 0.4)
