"""Ranking measures and thresholds against loops over pairs and cuts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from genward.errors import BadInput
from genward.ops.detection import (
    auroc,
    average_precision,
    best_f1,
    linear_probe,
    operating_points,
    probe_scores,
    spread_groups,
    temperature,
    threshold_at_fpr,
)


def rows(seed: int, n: int = 60, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    g = np.random.default_rng(seed)
    scores = g.normal(size=n)
    truth = (scores + g.normal(size=n) > 0.3).astype(float)
    return (np.round(scores, 1) if ties else scores), truth


@pytest.mark.parametrize("seed", range(5))
def test_auroc_counts_pairs(seed: int) -> None:
    s, t = rows(seed)
    pairs = [
        (a > b) + 0.5 * (a == b) for a, x in zip(s, t, strict=True) if x for b, y in zip(s, t, strict=True) if not y
    ]
    assert auroc(s, t) == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_walks_the_cuts(seed: int) -> None:
    s, t = rows(seed)
    total, before = 0.0, 0.0
    for cut in sorted(set(s), reverse=True):
        fired = s >= cut
        recall = t[fired].sum() / t.sum()
        total += (recall - before) * t[fired].mean()
        before = recall
    assert average_precision(s, t) == pytest.approx(total, abs=1e-12)


def test_unknown_truths_are_left_out_and_empty_classes_are_nan() -> None:
    assert auroc([0.1, 0.9, 0.5], [0, 1, math.nan]) == 1.0
    assert (
        math.isnan(auroc([0.1, 0.2], [1, 1]))
        and math.isnan(average_precision([0.1], [0]))
        and math.isnan(threshold_at_fpr([0.1], [1], 0.05))
    )
    with pytest.raises(BadInput, match="not finite"):
        auroc([math.nan, 1.0], [0, 1])
    with pytest.raises(BadInput, match="one each"):
        auroc([1.0], [0, 1])


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("ties", [True, False])
def test_threshold_keeps_the_share_of_false_positives(share: float, ties: bool) -> None:
    s, t = rows(3, 200, ties)
    cut = threshold_at_fpr(s, t, share)
    negatives = s[t == 0]
    assert (negatives > cut).mean() <= share + 1e-9
    lower = negatives[negatives < cut]
    assert not len(lower) or (negatives > lower.max()).mean() > share, "a smaller score would let too many through"


def test_best_f1_is_the_best_of_all_cuts() -> None:
    s, t = rows(4, ties=False)

    def f1(cut: float) -> float:
        hits = t[s > cut].sum()
        return float(2 * hits / ((s > cut).sum() + t.sum()))

    assert f1(best_f1(s, t)) == pytest.approx(max(f1(c) for c in [s.min() - 1, *s]))
    assert operating_points([0.2], [1])["fpr5"] == 0.5


def test_temperature_undoes_a_factor() -> None:
    g = np.random.default_rng(0)
    z = g.normal(size=4000) * 2
    t = (g.random(4000) < 1 / (1 + np.exp(-z))).astype(float)
    assert temperature(3 * z, t) == pytest.approx(3.0, rel=0.15) and temperature(z, np.ones(4000)) == 1.0


def test_probe_is_ridge_logistic_regression() -> None:
    """At the optimum the gradient vanishes; more columns than rows are fine."""
    g = np.random.default_rng(1)
    for n, d in ((80, 3), (20, 50)):
        x = g.normal(size=(n, d)) * 3 + 1
        y = (x[:, 0] + g.normal(size=n) > 1).astype(float)
        center, weights, bias = linear_probe(x, y)
        p = 1 / (1 + np.exp(-probe_scores((center, weights, bias), x)))
        spread = x.std(0) + 1e-8
        gradient = ((x - center) / spread).T @ (p - y) + 1e-2 * n * weights * spread
        assert np.abs(gradient).max() < 1e-5 and abs((p - y).sum()) < 1e-5
    with pytest.raises(BadInput, match="both classes"):
        linear_probe(x, np.ones(20))


def test_groups_stay_whole() -> None:
    groups = [f"g{k % 10}" for k in range(100)]
    part = spread_groups(groups, (0.7, 0.15, 0.15), lambda g: hash(g[1:]) % 7919)
    assert all(len({p for p, g in zip(part, groups, strict=True) if g == name}) == 1 for name in set(groups))
    assert 50 <= part.count(0) <= 80 and part.count(1) and part.count(2)
