"""Fréchet distance against ``scipy.linalg.sqrtm``, drift against a loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg

from genward.errors import BadInput
from genward.metrics import drift, frechet, frechet_estimate
from genward.metrics.distances import covariance, root


def features(n: int, d: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) / math.sqrt(d) + shift


def by_sqrtm(a: np.ndarray, b: np.ndarray, shrinkage: float = 0.0) -> float:
    d = a.shape[1]
    covs = [np.cov(x, rowvar=False).reshape(d, d) for x in (a, b)]
    covs = [(1 - shrinkage) * c + shrinkage * np.trace(c) / d * np.eye(d) for c in covs]
    mixed = linalg.sqrtm(covs[0] @ covs[1])
    return float(
        ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covs[0]) + np.trace(covs[1]) - 2 * np.trace(np.real(mixed))
    )


@pytest.mark.parametrize(
    ("n", "m", "d", "shrinkage"),
    [(60, 50, 8, 0.0), (60, 50, 8, 0.2), (200, 90, 20, 0.0), (2, 3, 1, 0.0), (12, 14, 16, 0.3)],
)
def test_frechet_equals_the_matrix_root(n: int, m: int, d: int, shrinkage: float) -> None:
    a, b = features(n, d, 1), features(m, d, 2, 0.4)
    got = frechet(a, b, shrinkage=shrinkage)
    assert got == pytest.approx(by_sqrtm(a, b, shrinkage), rel=1e-9)
    assert frechet(b, a, shrinkage=shrinkage) == pytest.approx(got, rel=1e-9)


@pytest.mark.parametrize(("n", "m", "d"), [(10, 12, 30), (30, 5, 20), (5, 30, 20)])
def test_fewer_rows_than_columns(n: int, m: int, d: int) -> None:
    """The root of a singular product is ill-conditioned for sqrtm; the eigenvalues of the product itself are the
    reference."""
    a, b = features(n, d, 3), features(m, d, 4, 0.2)
    values = np.real(linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)))
    cross = np.sqrt(np.maximum(values, 0)[values > 1e-10]).sum()
    expected = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(np.cov(a, rowvar=False))
        + np.trace(np.cov(b, rowvar=False))
        - 2 * cross
    )
    assert frechet(a, b) == pytest.approx(float(expected), rel=1e-7)


def test_frechet_of_known_gaussians() -> None:
    one = np.asarray([[-1.0], [1.0]])
    assert frechet(one, one * 3 + 5) == pytest.approx(25 + (math.sqrt(2) - 3 * math.sqrt(2)) ** 2)
    a = features(40, 6, 5)
    assert frechet(a, a) < 1e-9 and frechet(a[:5], a[:5]) < 1e-9
    assert frechet(a, a + 2.0) == pytest.approx(6 * 4.0)


def test_root_and_covariance() -> None:
    a = features(30, 7, 6)
    assert np.allclose(covariance(a), np.cov(a, rowvar=False))
    assert np.trace(covariance(a, 0.4)) == pytest.approx(np.trace(covariance(a)))
    assert np.allclose(root(covariance(a)) @ root(covariance(a)), covariance(a))


def test_rows_that_are_missing() -> None:
    a, b = features(20, 4, 7), features(20, 4, 8)
    assert frechet(np.vstack([a, np.full((3, 4), np.nan)]), b) == frechet(a, b)
    assert math.isnan(frechet(a[:1], b)) and math.isnan(frechet(a, b[:0]))
    for bad in (
        lambda: frechet(a, b[:, :3]),
        lambda: frechet(a[0], b),
        lambda: frechet(a, b, shrinkage=2.0),
        lambda: frechet_estimate(a, b[:3]),
        lambda: drift(a, b[:3]),
    ):
        with pytest.raises(BadInput):
            bad()


def test_frechet_interval() -> None:
    a = features(80, 5, 9)
    near, far = a + np.random.default_rng(1).normal(size=a.shape) * 0.1, features(80, 5, 10, 1.5)
    close_by, away = frechet_estimate(a, near), frechet_estimate(a, far)
    assert (
        close_by.value == frechet(a, near)
        and close_by.low <= close_by.value <= close_by.high < away.low <= away.value <= away.high
    )
    assert away == frechet_estimate(a, far), "equal input, equal output"
    clusters = [k % 16 for k in range(80)]
    assert frechet_estimate(a, far, clusters).value == away.value
    assert frechet_estimate(a, a.copy())[:3] == (0.0, 0.0, 0.0)
    holed = far.copy()
    holed[:3] = np.nan
    assert frechet_estimate(a, holed)[3:5] == (77, 3)
    assert frechet_estimate(a[:1], far[:1]).why.startswith("fewer than two")
    assert "needs two" in frechet_estimate(a, far, ["x"] * 80).why


def test_drift_equals_one_minus_cosine() -> None:
    a, b = features(25, 9, 11), features(25, 9, 12)
    got = drift(a, b)
    for k in range(25):
        dot = sum(float(x) * float(y) for x, y in zip(a[k], b[k], strict=True))
        norms = math.sqrt(sum(float(x) ** 2 for x in a[k])) * math.sqrt(sum(float(y) ** 2 for y in b[k]))
        assert got[k] == pytest.approx(1 - dot / norms, abs=1e-12)
    assert (drift(a, a) == 0).all() and np.allclose(drift(a, -a), 2.0) and np.allclose(drift(a, 3 * a), 0.0, atol=1e-15)
    assert drift(np.eye(2), np.eye(2)[::-1]).tolist() == pytest.approx([1.0, 1.0])
    assert np.isnan(drift(np.asarray([[0.0, 0.0], [np.nan, 1.0]]), np.ones((2, 2)))).all()
