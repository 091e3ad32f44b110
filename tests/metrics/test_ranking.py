"""Ranking figures against scikit-learn and their intervals against coverage and limits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from genward.errors import BadInput
from genward.metrics import ranking


def table(n: int = 80, seed: int = 0, ties: bool = True) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.random(n) < 0.4
    x = rng.normal(size=n) + y
    return (np.round(x, 1) if ties else x), y


def best_tpr(x: np.ndarray, y: np.ndarray, fpr: float) -> float:
    false, true, _ = roc_curve(y, x, drop_intermediate=False)
    return float(true[false <= fpr + 1e-12].max())


@pytest.mark.parametrize("ties", [True, False])
def test_weighted_forms_equal_scikit_learn_on_repeated_rows(ties: bool) -> None:
    x, y = table(60, 1, ties)
    weights = np.random.default_rng(2).integers(0, 4, (5, 60)).astype(float)
    found = [f(x, y, weights) for f in (ranking.weighted_auroc, ranking.weighted_auprc)]
    for k, row in enumerate(weights):
        rx, ry = np.repeat(x, row.astype(int)), np.repeat(y, row.astype(int))
        assert np.isclose(found[0][k], roc_auc_score(ry, rx)) and np.isclose(
            found[1][k], average_precision_score(ry, rx)
        )
        for fpr in (0.0, 0.05, 0.3):
            assert np.isclose(ranking.weighted_tpr(x, y, weights[[k]], fpr)[0], best_tpr(rx, ry, fpr))


def test_tpr_at_fpr_by_brute_force() -> None:
    x, y = table(50, 3)
    for fpr in (0.0, 0.01, 0.05, 0.2):
        best = max((x[y] >= t).mean() for t in [*x, np.inf] if (x[~y] >= t).mean() <= fpr)
        assert np.isclose(ranking.tpr_estimate(x, y, fpr, draws=20).value, best) and np.isclose(
            best_tpr(x, y, fpr), best
        )


def test_values_and_one_class() -> None:
    x, y = table()
    assert math.isclose(roc_auc_score(y, x), ranking.auroc_estimate(x, y).value)
    assert math.isclose(average_precision_score(y, x), ranking.auprc_estimate(x, y).value)
    assert math.isclose(best_tpr(x, y, 0.05), ranking.tpr_estimate(x, y, 0.05).value)
    for figure in (ranking.auroc_estimate, ranking.auprc_estimate, lambda x, y: ranking.tpr_estimate(x, y, 0.1)):
        for labels in ([1, 1], [0, 0]):
            none = figure([1.0, 2.0], labels)
            assert math.isnan(none.value) and math.isnan(none.low) and none.why
    assert ranking.confusion([0.0, 1.0, 2.0, 3.0], [0, 1, 0, 1], 0.5) == {"accuracy": 0.75, "tpr": 1.0, "fpr": 0.5}
    assert math.isnan(ranking.confusion([1.0], [1], 0.5)["fpr"])


def test_intervals_hold_the_truth_and_clusters_widen_them() -> None:
    truth = 0.5 * (1 + math.erf(0.5))  # AUROC of two unit normals one apart
    inside = 0
    for seed in range(60):
        x, y = table(150, 100 + seed, ties=False)
        found = ranking.auroc_estimate(x, y, draws=300)
        inside += found.low <= truth <= found.high
    assert inside >= 52
    x, y = table(40, 5)
    alone = ranking.auroc_estimate(np.repeat(x, 5), np.repeat(y, 5))
    grouped = ranking.auroc_estimate(np.repeat(x, 5), np.repeat(y, 5), np.repeat(np.arange(40), 5).tolist())
    assert grouped.high - grouped.low > 1.8 * (alone.high - alone.low) and grouped.value == alone.value


def test_few_clusters_perfect_separation_and_lost_rows() -> None:
    x, y = table(30, 6)
    few = ranking.auroc_estimate(x, y, [k % 4 for k in range(30)])
    assert few.low < few.value < few.high
    perfect = ranking.auroc_estimate([0.0] * 20 + [1.0] * 20, [0] * 20 + [1] * 20)
    assert perfect.value == perfect.high == 1.0 and 0.7 < perfect.low < 0.95, "no spread seen is not no uncertainty"
    holes = ranking.auroc_estimate([*x, math.nan], [*y, True])
    assert holes.n == 30 and holes.n_unscored == 1 and math.isclose(holes.value, roc_auc_score(y, x))
    lone = ranking.auroc_estimate([0.0, 1.0, 2.0], [0, 1, 1], ["a", "a", "b"])
    assert math.isnan(lone.low) and lone.why


def test_order_of_rows_and_calls_changes_nothing() -> None:
    x, y = table(60, 7)
    names = [f"c{k % 15}" for k in range(60)]
    order = np.random.default_rng(0).permutation(60)
    a = ranking.auroc_estimate(x, y, names)
    b = ranking.auroc_estimate(x[order], y[order], [names[k] for k in order])
    assert a == b == ranking.auroc_estimate(x, y, names)


@pytest.mark.parametrize(("scores", "labels"), [([1.0, 2.0], [0]), ([1.0, 2.0], [0, 2]), ([[1.0]], [[0]])])
def test_bad_tables(scores: list[float], labels: list[int]) -> None:
    with pytest.raises(BadInput):
        ranking.auroc_estimate(scores, labels)
    with pytest.raises(BadInput):
        ranking.confusion(scores, labels, 0.5)
    with pytest.raises(BadInput, match="between 0 and 1"):
        ranking.tpr_estimate([1.0, 0.0], [1, 0], 1.5)


def test_decisions_have_no_place_for_nan() -> None:
    with pytest.raises(BadInput, match="NaN"):
        ranking.confusion([1.0, math.nan], [0, 1], 0.5)


def test_within_one_prompt_by_pairs() -> None:
    rng = np.random.default_rng(4)
    scores, labels = rng.integers(0, 9, 300).astype(float), (rng.random(300) < 0.3).astype(int)
    prompts = [f"p{k % 40}" for k in range(300)]
    scores += 3 * labels
    won = total = 0.0
    for a in range(300):
        for b in range(300):
            if prompts[a] == prompts[b] and labels[a] == 1 and labels[b] == 0:
                total += 1
                won += float(scores[a] > scores[b]) + 0.5 * float(scores[a] == scores[b])
    found = ranking.within_auroc_estimate(scores, labels, prompts)
    assert found.value == pytest.approx(won / total) and found.low < found.value < found.high
    both = [p for p in set(prompts) if len({labels[k] for k in range(300) if prompts[k] == p}) == 2]
    assert found.n == sum(p in both for p in prompts)
    assert ranking.within_auroc_estimate([hash(p) % 7 for p in prompts], labels, prompts).value == 0.5
    lost = scores.copy()
    lost[:7] = np.nan
    assert ranking.within_auroc_estimate(lost, labels, prompts).n_unscored == 7
    one = ranking.within_auroc_estimate([1.0, 2.0, 3.0, 4.0], [0, 1, 1, 0], ["a", "a", "b", "c"])
    assert one.value == 1.0 and math.isnan(one.low), "one prompt with both outcomes has no interval, and no warning"
    none = ranking.within_auroc_estimate([1.0, 2.0], [1, 0], ["a", "b"])
    assert np.isnan(none.value) and "no prompt has both" in none.why
    with pytest.raises(BadInput, match="belong together"):
        ranking.within_auroc_estimate([1.0, 2.0], [1, 0], ["a"])
