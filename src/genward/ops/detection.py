"""Small statistics of detectors that are fitted here: ranking measures, thresholds, temperature, a linear probe. Numpy
in, numbers out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genward.errors import BadInput

Array = NDArray[np.float64]
POINTS = ("fpr1", "fpr5", "f1")
"""Operating points that are calibrated: 1 % and 5 % false positives, and the best F1."""


def scored(scores: ArrayLike, truth: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    """Scores and truths (n,) as arrays, rows with a truth of NaN left out.

    Raises:
        BadInput: unequal lengths, or a score that is not finite.
    """
    s, t = np.asarray(scores, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    if len(s) != len(t):
        raise BadInput(f"{len(s)} scores for {len(t)} truths; one each is needed")
    keep = ~np.isnan(t)
    if not np.isfinite(s[keep]).all():
        raise BadInput("a score is not finite; a detector that fails must say so, not be ranked")
    return s[keep], t[keep] > 0.5


def auroc(scores: ArrayLike, truth: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties half; NaN where a class is empty."""
    s, t = scored(scores, truth)
    if not t.any() or t.all():
        return math.nan
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(t, s))


def average_precision(scores: ArrayLike, truth: ArrayLike) -> float:
    """Area under precision and recall as a sum over distinct scores (no interpolation); NaN without a positive."""
    s, t = scored(scores, truth)
    if not t.any():
        return math.nan
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(t, s))


def threshold_at_fpr(scores: ArrayLike, truth: ArrayLike, share: float) -> float:
    """Smallest score that at most ``share`` of the negatives lie strictly above; NaN without negatives."""
    s, t = scored(scores, truth)
    negatives = np.sort(s[~t])
    if not len(negatives):
        return math.nan
    allowed = math.floor(share * len(negatives) + 1e-9)
    return float(negatives[len(negatives) - 1 - min(allowed, len(negatives) - 1)])


def best_f1(scores: ArrayLike, truth: ArrayLike) -> float:
    """The threshold with the best F1 when rows strictly above it are positive, halfway between two scores; NaN without
    a positive."""
    s, t = scored(scores, truth)
    if not t.any():
        return math.nan
    values = np.unique(s)
    cuts = np.concatenate([[values[0] - 1e-6], (values[1:] + values[:-1]) / 2])
    hits = np.array([(t & (s > c)).sum() for c in cuts])
    fired = np.array([(s > c).sum() for c in cuts])
    return float(cuts[int(np.argmax(2 * hits / (fired + t.sum())))])


def operating_points(scores: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Thresholds at ``POINTS``; 0.5 where the rows cannot tell."""
    found = {
        "fpr1": threshold_at_fpr(scores, truth, 0.01),
        "fpr5": threshold_at_fpr(scores, truth, 0.05),
        "f1": best_f1(scores, truth),
    }
    return {k: round(v, 6) if math.isfinite(v) else 0.5 for k, v in found.items()}


def temperature(logits: ArrayLike, truth: ArrayLike) -> float:
    """Divisor of the logits in [0.25, 8] that minimizes binary cross-entropy (NaN truths left out); 1 where a class is
    empty."""
    z, t = scored(logits, truth)
    if not t.any() or t.all():
        return 1.0
    sign = np.where(t, 1.0, -1.0)
    grid = np.exp(np.linspace(math.log(0.25), math.log(8.0), 101))
    losses = [np.logaddexp(0, -sign * z / g).mean() for g in grid]
    return float(grid[int(np.argmin(losses))])


def linear_probe(x: ArrayLike, truth: ArrayLike, ridge: float = 1e-2, steps: int = 30) -> tuple[Array, Array, Array]:
    """Logistic regression on standardized features by Newton's method in the span of the rows.

    Args:
        x: (n, d). truth: (n,), both classes present. ridge: weight of ``|w|²/2`` per row.

    Returns:
        mean (d,), weights (d,) with the standardization folded in, and bias (1,): ``(x - mean) @ weights + bias`` is
        the logit.
    """
    features = np.asarray(x, np.float64).reshape(len(np.asarray(truth)), -1)
    y = np.asarray(truth, np.float64)
    if not 0 < y.sum() < len(y):
        raise BadInput("a probe needs rows of both classes")
    center, spread = features.mean(0), features.std(0) + 1e-8
    z = (features - center) / spread
    u, s, vt = np.linalg.svd(z, full_matrices=False)
    a = np.hstack([u * s, np.ones((len(y), 1))])
    w = np.zeros(a.shape[1])
    penalty = np.append(np.full(a.shape[1] - 1, ridge * len(y)), 1e-9)
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(a @ w, -30, 30)))
        gradient = a.T @ (p - y) + penalty * w
        step = np.linalg.solve((a * (p * (1 - p))[:, None]).T @ a + np.diag(penalty + 1e-9), gradient)
        w -= step
        if np.abs(step).max() < 1e-8:
            break
    return center, vt.T @ w[:-1] / spread, w[-1:]


def probe_scores(probe: tuple[Array, Array, Array], x: ArrayLike) -> Array:
    """Logits (n,) of rows (n, …) under a ``linear_probe``."""
    center, weights, bias = probe
    features = np.asarray(x, np.float64)
    out: Array = (features.reshape(len(features), -1) - center) @ weights + bias
    return out


def spread_groups(groups: Sequence[str], shares: Sequence[float], key: Any) -> list[int]:
    """Which part each row belongs to, whole groups together: groups in the order of ``key(group)``, cut where the
    shares of rows end.

    Args:
        groups: (n,) names. shares: of the parts, summing to 1. key: group -> sortable; a hash of the name gives a fixed
            random order.
    """
    count: dict[str, int] = {}
    for g in groups:
        count[g] = count.get(g, 0) + 1
    ends: Array = np.cumsum(np.asarray(shares, np.float64)) * len(groups)
    part: dict[str, int] = {}
    seen = 0.0
    for g in sorted(count, key=key):
        part[g] = min(int(np.searchsorted(ends, seen + count[g] / 2)), len(ends) - 1)
        seen += count[g]
    return [part[g] for g in groups]
