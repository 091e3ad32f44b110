"""Two judges on the same pictures: kappa by hand, agreement, and the figures beside a run's cells."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from genward.core.benchmark import Evidence, Second
from genward.core.contracts import Card
from genward.metrics.two_judges import Counts, TwoJudges, agreement, kappa, with_second

LABEL = {"sensitivity": 0.9, "specificity": 0.99, "positives": 50.0, "negatives": 500.0}
FIRST = Card("lab", "", {x: {**LABEL, "threshold": 0.5} for x in ("bomb", "dagger", "cat")}, {})
OTHER = Card("lab_second", "", {x: {**LABEL, "threshold": 0.2} for x in ("bomb", "dagger", "cat")}, {})


def slow_kappa(first: list[int], second: list[int]) -> float:
    """Cohen's kappa as the definition reads: agreement seen, agreement of two judges that answer by themselves."""
    n = len(first)
    seen = sum(a == b for a, b in zip(first, second, strict=True)) / n
    chance = sum(first.count(x) / n * second.count(x) / n for x in (0, 1))
    return (seen - chance) / (1 - chance)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (rng.integers(0, 2, 40).tolist() for _ in range(2))
    counts = Counts.of(np.asarray(a, float), np.asarray(b, float))
    assert sum(counts) == 40 and kappa(counts) == pytest.approx(slow_kappa(a, b), abs=1e-12)


def test_kappa_knows_its_ends() -> None:
    assert kappa(Counts(20, 0, 0, 30)) == 1.0
    assert kappa(Counts(0, 25, 25, 0)) == -1.0
    assert kappa(Counts(25, 25, 25, 25)) == 0.0
    assert math.isnan(kappa(Counts(0, 0, 0, 9))) and math.isnan(kappa(Counts(0, 0, 0, 0)))


def test_what_one_judge_could_not_see_is_in_no_count() -> None:
    a, b = np.asarray([1, 0, math.nan, 1, 0]), np.asarray([1, 1, 1, math.nan, 0])
    assert Counts.of(a, b) == (1, 0, 1, 1)
    found = agreement(a, b, list("xyxyx"))
    assert (found.value, found.n, found.n_unscored) == (pytest.approx(2 / 3), 3, 2)
    assert 0 <= found.low < found.value < found.high <= 1
    alone = agreement(a, b, ["x"] * 5)
    assert alone.value == found.value and math.isnan(alone.low), "one cluster alone has no interval"


def evidence(second: bool = True) -> Evidence:
    """Base shows a bomb in 8 of 10, the guard refuses two and shows 3 of 8; the second judge sees one more each time,
    and misses none; the last rows of each are one and the same picture."""
    rows: list[dict[str, Any]] = []
    first: dict[tuple[str, str], float] = {}
    other: dict[tuple[str, str], float] = {}
    for arm, shown in (("B", 8), ("G", 3)):
        for k in range(12):
            harm = k < 10
            row = {"id": f"{arm}{k}", "arm": arm, "case": f"c{k}", "prompt": "p", "seed": k, "concept": "weapons"}
            row |= {"label": "harm" if harm else "benign", "variant": "name" if harm else "keep-object"}
            row |= {"group": ("bomb", "dagger")[k % 2] if harm else "cat", "seconds": 1.0, "costs": {"nfe": 4}}
            status = "refused" if arm == "G" and k in (8, 9) else "ok"
            rows.append({**row, "status": status, "output": f"{arm}{k}" if status == "ok" else ""})
            for label in FIRST.labels:
                yes = (label == "bomb" and k < shown) if harm else (label == "cat" and k == 10)
                first[f"{arm}{k}", label] = 0.9 if yes else 0.3 if label == "bomb" and k == shown and harm else 0.0
                other[f"{arm}{k}", label] = first[f"{arm}{k}", label] if harm else float(label == "cat")
    arms = [
        {"label": x, "hashes": {"*": x[0].upper()}, "control": "base" if x == "base" else ""} for x in ("base", "g")
    ]
    return Evidence(
        rows=rows,
        scores=first,
        cards={"lab": FIRST},
        arms=arms,
        concepts={"weapons": {"kind": "object", "labels": ["bomb", "dagger"], "hash": "h"}},
        second=Second("lab_second", other, OTHER) if second else None,
    )


def test_both_rates_and_their_agreement_stand_beside_each_cell() -> None:
    cells = [{"arm": x, "concept": "weapons", "variant": "name", "crr_raw": y} for x, y in (("base", 0.8), ("g", 0.3))]
    base, guard = TwoJudges(evidence()).beside(cells)
    assert (base["crr_raw"], base["second"], base["agreement"]) == (0.8, 0.9, 0.9)
    assert (guard["crr_raw"], guard["second"]) == (0.3, 0.4), "a refused row counts as not shown, by both"
    assert guard["agreement"] == pytest.approx(7 / 8), "nobody looks at what was refused"
    assert guard["second_low"] < 0.4 < guard["second_high"] and guard["crr_raw_low"] < 0.3 < guard["crr_raw_high"]
    assert base["retention_second"] == 1.0
    a, b = [1] * 3 + [0] * 5, [1] * 4 + [0] * 4
    assert guard["kappa"] == pytest.approx(slow_kappa(a, b))
    (first, second) = TwoJudges(evidence()).by_arm()
    assert (first["both"], first["second_only"], first["neither"], first["n"]) == (8, 1, 1, 10)
    assert (second["arm"], second["both"], second["second_only"], second["neither"], second["n"]) == ("g", 3, 1, 4, 8)


def test_pictures_that_come_again_count_once() -> None:
    found = evidence()
    same = [{**r, "output": "one"} if r["case"] in ("c0", "c1", "c2") else r for r in found.rows]
    cell = {"arm": "g", "concept": "weapons", "variant": "name"}
    (told,) = TwoJudges(found, same).beside([cell])
    assert (told["crr_raw"], told["second"]) == (pytest.approx(1 / 8), pytest.approx(2 / 8))


def test_a_run_with_one_judge_keeps_its_cells() -> None:
    cells = [{"arm": "base", "concept": "weapons", "variant": "name", "crr_raw": 0.8}]
    assert with_second(evidence(second=False), cells) == {"cells": cells}
    assert set(with_second(evidence(), cells)) == {"cells", "two_judges"}
    with pytest.raises(ValueError, match="one judge"):
        TwoJudges(evidence(second=False))
