"""How well a score ranks positives over negatives: AUROC, AUPRC, TPR at a false-positive rate, with intervals over
clusters.

Values equal scikit-learn's (the tests compare). Intervals resample whole clusters (a matched pair, a concept) and use
the weighted form of the statistic, so 1,000 draws cost one matrix product a chunk; below ``FEW`` clusters,
delete-one-cluster jackknife with Student's t, as in ``metrics.intervals``."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genward.errors import BadInput
from genward.metrics.intervals import FEW, SEED, Array, Estimate, quantile, unknown, wilson

DRAWS = 1_000
CHUNK = 100
"""Resamples at once."""


def confusion(scores: ArrayLike, labels: ArrayLike, threshold: float) -> dict[str, float]:
    """``accuracy``, ``tpr`` and ``fpr`` of ``score > threshold``; NaN where a class is absent."""
    x, y = _rows(scores, labels)
    hit = x > threshold
    return {
        "accuracy": float((hit == y).mean()) if len(y) else math.nan,
        "tpr": float(hit[y].mean()) if y.any() else math.nan,
        "fpr": float(hit[~y].mean()) if (~y).any() else math.nan,
    }


def auroc_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """AUROC, the probability that a positive scores above a negative (ties half), with an interval over clusters (every
    row its own where none are given).

    Rows whose score is NaN are left out and counted; NaN and a reason where there is only one class.
    """
    return _estimate(scores, labels, clusters, weighted_auroc, level, draws, seed)


def within_auroc_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    prompts: Sequence[Hashable],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """AUROC over the pairs of a positive and a negative of **one prompt** (ties half), with an interval over prompts; a
    score that depends on the prompt alone gets 0.5.

    Rows whose score is NaN are left out and counted, ``n`` are the rows of prompts that have both outcomes; NaN and a
    reason where none has.
    """
    raw, marks = np.asarray(scores, np.float64), np.asarray(labels)
    if raw.ndim != 1 or marks.shape != raw.shape or len(prompts) != len(raw):
        raise BadInput(f"{len(raw)} scores, {marks.shape} labels and {len(prompts)} prompts do not belong together")
    keep = ~np.isnan(raw)
    x, y = _rows(raw[keep], marks[keep])
    members: dict[Hashable, list[int]] = {}
    for k, prompt in enumerate(p for p, use in zip(prompts, keep, strict=True) if use):
        members.setdefault(prompt, []).append(k)
    both = {p: np.asarray(m) for p, m in members.items() if 0 < y[m].sum() < len(m)}
    if not both:
        return unknown("no prompt has both outcomes", 0, int((~keep).sum()))
    gaps = [x[m][y[m]][:, None] - x[m][~y[m]][None] for m in both.values()]
    won = np.asarray([float((g > 0).sum() + 0.5 * (g == 0).sum()) for g in gaps])
    pairs = np.asarray([float(g.size) for g in gaps])
    rows = np.concatenate(list(both.values()))
    first = np.cumsum([0, *(len(m) for m in both.values())])[:-1]

    def statistic(_: Array, __: NDArray[np.bool_], weights: Array) -> Array:
        there = weights[:, first] @ pairs  # 0 in a resample without any of the prompts
        found: Array = np.divide(weights[:, first] @ won, there, out=np.full(len(there), np.nan), where=there > 0)
        return found

    names = [p for p, m in both.items() for _ in m]
    found = _estimate(x[rows], y[rows], names, statistic, level, draws, seed)
    return found._replace(n_unscored=int((~keep).sum()))


def auprc_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """Average precision with an interval over clusters; see ``auroc_estimate``. Its floor is the share of positives, so
    report that beside it."""
    return _estimate(scores, labels, clusters, weighted_auprc, level, draws, seed)


def tpr_estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    fpr: float,
    clusters: Sequence[Hashable] | None = None,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """Largest share of positives caught by any threshold that flags at most ``fpr`` of the negatives (no
    interpolation); see ``auroc_estimate``.

    The threshold is found anew in each resample, so that the interval carries its uncertainty too.

    Raises:
        BadInput: ``fpr`` is not a share.
    """
    if not 0 <= fpr < 1:
        raise BadInput(f"a false-positive rate of {fpr}; give a share between 0 and 1")
    return _estimate(scores, labels, clusters, lambda x, y, w: weighted_tpr(x, y, w, fpr), level, draws, seed)


# -------------------------------------------------------------------------------------------------- weighted statistics


def weighted_auroc(x: Array, y: NDArray[np.bool_], weights: Array) -> Array:
    """(draws,) AUROC of rows (n,) counted ``weights`` (draws, n) times; NaN where a draw lacks a class."""
    ends, ordered, order = _tied(x)
    positive = np.add.reduceat(weights[:, order] * y[order], ordered, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~y[order], ordered, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = (positive * (below + negative / 2)).sum(1) / (positive.sum(1) * negative.sum(1))
    return found


def weighted_auprc(x: Array, y: NDArray[np.bool_], weights: Array) -> Array:
    """(draws,) average precision, as ``weighted_auroc``."""
    positive, negative = _descending(x, y, weights)
    hits, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits + false > 0, hits / np.maximum(hits + false, 1e-300), 0.0)
        found: Array = (positive * precision).sum(1) / hits[:, -1]
    found[false[:, -1] == 0] = np.nan
    return found


def weighted_tpr(x: Array, y: NDArray[np.bool_], weights: Array, fpr: float) -> Array:
    """(draws,) TPR at a false-positive rate, as ``weighted_auroc``."""
    positive, negative = _descending(x, y, weights)
    hits, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    allowed = false <= (fpr + 1e-12) * false[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Array = np.where(allowed, hits, 0.0).max(1) / hits[:, -1]
    found[(false[:, -1] == 0) | (hits[:, -1] == 0)] = np.nan
    return found


def _tied(x: Array) -> tuple[int, NDArray[np.intp], NDArray[np.intp]]:
    """(number of distinct scores, where each begins in the ascending order, that order)."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(x[order]) > 0])
    return len(starts), starts, order


def _descending(x: Array, y: NDArray[np.bool_], weights: Array) -> tuple[Array, Array]:
    _, starts, order = _tied(-x)
    counted = weights[:, order]
    return np.add.reduceat(counted * y[order], starts, axis=1), np.add.reduceat(counted * ~y[order], starts, axis=1)


# ------------------------------------------------------------------------------------------------------------ intervals


def _rows(scores: ArrayLike, labels: ArrayLike) -> tuple[Array, NDArray[np.bool_]]:
    x, raw = np.asarray(scores, np.float64), np.asarray(labels)
    if x.ndim != 1 or raw.shape != x.shape:
        raise BadInput(f"{raw.shape} labels for scores of shape {x.shape}; one a score is wanted")
    if not np.isin(raw, (0, 1)).all():
        raise BadInput("labels must be 0 or 1 (False or True)")
    if np.isnan(x).any():
        raise BadInput(
            f"{int(np.isnan(x).sum())} scores are NaN; a ranking has no place for them, leave them out and report how "
            "many"
        )
    return x, raw.astype(bool)


def _estimate(
    scores: ArrayLike,
    labels: ArrayLike,
    clusters: Sequence[Hashable] | None,
    statistic: Callable[[Array, NDArray[np.bool_], Array], Array],
    level: float,
    draws: int,
    seed: int,
) -> Estimate:
    raw, marks = np.asarray(scores, np.float64), np.asarray(labels)
    if raw.ndim != 1 or marks.shape != raw.shape or (clusters is not None and len(clusters) != len(raw)):
        raise BadInput(
            f"scores of shape {raw.shape}, labels of {marks.shape}, {len(raw) if clusters is None else len(clusters)} "
            "clusters do not belong together"
        )
    keep = ~np.isnan(raw)
    x, y = _rows(raw[keep], marks[keep])
    lost = int((~keep).sum())
    if not 0 < y.sum() < len(y):
        return unknown("positives and negatives are needed", len(y), lost)
    names = list(range(len(raw))) if clusters is None else list(clusters)
    kept = [n for n, k in zip(names, keep, strict=True) if k]
    place = {n: k for k, n in enumerate(sorted(set(kept), key=str))}
    codes = np.asarray([place[n] for n in kept])
    value = float(statistic(x, y, np.ones((1, len(x))))[0])
    few = len(place) < FEW
    drawn = _resampled(x, y, codes, len(place), statistic, 0 if few else draws, seed)
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < max(2, (len(place) if few else draws) // 2):
        return Estimate(value, math.nan, math.nan, len(x), lost, "one cluster holds nearly all rows of a class")
    if np.ptp(drawn) == 0:
        return _at_edge(value, x, y, codes, lost, level)
    if few:
        half = quantile(level, len(drawn) - 1) * math.sqrt(
            (len(drawn) - 1) / len(drawn) * float(((drawn - drawn.mean()) ** 2).sum())
        )
        low, high = value - half, value + half
    else:
        low, high = map(float, np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    return Estimate(value, max(0.0, min(low, value)), min(1.0, max(high, value)), len(x), lost)


def _resampled(
    x: Array,
    y: NDArray[np.bool_],
    codes: NDArray[np.int_],
    count: int,
    statistic: Callable[[Array, NDArray[np.bool_], Array], Array],
    draws: int,
    seed: int,
) -> Array:
    """Statistic of resamples of whole clusters; with 0 draws, of the table without each cluster."""
    if draws == 0:
        return statistic(x, y, (1.0 - np.eye(count))[:, codes])
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, draws, CHUNK):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(CHUNK, draws - start))
        parts.append(statistic(x, y, weights[:, codes].astype(np.float64)))
    return np.concatenate(parts)


def _at_edge(
    value: float, x: Array, y: NDArray[np.bool_], codes: NDArray[np.int_], lost: int, level: float
) -> Estimate:
    """Where no resample sees a spread (perfect separation): Wilson's interval at the number of clusters of the scarcer
    class."""
    scarce = min(len(np.unique(codes[y])), len(np.unique(codes[~y])))
    found = wilson(value * scarce, scarce, level)
    return Estimate(value, min(found.low, value), max(found.high, value), len(x), lost)
