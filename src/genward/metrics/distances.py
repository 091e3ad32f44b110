"""Distances between sets of feature vectors (Fréchet) and between pairs of them (drift)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from genward.errors import BadInput
from genward.metrics.intervals import SEED, Array, Estimate, unknown


def _matrix(features: ArrayLike, name: str) -> Array:
    """(n, d) float64 without rows that are not finite."""
    table = np.asarray(features, np.float64)
    if table.ndim != 2:
        raise BadInput(f"features {name} have shape {table.shape}; (samples, width) is wanted")
    return table[np.isfinite(table).all(1)]


def _same_width(a: Array, b: Array) -> None:
    if a.shape[1] != b.shape[1]:
        raise BadInput(f"features of width {a.shape[1]} and {b.shape[1]}; both must come from one judge")


def covariance(features: Array, shrinkage: float = 0.0) -> Array:
    """(d, d) sample covariance (divisor n-1), moved by ``shrinkage`` towards the sphere of equal trace (Ledoit and Wolf
    2004's target)."""
    centered = features - features.mean(0)
    full: Array = centered.T @ centered / (len(features) - 1)
    if shrinkage:
        full = (1 - shrinkage) * full + shrinkage * np.trace(full) / len(full) * np.eye(len(full))
    return full


def root(matrix: Array) -> Array:
    """Symmetric square root of a positive semi-definite matrix; eigenvalues that rounding made negative count as 0."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    found: Array = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    return found


def _cross_trace(a: Array, b: Array, shrinkage: float) -> float:
    """``tr((Σa Σb)^½)``.

    With fewer rows than columns it is the sum of the singular values of ``A Bᵀ`` for centered rows ``A``, ``B`` (``AᵀA
    BᵀB`` and ``A Bᵀ B Aᵀ`` share their non-zero eigenvalues): an (n, m) problem in place of a (d, d) one."""
    if not shrinkage and min(len(a), len(b)) < a.shape[1]:
        gram = (a - a.mean(0)) @ (b - b.mean(0)).T / math.sqrt((len(a) - 1) * (len(b) - 1))
        return float(np.linalg.svd(gram, compute_uv=False).sum())
    half = root(covariance(a, shrinkage))
    inner = half @ covariance(b, shrinkage) @ half
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh((inner + inner.T) / 2), 0)).sum())


def frechet(a: ArrayLike, b: ArrayLike, *, shrinkage: float = 0.0) -> float:
    """Fréchet distance of two sets of features seen as Gaussians (Dowson and Landau 1982; FID: Heusel et al. 2017, in
    any features).

    ``|μa - μb|² + tr(Σa + Σb - 2 (Σa Σb)^½)``; covariances with divisor n-1. Sets of unlike size or small ones are
    biased upwards: compare numbers only at equal n.

    Args:
        a, b: (n, d) and (m, d); rows that are not finite are left out.
        shrinkage: 0 … 1, see ``covariance``; 0 is the textbook distance.

    Returns:
        At least 0; NaN where a set has fewer than two rows.

    Raises:
        BadInput: no matrices, or of different widths.
    """
    if not 0 <= shrinkage <= 1:
        raise BadInput(f"shrinkage {shrinkage}; between 0 and 1 is possible")
    left, right = _matrix(a, "a"), _matrix(b, "b")
    _same_width(left, right)
    return _frechet(left, right, shrinkage)


def _frechet(a: Array, b: Array, shrinkage: float) -> float:
    if len(a) < 2 or len(b) < 2:
        return math.nan
    means = float(((a.mean(0) - b.mean(0)) ** 2).sum())
    traces = float(a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum())  # the trace does not change under shrinkage
    return max(0.0, means + traces - 2 * _cross_trace(a, b, shrinkage))


def frechet_estimate(
    a: ArrayLike,
    b: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    shrinkage: float = 0.0,
    level: float = 0.95,
    draws: int = 200,
    seed: int = SEED,
) -> Estimate:
    """``frechet`` of paired sets (row k of both shows one case) with a bootstrap interval over clusters of pairs, or
    over pairs.

    A resample repeats rows and is therefore farther apart than fresh samples would be; the percentiles are moved by the
    difference between the value and the resamples' mean, which takes this bias out. Pairs with a row that is not finite
    are left out and counted.

    Args:
        a, b: (n, d). clusters: (n,) names.

    Returns:
        NaN with a reason below two pairs; a NaN interval with a reason below two clusters.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.ndim != 2 or left.shape != right.shape or (clusters is not None and len(clusters) != len(left)):
        raise BadInput(
            f"features of shapes {left.shape} and {right.shape}; pairs of equal width are wanted, and one cluster a "
            "pair"
        )
    kept = np.isfinite(left).all(1) & np.isfinite(right).all(1)
    lost = int((~kept).sum())
    names = np.asarray(
        [str(c) for c in clusters] if clusters is not None else [f"{k:09d}" for k in range(len(left))], dtype=np.str_
    )[kept]
    left, right = left[kept], right[kept]
    if len(left) < 2:
        return unknown("fewer than two pairs with features", len(left), lost)
    value = _frechet(left, right, shrinkage)
    unique, codes = np.unique(names, return_inverse=True)
    if len(unique) < 2:
        return Estimate(value, math.nan, math.nan, len(left), lost, "1 cluster: an interval needs two")
    if np.array_equal(left, right):
        return Estimate(0.0, 0.0, 0.0, len(left), lost)
    members: list[Any] = [np.flatnonzero(codes == g) for g in range(len(unique))]
    rng = np.random.default_rng(seed)
    drawn = np.empty(draws)
    for k in range(draws):
        rows = np.concatenate([members[g] for g in rng.integers(0, len(unique), len(unique))])
        drawn[k] = _frechet(left[rows], right[rows], shrinkage)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < draws // 2:
        return Estimate(value, math.nan, math.nan, len(left), lost, "too few pairs to resample")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) + (value - drawn.mean())
    return Estimate(value, max(0.0, min(float(low), value)), max(float(high), value), len(left), lost)


def drift(a: ArrayLike, b: ArrayLike) -> Array:
    """How far each picture moved in feature space: ``½ |â - b̂|² = 1 - cos(a, b)`` with ``x̂ = x / |x|``, pair by pair.

    The place of LPIPS (Zhang et al. 2018) in the judge's own features: 0 for equal vectors (exactly), 1 for orthogonal,
    2 for opposite ones.

    Args:
        a, b: (n, d); row k of both is one case at one seed.

    Returns:
        (n,); NaN where a vector is not finite or all zero.
    """
    left, right = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if left.ndim != 2 or left.shape != right.shape:
        raise BadInput(f"features of shapes {left.shape} and {right.shape}; pairs of equal width are wanted")
    lengths = [np.sqrt((x * x).sum(1, keepdims=True)) for x in (left, right)]
    fine = np.isfinite(left).all(1) & np.isfinite(right).all(1) & (lengths[0][:, 0] > 0) & (lengths[1][:, 0] > 0)
    out = np.full(len(left), np.nan)
    gap = left[fine] / lengths[0][fine] - right[fine] / lengths[1][fine]
    out[fine] = np.minimum(0.5 * (gap * gap).sum(1), 2.0)
    return out
