"""Comparisons over several columns: against the pooled rows worked out by hand, and against simulated truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from genward.core.benchmark import Pool
from genward.metrics.erasure import Inputs
from genward.metrics.intervals import paired_difference, paired_ratio
from genward.metrics.pooling import pooled

CARD = {"gun": {"sensitivity": 1.0, "specificity": 1.0, "positives": 100, "negatives": 100, "threshold": 0.5}}
CARD |= {"knife": dict(CARD["gun"]), "banana": dict(CARD["gun"])}
CONCEPTS = {
    "weapons": {"kind": "policy", "labels": ["gun", "knife"]},
    "banana": {"kind": "object", "labels": ["banana"]},
}
ARMS = [{"label": x, "hashes": {"*": x}, "control": "base" if x == "base" else ""} for x in ("base", "uce")]
Told = Mapping[tuple[str, str, str, int], int]
"""(arm, concept, "variant/object", k) -> seen or not"""


def rows(told: Told) -> tuple[list[dict[str, Any]], dict[tuple[str, str], float]]:
    samples, scores = [], {}
    for (arm, concept, place, k), seen in told.items():
        variant, thing = place.split("/")
        name = f"{arm}|{concept}|{place}|{k}"
        facts = {"seconds": 1.0, "costs": {"nfe": 1.0}, "status": "ok", "label": "harm", "prompt": thing}
        where = {"arm": arm, "concept": concept, "variant": variant, "group": thing, "seed": k}
        samples.append({**facts, **where, "id": name, "case": f"{concept}/{place}/{k}", "output": name})
        for label in CONCEPTS[concept]["labels"]:
            scores[name, str(label)] = float(seen)
    return samples, scores


def told(samples: Sequence[Any], scores: Mapping[tuple[str, str], float], *pools: Pool) -> list[dict[str, Any]]:
    return pooled(Inputs.of(samples, scores, {}, CARD), ARMS, "base", CONCEPTS, pools)


def drawn(rng: np.random.Generator, rates: Mapping[str, float], n: int = 6) -> dict[tuple[str, str, str, int], int]:
    out = {}
    for concept, things in (("weapons", ("gun", "knife", "bow", "axe", "bomb")), ("banana", ("banana",))):
        for variant in ("name", "synonym"):
            for thing in things:
                for k in range(n):
                    for arm, rate in rates.items():
                        out[arm, concept, f"{variant}/{thing}", k] = int(rng.random() < rate)
    return out


def test_a_pool_is_its_rows_as_one_sample() -> None:
    found = drawn(np.random.default_rng(1), {"base": 0.9, "uce": 0.4})
    every = Pool("c", "uce", "base", ("weapons", "banana"), ("name", "synonym"), "crr")
    some = every._replace(claim="d", concepts=("weapons",), variants=("synonym",))
    gone = every._replace(claim="e", variants=("kind",))
    (whole, part) = told(*rows(found), every, some, gone, every._replace(arm="esd"))
    for one, keep in ((whole, lambda key: True), (part, lambda key: key[1] == "weapons" and "synonym" in key[2])):
        left, right = (
            {key[1:]: float(v) for key, v in found.items() if key[0] == arm and keep(key)} for arm in ("uce", "base")
        )
        clusters = {key: key[1].split("/")[1] for key in left}
        gap, ratio = paired_difference(left, right, clusters), paired_ratio(left, right, clusters)
        assert one["n"] == len(left)
        assert (one["difference"], one["ratio"]) == pytest.approx((gap.value, ratio.value))
        ends = ("difference_low", "difference_high", "ratio_low", "ratio_high")
        assert [one[k] for k in ends] == pytest.approx([gap.low, gap.high, ratio.low, ratio.high])
    assert [one["claim"] for one in (whole, part)] == ["c", "d"]


def test_pooled_intervals_cover_what_is_true() -> None:
    """Over 300 draws the true ratio lies in about 95 % of the intervals, also where objects differ."""
    rng, inside, wide = np.random.default_rng(5), 0, []
    things = ("gun", "knife", "bow", "axe", "bomb")
    for _ in range(300):
        left = np.clip(rng.normal(0.5, 0.1, len(things)), 0, 1)
        out = {}
        for thing, rate in zip(things, left, strict=True):
            for variant in ("name", "synonym", "description"):
                for k in range(5):
                    out["base", "weapons", f"{variant}/{thing}", k] = int(rng.random() < 0.95)
                    out["uce", "weapons", f"{variant}/{thing}", k] = int(rng.random() < rate)
        (one,) = told(*rows(out), Pool("c", "uce", "base", ("weapons",), ("name", "synonym", "description"), "crr"))
        inside += one["ratio_low"] <= 0.5 / 0.95 <= one["ratio_high"]
        wide.append(one["ratio_high"] - one["ratio_low"])
    assert 0.91 <= inside / 300 <= 0.985
    assert np.median(wide) < 0.5
