"""Intervals against closed forms, slow loops and simulated coverage."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from genward.errors import BadInput
from genward.metrics import (
    Estimate,
    cluster_bootstrap,
    clustered_rate,
    corrected_rate,
    mean,
    paired_difference,
    paired_ratio,
    wilson,
)
from genward.metrics.intervals import DRAWS, FEW, SEED, clustered_corrected_rate

CARD = {"sensitivity": 0.9, "specificity": 0.97, "positives": 300.0, "negatives": 900.0}


def close(got: Estimate, low: float, high: float, tolerance: float = 1e-12) -> None:
    assert abs(got.low - low) < tolerance and abs(got.high - high) < tolerance, (got, low, high)


# --------------------------------------------------------------------------------------------------------------- wilson


@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (0, 24), (3, 24), (12, 24), (24, 24), (1, 500), (7, 9)])
@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_inverts_the_score_test(k: int, n: int, level: float) -> None:
    z = stats.norm.ppf((1 + level) / 2)

    def score(p: float) -> float:
        return abs(k / n - p) - z * math.sqrt(p * (1 - p) / n)

    low = 0.0 if k == 0 else optimize.brentq(score, 1e-15, k / n - 1e-12)
    high = 1.0 if k == n else optimize.brentq(score, k / n + 1e-12, 1 - 1e-15)
    close(wilson(k, n, level), low, high, 1e-9)
    reference = stats.binomtest(k, n).proportion_ci(level, method="wilson")
    close(wilson(k, n, level), reference.low, reference.high)


def test_wilson_at_its_ends() -> None:
    assert wilson(0, 24).low == 0.0 and wilson(24, 24).high == 1.0
    nothing = wilson(0, 0)
    assert math.isnan(nothing.value) and math.isnan(nothing.low) and nothing.n == 0 and nothing.why == "no scored rows"
    half = wilson(12, 24)
    assert round(half.high - half.value, 2) == 0.19, "24 pictures give ±0.19"
    assert math.isclose(wilson(2.5, 10.0).low, 1 - wilson(7.5, 10.0).high)
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(BadInput):
            wilson(k, n)
    with pytest.raises(BadInput, match="level"):
        wilson(1, 2, 1.0)


def test_wilson_covers() -> None:
    for p, n in ((0.05, 24), (0.3, 24), (0.5, 12), (0.9, 60)):
        weights = stats.binom.pmf(np.arange(n + 1), n, p)
        inside = [w for k, w in enumerate(weights) if wilson(k, n).low <= p <= wilson(k, n).high]
        assert 0.92 < sum(inside) < 0.985


# ------------------------------------------------------------------------------------------------------------ corrected


def test_corrected_rate_by_hand() -> None:
    got = corrected_rate(12, 24, CARD)
    assert math.isclose(got.value, (0.5 + 0.97 - 1) / (0.9 + 0.97 - 1)) and got.n == 24
    assert got.low < got.value < got.high and got == corrected_rate(12, 24, CARD), "equal input, equal output"
    assert corrected_rate(0, 24, CARD).value == 0.0 == corrected_rate(0, 24, CARD).low
    assert corrected_rate(24, 24, CARD)[:3:2] == (1.0, 1.0) and 0.8 < corrected_rate(24, 24, CARD).low < 1
    known = corrected_rate(5, 24, CARD, certain=6)
    assert math.isclose(known.value, 18 / 24 * (5 / 18 + 0.97 - 1) / 0.87) and known.n == 24
    assert corrected_rate(0, 10, CARD, certain=10) == wilson(0, 10)


def test_corrected_rate_equals_a_slow_loop() -> None:
    k, n, certain, draws = 9, 40, 4, 3000
    rng = np.random.default_rng(SEED)
    apparent, se, sp, share = (
        [rng.beta(a + 0.5, b + 0.5) for _ in range(draws)]
        for a, b in ((k, n - certain - k), (270.0, 30.0), (873.0, 27.0), (n - certain, certain))
    )
    drawn = [
        w * min(1.0, max(0.0, (p + s2 - 1) / (s1 + s2 - 1)))
        for p, s1, s2, w in zip(apparent, se, sp, share, strict=True)
    ]
    got = corrected_rate(k, n, CARD, certain=certain, draws=draws)
    close(got, float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)), 1e-9)


def test_a_perfect_card_adds_nothing_and_a_small_one_widens() -> None:
    perfect = {"sensitivity": 1.0, "specificity": 1.0, "positives": 1e9, "negatives": 1e9}
    got, plain = corrected_rate(8, 24, perfect), wilson(8, 24)
    assert (
        got.value == pytest.approx(plain.value)
        and abs(got.low - plain.low) < 0.02
        and abs(got.high - plain.high) < 0.02
    )
    small, large = (corrected_rate(60, 120, CARD | {"positives": n, "negatives": n}) for n in (20.0, 20_000.0))
    assert small.high - small.low > 1.15 * (large.high - large.low)


@pytest.mark.parametrize(
    ("card", "why"),
    [
        (CARD | {"sensitivity": 0.1, "specificity": 0.95}, "at most 1.05"),
        (CARD | {"sensitivity": 0.5, "specificity": 0.4}, "tells too little"),
        (CARD | {"sensitivity": 1.2}, "between 0 and 1"),
        (CARD | {"sensitivity": math.nan}, "lacks"),
        (CARD | {"positives": 0}, "no positives"),
        ({}, "lacks"),
    ],
)
def test_a_card_that_cannot_correct(card: dict[str, float], why: str) -> None:
    got = corrected_rate(3, 10, card)
    assert math.isnan(got.value) and math.isnan(got.low) and math.isnan(got.high) and why in got.why and got.n == 10


def test_counts_that_contradict_each_other() -> None:
    for k, n, certain in ((5, 4, 0), (3, 4, 2), (-1, 4, 0), (0, 4, 5)):
        with pytest.raises(BadInput, match="fit into n"):
            corrected_rate(k, n, CARD, certain=certain)
    assert corrected_rate(0, 0, CARD).why == "no scored rows"


@pytest.mark.parametrize(
    ("true", "n", "sens", "spec", "size"),
    [(0.1, 24, 0.9, 0.95, 60), (0.5, 60, 0.8, 0.9, 100), (0.9, 40, 0.95, 0.98, 50), (0.02, 120, 0.9, 0.99, 300)],
)
def test_corrected_rate_covers_when_the_card_itself_is_an_estimate(
    true: float, n: int, sens: float, spec: float, size: int
) -> None:
    rng, inside, runs = np.random.default_rng(7), 0, 1000
    for _ in range(runs):
        card = {
            "sensitivity": rng.binomial(size, sens) / size,
            "specificity": rng.binomial(size, spec) / size,
            "positives": size,
            "negatives": size,
        }
        k = rng.binomial(n, true * sens + (1 - true) * (1 - spec))
        got = corrected_rate(int(k), n, card, draws=4000)
        inside += got.low <= true <= got.high
    assert inside / runs > 0.93


# ------------------------------------------------------------------------------------------------------------- clusters


def rows(seed: int = 0, clusters: int = 12) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    names = [f"c{g}" for g in range(clusters) for _ in range(1 + g % 4)]
    return rng.normal(size=len(names)), names


@pytest.mark.parametrize("clusters", [FEW, 12, 30])
def test_bootstrap_of_the_mean_equals_a_naive_loop(clusters: int) -> None:
    values, names = rows(1, clusters)
    unique = sorted(set(names))
    drawn = []
    for weights in np.random.default_rng(3).multinomial(clusters, [1 / clusters] * clusters, size=500):
        picked = [
            v
            for name, w in zip(unique, weights, strict=True)
            for _ in range(w)
            for v, c in zip(values, names, strict=True)
            if c == name
        ]
        drawn.append(sum(picked) / len(picked))
    got = cluster_bootstrap(values, names, draws=500, seed=3)
    close(got, float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))
    assert got.value == pytest.approx(values.mean()) and got.n == len(values)
    general = cluster_bootstrap(values, names, lambda v: float(v.sum() / len(v)), draws=500, seed=3)
    close(general, got.low, got.high)
    shuffled = np.random.default_rng(5).permutation(len(values))
    close(cluster_bootstrap(values[shuffled], [names[k] for k in shuffled], draws=500, seed=3), got.low, got.high)


@pytest.mark.parametrize("clusters", [2, 5, FEW - 1])
@pytest.mark.parametrize("statistic", [mean, np.median])
def test_few_clusters_get_student_and_the_jackknife(clusters: int, statistic: Callable[[Any], float]) -> None:
    values, names = rows(2, clusters)
    without = [
        statistic(np.asarray([v for v, c in zip(values, names, strict=True) if c != f"c{g}"])) for g in range(clusters)
    ]
    error = math.sqrt((clusters - 1) / clusters * sum((w - sum(without) / clusters) ** 2 for w in without))
    half = stats.t.ppf(0.975, clusters - 1) * error
    value = float(statistic(values))
    close(cluster_bootstrap(values, names, statistic), value - half, value + half)


def test_equal_clusters_give_the_textbook_interval() -> None:
    means = np.asarray([0.2, 0.5, 0.9, 0.4])
    got = cluster_bootstrap(np.repeat(means, 3), [c for c in "abcd" for _ in range(3)])
    reference = stats.t.interval(0.95, 3, means.mean(), stats.sem(means))
    close(got, *reference)


def test_rows_without_value_one_cluster_and_none() -> None:
    got = cluster_bootstrap([1.0, math.nan, 3.0, math.inf], ["a", "a", "b", "b"])
    assert got.value == 2.0 and (got.n, got.n_unscored) == (2, 2)
    alone = cluster_bootstrap([1.0, 2.0], ["a", "a"])
    assert (
        alone.value == 1.5
        and math.isnan(alone.low)
        and math.isnan(alone.high)
        and "1 cluster: an interval needs two" in alone.why
    )
    assert cluster_bootstrap([math.nan], ["a"])[3:] == (0, 1, "no scored rows")
    assert cluster_bootstrap([], []).why == "no scored rows"
    with pytest.raises(BadInput, match="one a value"):
        cluster_bootstrap([1.0, 2.0], ["a"])


def test_clustered_means_cover() -> None:
    """20 clusters by bootstrap, 5 by t: a nominal 95 % interval holds the true mean at least 91 % and 93 % of the
    time."""
    rng = np.random.default_rng(11)
    for clusters, least in ((20, 0.91), (5, 0.93)):
        inside = 0
        names = [f"{g:02d}" for g in range(clusters) for _ in range(4)]
        for _ in range(400):
            values = np.repeat(rng.normal(size=clusters), 4) + rng.normal(size=4 * clusters)
            got = cluster_bootstrap(values, names, draws=400)
            inside += got.low <= 0 <= got.high
        assert inside / 400 >= least


def test_clustered_rates() -> None:
    one_each = [1.0] * 9 + [0.0] * 3
    got = clustered_rate(one_each, [str(k) for k in range(12)])
    error = stats.sem(one_each)
    effective = min(12, 0.75 * 0.25 / error**2)
    z = stats.t.ppf(0.975, 11)
    center = (0.75 + z * z / (2 * effective)) / (1 + z * z / effective)
    half = z / (1 + z * z / effective) * math.sqrt(0.75 * 0.25 / effective + z * z / (4 * effective**2))
    close(got, center - half, center + half)
    alike = clustered_rate([1, 1, 1, 1, 0, 0, 0, 0], list("aaaabbbb"))
    apart = clustered_rate([1, 0, 1, 0, 1, 0, 1, 0], [str(k) for k in range(8)])
    assert alike.high - alike.low > apart.high - apart.low, "rows of one cluster say less than rows of eight"
    full = clustered_rate([1.0] * 12, list("aabbccddeeff"))
    assert full.value == full.high == 1.0 and 0.4 < full.low < 0.6, "six clusters that agree"
    assert clustered_rate([0.0, 0.0], ["a", "b"]).low == 0.0
    assert math.isnan(clustered_rate([1.0, 0.0], ["a", "a"]).low) and clustered_rate([math.nan], ["a"]).n_unscored == 1
    balanced = clustered_rate([1, 0, 1, 0], list("aabb"))
    assert 0 < balanced.low < 0.5 < balanced.high < 1, "no spread between clusters"
    with pytest.raises(BadInput, match="0 and 1"):
        clustered_rate([0.5, 1.0], ["a", "b"])


@pytest.mark.parametrize(("mean_rate", "spread"), [(0.5, 0.3), (0.3, 0.2), (0.5, 0.0)])
def test_corrected_rates_of_clusters_cover(mean_rate: float, spread: float) -> None:
    """Objects differ by ``spread``; rows of one object share its rate, and a judge with known errors looks."""
    random, card = (
        np.random.default_rng(3),
        {"sensitivity": 0.9, "specificity": 0.95, "positives": 2e4, "negatives": 2e4},
    )
    inside, runs, clusters, rows = 0, 300, 12, 4
    for _ in range(runs):
        rates = np.clip(random.normal(mean_rate, spread, clusters), 0, 1)
        truth = float(np.clip(np.random.default_rng(0).normal(mean_rate, spread, 200_000), 0, 1).mean())
        shown = random.random((clusters, rows)) < rates[:, None]
        seen = np.where(random.random((clusters, rows)) < np.where(shown, 0.9, 0.05), 1.0, 0.0).ravel()
        found = clustered_corrected_rate(seen, np.repeat(np.arange(clusters), rows).tolist(), card)
        inside += found.low <= truth <= found.high
    assert inside / runs >= 0.92


def test_one_cluster_has_no_interval_and_equal_clusters_change_nothing() -> None:
    card = {"sensitivity": 0.9, "specificity": 0.95, "positives": 200, "negatives": 400}
    alone = clustered_corrected_rate([1, 0, 1, 1], ["search 1"] * 4, card)
    plain = corrected_rate(3, 4, card)
    assert alone.value == plain.value and math.isnan(alone.low) and "needs two" in alone.why
    values = [1.0, 0.0] * 200
    many = clustered_corrected_rate(values, list(range(400)), card)
    wide, narrow = corrected_rate(200, 400, card), many
    assert (narrow.low, narrow.high) == pytest.approx((wide.low, wide.high), abs=0.005)
    refused = clustered_corrected_rate([0.0] * 6, ["a", "a", "a", "b", "b", "c"], card, certain=6)
    assert refused.value == 0 and refused.high == pytest.approx(wilson(0, 3).high)
    assert math.isnan(clustered_corrected_rate([math.nan], ["a"], card).value)


def test_clustered_rates_cover() -> None:
    rng, inside = np.random.default_rng(13), 0
    names = [f"{g:02d}" for g in range(12) for _ in range(3)]
    for _ in range(400):
        values = (rng.random(36) < np.repeat(rng.beta(8, 2, 12), 3)).astype(float)
        got = clustered_rate(values, names)
        inside += got.low <= 0.8 <= got.high
    assert inside / 400 >= 0.93


# ---------------------------------------------------------------------------------------------------------------- pairs


def arms(seed: int, clusters: int) -> tuple[dict[Any, float], dict[Any, float], dict[Any, str]]:
    rng = np.random.default_rng(seed)
    keys = [(f"case{k}", k) for k in range(4 * clusters)]
    a = {k: float(rng.random() < 0.3) for k in keys}
    b = {k: float(rng.random() < 0.6) for k in reversed(keys)}
    return a, b, {k: f"g{k[1] % clusters:02d}" for k in keys}


def test_paired_difference_equals_a_naive_loop() -> None:
    a, b, clusters = arms(4, 15)
    a["only here"] = 1.0
    b[("case3", 3)] = math.nan
    shared = [k for k in a if k in b and b[k] == b[k]]
    unique = sorted({clusters[k] for k in shared})
    drawn = []
    for weights in np.random.default_rng(SEED).multinomial(15, [1 / 15] * 15, size=DRAWS):
        top = bottom = 0.0
        for name, w in zip(unique, weights, strict=True):
            for k in shared:
                if clusters[k] == name:
                    top, bottom = top + w * (a[k] - b[k]), bottom + w
        drawn.append(top / bottom)
    got = paired_difference(a, b, clusters)
    close(got, float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975)))
    assert got.value == pytest.approx(sum(a[k] - b[k] for k in shared) / len(shared)) and (got.n, got.n_unscored) == (
        59,
        1,
    )


def test_pairing_takes_out_what_both_share() -> None:
    rng = np.random.default_rng(6)
    base = {k: float(rng.normal(0, 10)) for k in range(60)}
    moved = {k: v + 1 + float(rng.normal(0, 0.1)) for k, v in base.items()}
    got = paired_difference(moved, base, {k: k % 20 for k in base})
    assert 0.9 < got.low < 1 < got.high < 1.1


def test_pairs_that_are_few() -> None:
    a, b = {1: 1.0, 2: 0.0}, {1: 0.0, 2: 0.0}
    one = paired_difference(a, b, {1: "x", 2: "x"})
    assert one.value == 0.5 and math.isnan(one.low) and "two" in one.why
    none = paired_difference(a, {3: 1.0}, {})
    assert math.isnan(none.value) and none.why == "no scored pairs" and none.n == 0
    assert paired_difference(a, {1: math.nan, 2: math.nan}, {1: "x", 2: "y"})[3:] == (0, 2, "no scored pairs")
    level = paired_difference({1: 1.0, 2: 1.0}, b, {1: "x", 2: "y"})
    assert level.low == level.high == 1.0 and "same number" in level.why
    with pytest.raises(BadInput, match="no cluster"):
        paired_difference(a, b, {1: "x"})


def test_paired_ratio_equals_a_naive_loop() -> None:
    a, b, clusters = arms(8, 15)
    unique = sorted(set(clusters.values()))
    drawn = []
    for weights in np.random.default_rng(SEED).multinomial(15, [1 / 15] * 15, size=DRAWS):
        table = dict(zip(unique, weights, strict=True))
        drawn.append(sum(table[clusters[k]] * a[k] for k in a) / sum(table[clusters[k]] * b[k] for k in a))
    got = paired_ratio(a, b, clusters)
    close(got, float(np.quantile(drawn, 0.025, method="lower")), float(np.quantile(drawn, 0.975, method="higher")))
    assert got.value == pytest.approx(sum(a.values()) / sum(b.values()))
    few = paired_ratio(*arms(8, 4))
    assert few.low <= few.value <= few.high
    for bottom, groups, why in (
        ({1: 0.0, 2: 0.0}, "xy", "is 0"),
        ({1: 1.0, 2: 0.0}, "xy", "one cluster carries"),
        ({1: 1.0, 2: 1.0}, "xx", "needs two"),
    ):
        assert why in paired_ratio({1: 1.0, 2: 0.0}, bottom, dict(zip((1, 2), groups, strict=True))).why
    rare = {k: float(k == 0) for k in range(20)}
    assert "may be 0" in paired_ratio(rare, rare, {k: k for k in rare}).why
