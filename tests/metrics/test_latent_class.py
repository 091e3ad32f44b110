"""The two-judge model against what is known: cells of a given truth, a closed form, and simulated pictures."""

from __future__ import annotations

import numpy as np
import pytest

from genward.errors import BadInput
from genward.metrics.latent_class import fit, probabilities, resampled

TRUTHS = [((0.8, 0.9), (0.99, 0.97), 0.7), ((0.6, 0.75), (0.95, 0.9), 0.4), ((0.95, 0.7), (0.98, 0.999), 0.9)]


def slow_cell(a: int, b: int, se: tuple[float, float], sp: tuple[float, float], share: float) -> float:
    """Probability that the judges say ``a`` and ``b``, summed over the two truths."""
    there = (se[0] if a else 1 - se[0]) * (se[1] if b else 1 - se[1])
    gone = ((1 - sp[0]) if a else sp[0]) * ((1 - sp[1]) if b else sp[1])
    return share * there + (1 - share) * gone


def expected(se: tuple[float, float], sp: tuple[float, float], shares: tuple[float, ...], n: float) -> np.ndarray:
    cells = [(1, 1), (1, 0), (0, 1), (0, 0)]
    return np.array([[n * slow_cell(a, b, se, sp, share) for a, b in cells] for share in shares])


def closed(tables: np.ndarray) -> tuple[float, float, float]:
    """(share, sensitivities) of the first population where the second one is without the concept: false positives are
    the second one's rates, the covariance of the two answers is share · (1 - share) · Youden · Youden."""
    p, q = tables[0] / tables[0].sum(), tables[1] / tables[1].sum()
    first, second = p[0] + p[1] - (q[0] + q[1]), p[0] + p[2] - (q[0] + q[2])
    covariance = p[0] - (p[0] + p[1]) * (p[0] + p[2])
    share = 1 / (1 + covariance / (first * second))
    return share, first / share + q[0] + q[1], second / share + q[0] + q[2]


@pytest.mark.parametrize(("se", "sp", "share"), TRUTHS)
def test_cells_of_a_known_truth_give_it_back(se: tuple[float, float], sp: tuple[float, float], share: float) -> None:
    tables = expected(se, sp, (share, 0.0), 1000.0)
    assert np.allclose(
        probabilities(np.array(se), np.array(sp), np.array([share, 0.0])) * 1000, tables, rtol=0, atol=1e-9
    )
    found = fit(tables, (False, True))
    assert np.allclose(found.sensitivity, se, atol=1e-6) and np.allclose(found.specificity, sp, atol=1e-6)
    assert np.allclose(found.shares, (share, 0.0), atol=1e-6)
    assert closed(tables) == pytest.approx((share, *se), abs=1e-9)


def test_two_populations_are_enough_where_neither_is_without_the_concept() -> None:
    se, sp = (0.8, 0.9), (0.95, 0.9)
    found = fit(expected(se, sp, (0.8, 0.2), 1000.0), (False, False))
    assert np.allclose(found.sensitivity, se, atol=1e-5) and np.allclose(found.specificity, sp, atol=1e-5)


def test_simulated_pictures_lie_within_the_spread_of_the_draws() -> None:
    se, sp, inside = (0.75, 0.9), (0.98, 0.97), []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        pictures = []
        for share, n in ((0.7, 150), (0.0, 150)):
            truth = rng.random(n) < share
            a, b = (np.where(truth, rng.random(n) < se[k], rng.random(n) >= sp[k]) for k in (0, 1))
            pictures.append([(a & b).sum(), (a & ~b).sum(), (~a & b).sum(), (~a & ~b).sum()])
        low, high = np.quantile(resampled(pictures, (False, True), 100).sensitivity, (0.025, 0.975), axis=0)
        inside.append((low <= se) & (se <= high))
    assert np.mean(inside) > 0.85


def test_judges_that_err_together_look_better_than_they_are() -> None:
    """Half of what is there is faint, and both miss it: the model takes the faint half for absent."""
    tables = 0.5 * expected((0.95, 0.95), (0.99, 0.99), (1.0,), 1000.0)
    tables += 0.5 * expected((0.05, 0.05), (0.99, 0.99), (1.0,), 1000.0)
    without = expected((0.5, 0.5), (0.99, 0.99), (0.0,), 1000.0)
    assert fit(np.concatenate([tables, without]), (False, True)).sensitivity[0] > 0.9


def test_draws_are_the_same_again_and_shapes_are_checked() -> None:
    tables = [[40, 5, 8, 20], [0, 1, 2, 60]]
    first, again = resampled(tables, (False, True), 20), resampled(tables, (False, True), 20)
    assert first.sensitivity.shape == (20, 2) and np.array_equal(first.sensitivity, again.sensitivity)
    alone = fit(tables, (False, True))
    assert np.allclose(fit([tables, tables], (False, True)).sensitivity, [alone.sensitivity] * 2)
    with pytest.raises(BadInput, match="shape"):
        fit([[1, 2, 3]], (False,))
    with pytest.raises(BadInput, match="at least 0"):
        fit([[1, 2, 3, -1]], (False,))
