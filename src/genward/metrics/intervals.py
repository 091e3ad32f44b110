"""Estimates with intervals: rates, rates corrected by a judge's card, clustered means, paired differences and ratios.

Percentile bootstrap over clusters undercovers when clusters are few (at 5 clusters a nominal 95 % interval of a mean
holds about 84 % of the time), so below ``FEW`` clusters the interval is value ± t(G-1) · SE with the delete-one-cluster
jackknife error (CV3: MacKinnon, Nielsen and Webb, Journal of Applied Econometrics 2023), and below two clusters there
is none: NaN and a reason."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genward.errors import BadInput

Array = NDArray[np.float64]
FEW = 10
"""Below this number of clusters the t-based interval takes the place of the bootstrap."""
SEED = 20_240_229
DRAWS = 2_000
MIN_YOUDEN = 0.05
"""A judge with sensitivity + specificity - 1 at or below this corrects nothing."""


class Estimate(NamedTuple):
    """A figure with its interval, on ``n`` scored rows; ``n_unscored`` rows had no value. NaN carries a reason in
    ``why``."""

    value: float
    low: float
    high: float
    n: int
    n_unscored: int = 0
    why: str = ""


def unknown(why: str, n: int = 0, n_unscored: int = 0) -> Estimate:
    """An estimate that there is not, and why."""
    return Estimate(math.nan, math.nan, math.nan, n, n_unscored, why)


def mean(values: Array) -> float:
    """The default statistic; its bootstrap is vectorized."""
    return float(np.mean(values))


@cache
def quantile(level: float, freedom: float = math.inf) -> float:
    """Two-sided quantile of the normal (or, with ``freedom``, Student's t) distribution: 1.96 at 0.95."""
    from scipy import stats

    if not 0 < level < 1:
        raise BadInput(f"level {level}; give a number between 0 and 1, 0.95 say")
    return float(stats.t.ppf((1 + level) / 2, freedom) if math.isfinite(freedom) else stats.norm.ppf((1 + level) / 2))


# ---------------------------------------------------------------------------------------------------------------- rates


def wilson(k: float, n: float, level: float = 0.95) -> Estimate:
    """Wilson's score interval of ``k`` of ``n`` (Wilson, JASA 1927). Fractions are allowed: effective counts.

    Raises:
        BadInput: ``k`` outside 0 … ``n``.
    """
    return _wilson(k, n, quantile(level))


def _wilson(k: float, n: float, z: float) -> Estimate:
    if not 0 <= k <= n:
        raise BadInput(f"{k} of {n} is no rate; k must lie between 0 and n")
    if n == 0:
        return unknown("no scored rows")
    p = k / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return Estimate(p, 0.0 if k == 0 else max(0.0, center - half), 1.0 if k == n else min(1.0, center + half), round(n))


def card_figures(label: Mapping[str, float]) -> tuple[float, float, float, float, str]:
    """(sensitivity, specificity, positives, negatives, why not) of one label of a card; ``why not`` is empty where it
    can correct a rate."""
    figures = [float(label.get(key, math.nan)) for key in ("sensitivity", "specificity", "positives", "negatives")]
    sens, spec, positives, negatives = figures
    if not all(map(math.isfinite, figures)):
        why = "the judge's card lacks sensitivity, specificity, positives or negatives"
    elif not (0 <= sens <= 1 and 0 <= spec <= 1):
        why = f"the judge's card has sensitivity {sens:.3f}, specificity {spec:.3f}; both lie between 0 and 1"
    elif positives < 1 or negatives < 1:
        why = "the judge's card was measured on no positives or no negatives"
    elif sens + spec - 1 <= MIN_YOUDEN + 1e-9:
        least = f"{1 + MIN_YOUDEN:.2f}"
        why = f"the judge tells too little: sensitivity {sens:.3f} + specificity {spec:.3f} is at most {least}"
    else:
        why = ""
    return sens, spec, positives, negatives, why


def corrected_rate(
    k: float,
    n: int,
    card_label: Mapping[str, float],
    *,
    certain: int = 0,
    level: float = 0.95,
    draws: int = 10 * DRAWS,
    seed: int = SEED,
    share: float = 1.0,
) -> Estimate:
    """The true rate behind ``k`` positives of ``n`` that a judge with known errors saw (Rogan and Gladen, Am. J.
    Epidemiology 1978).

    ``(k/n + specificity - 1) / (sensitivity + specificity - 1)``, clipped to [0, 1]. The interval is a parametric
    bootstrap: the apparent rate, sensitivity and specificity are drawn from Jeffreys' beta distributions of their
    counts, so that figures of 0 and 1 are not taken for certain, and the percentiles of the corrected draws are taken.

    Args:
        card_label: ``{sensitivity, specificity, positives, negatives}``: the counts say how well the first two are
            known.
        certain: how many of the ``n`` are negative beyond doubt (refused rows: there is no picture a judge could err
            on).
        seed: equal input gives equal output.
        share: how much of a row each row counts in the interval, above 0 and at most 1.

    Raises:
        BadInput: counts that contradict each other.
    """
    judged = n - certain
    if not (0 <= certain <= n and 0 <= k <= judged):
        raise BadInput(
            f"{k} positives and {certain} certain negatives of {n}; counts must be at least 0 and fit into n"
        )
    sens, spec, positives, negatives, why = card_figures(card_label)
    if n == 0 or why:
        return unknown(why or "no scored rows", n)
    if judged == 0:
        return wilson(0, n * share, level)._replace(n=n)
    value = judged / n * float(np.clip((k / judged + spec - 1) / (sens + spec - 1), 0, 1))
    rng = np.random.default_rng(seed)
    apparent = rng.beta(share * k + 0.5, share * (judged - k) + 0.5, draws)
    se = rng.beta(sens * positives + 0.5, (1 - sens) * positives + 0.5, draws)
    sp = rng.beta(spec * negatives + 0.5, (1 - spec) * negatives + 0.5, draws)
    seen = rng.beta(share * judged + 0.5, share * certain + 0.5, draws) if certain else np.ones(draws)
    youden = np.maximum(se + sp - 1, 1e-9)
    drawn = seen * np.clip((apparent + sp - 1) / youden, 0, 1)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, 0.0 if k == 0 else min(float(low), value), 1.0 if k == n else max(float(high), value), n)


# ------------------------------------------------------------------------------------------------------------- clusters


class _Groups(NamedTuple):
    """Rows sorted into clusters: finite values, the cluster number of each, number of clusters, rows left out."""

    values: Array
    codes: NDArray[np.intp]
    clusters: int
    left_out: int


def _grouped(values: ArrayLike, clusters: Sequence[Hashable]) -> _Groups:
    """Drop rows that are NaN; number the clusters in the order of their names, so that the order of rows changes
    nothing."""
    table = np.asarray(values, np.float64)
    if table.ndim != 1 or len(table) != len(clusters):
        raise BadInput(f"{len(clusters)} clusters for values of shape {table.shape}; one a value is wanted")
    kept = np.isfinite(table)
    names = np.asarray([str(c) for c in clusters], dtype=np.str_)[kept]
    order = np.argsort(names, kind="stable")
    unique, codes = np.unique(names[order], return_inverse=True)
    return _Groups(table[kept][order], codes.astype(np.intp), len(unique), int((~kept).sum()))


def _sums(groups: _Groups, values: Array) -> tuple[Array, Array]:
    """(sum, size) of each cluster."""
    sizes = np.bincount(groups.codes, minlength=groups.clusters)
    return np.bincount(groups.codes, values, groups.clusters).astype(np.float64), sizes.astype(np.float64)


def _weights(count: int, draws: int, seed: int) -> NDArray[np.int64]:
    """(draws, count): how often each cluster is in each resample."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)


def _jackknife(value: float, without: Array, level: float) -> tuple[float, float]:
    """value ± t(G-1) · SE from the statistic without each of the G clusters."""
    count = len(without)
    error = math.sqrt((count - 1) / count * float(((without - without.mean()) ** 2).sum()))
    half = quantile(level, count - 1) * error
    return value - half, value + half


def _percentiles(drawn: Array, level: float) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _alone(groups: _Groups) -> str:
    return (
        f"{groups.clusters} cluster{'' if groups.clusters == 1 else 's'}: an interval needs two"
        if groups.clusters < 2
        else ""
    )


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    statistic: Callable[[Array], float] = mean,
    draws: int = DRAWS,
    seed: int = SEED,
    level: float = 0.95,
) -> Estimate:
    """A statistic of rows that come in clusters (pictures of one object), with an interval over clusters.

    Ten clusters or more: percentile bootstrap of whole clusters. Two to nine: value ± t(G-1) · jackknife error. Fewer:
    NaN interval with a reason. NaN values are left out and counted.

    Args:
        values: (n,). clusters: (n,) names.
        statistic: of a (k,) array; the mean is vectorized, anything else is called once a draw.

    Raises:
        BadInput: lengths that differ.
    """
    groups = _grouped(values, clusters)
    n = len(groups.values)
    if n == 0:
        return unknown("no scored rows", 0, groups.left_out)
    value = float(statistic(groups.values))
    if groups.clusters < 2:
        return Estimate(value, math.nan, math.nan, n, groups.left_out, _alone(groups))
    if statistic is mean:
        sums, sizes = _sums(groups, groups.values)
        if groups.clusters < FEW:
            low, high = _jackknife(value, (sums.sum() - sums) / (sizes.sum() - sizes), level)
        else:
            weights = _weights(groups.clusters, draws, seed)
            low, high = _percentiles((weights @ sums) / (weights @ sizes), level)
        return Estimate(value, low, high, n, groups.left_out)
    members = [groups.values[groups.codes == g] for g in range(groups.clusters)]
    if groups.clusters < FEW:
        without = np.asarray([statistic(groups.values[groups.codes != g]) for g in range(groups.clusters)], np.float64)
        low, high = _jackknife(value, without, level)
    else:
        weights = _weights(groups.clusters, draws, seed)
        drawn = [
            statistic(np.concatenate([m for m, w in zip(members, row, strict=True) for _ in range(w)]))
            for row in weights
        ]
        low, high = _percentiles(np.asarray(drawn, np.float64), level)
    return Estimate(value, low, high, n, groups.left_out)


def clustered_rate(values: ArrayLike, clusters: Sequence[Hashable], level: float = 0.95) -> Estimate:
    """A rate of 0/1 rows that come in clusters: Wilson's interval at the effective number of rows, with t(G-1) in place
    of the normal quantile.

    The effective number is ``p(1-p) / SE²`` with the jackknife error over clusters, at most ``n`` (Korn and Graubard,
    Survey Methodology 1998, with Wilson's interval in place of Clopper and Pearson's); where all rows agree it is the
    number of clusters. The interval stays in [0, 1] and has a width at rates of 0 and 1, where a bootstrap has none.
    """
    groups = _grouped(values, clusters)
    n = len(groups.values)
    if n == 0:
        return unknown("no scored rows", 0, groups.left_out)
    p = float(groups.values.mean())
    if groups.clusters < 2:
        return Estimate(p, math.nan, math.nan, n, groups.left_out, _alone(groups))
    effective = _effective(groups)
    found = _wilson(min(p * effective, effective), effective, quantile(level, groups.clusters - 1))
    return Estimate(p, found.low, found.high, n, groups.left_out)


def _effective(groups: _Groups) -> float:
    """The effective number of 0/1 rows in at least two clusters, see ``clustered_rate``."""
    if not ((groups.values == 0) | (groups.values == 1)).all():
        raise BadInput("a rate wants rows of 0 and 1; use cluster_bootstrap for other values")
    n, p = len(groups.values), float(groups.values.mean())
    if p in (0.0, 1.0):
        return float(groups.clusters)
    sums, sizes = _sums(groups, groups.values)
    without = (sums.sum() - sums) / (sizes.sum() - sizes)
    variance = (groups.clusters - 1) / groups.clusters * float(((without - without.mean()) ** 2).sum())
    return min(float(n), p * (1 - p) / variance) if variance > 0 else float(n)


def clustered_corrected_rate(
    values: ArrayLike,
    clusters: Sequence[Hashable],
    card_label: Mapping[str, float],
    *,
    certain: int = 0,
    level: float = 0.95,
) -> Estimate:
    """``corrected_rate`` of 0/1 rows that come in clusters: counts are scaled to the effective number of rows of
    ``clustered_rate`` (the number of clusters where all rows agree), less what t(G-1) is wider than the normal quantile
    where a spread between clusters was estimated.

    Args:
        values: (n,) what the judge saw, 0 for refused rows, NaN for rows without an answer.
        clusters: of each row. card_label, certain: as ``corrected_rate`` has them.

    Returns:
        The rate with its interval; of one cluster alone the rate without one.
    """
    groups = _grouped(values, clusters)
    n, k = len(groups.values), float(groups.values.sum())
    plain = corrected_rate(k, n, card_label, certain=certain, level=level)
    if not math.isfinite(plain.value):
        return plain._replace(n_unscored=groups.left_out)
    if groups.clusters < 2:
        return plain._replace(low=math.nan, high=math.nan, n_unscored=groups.left_out, why=_alone(groups))
    agree = k in (0.0, float(n))
    wider = 1.0 if agree else (quantile(level) / quantile(level, groups.clusters - 1)) ** 2
    share = min(1.0, _effective(groups) * wider / n)
    found = corrected_rate(k, n, card_label, certain=certain, level=level, share=share)
    return found._replace(n_unscored=groups.left_out)


# ---------------------------------------------------------------------------------------------------------------- pairs


def _common(
    a: Mapping[Any, float], b: Mapping[Any, float], clusters: Mapping[Any, Hashable]
) -> tuple[Array, Array, list[Hashable], int]:
    """Both values and the cluster of each key that both have, pairs with a NaN dropped and counted."""
    keys = [key for key in a if key in b]
    lost = [key for key in keys if key not in clusters]
    if lost:
        raise BadInput(f"{len(lost)} pairs have no cluster, {lost[0]!r} among them; give one a key")
    left = np.asarray([a[key] for key in keys], np.float64)
    right = np.asarray([b[key] for key in keys], np.float64)
    kept = np.isfinite(left) & np.isfinite(right)
    return left[kept], right[kept], [clusters[key] for key, k in zip(keys, kept, strict=True) if k], int((~kept).sum())


def paired_difference(
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    clusters: Mapping[Any, Hashable],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """Mean of ``a - b`` over the keys that both have (same case, same seed), with an interval over clusters as in
    ``cluster_bootstrap``.

    Pairs with a NaN are dropped and counted in ``n_unscored``. Where all differences are one number, a resample sees no
    spread; the interval is then that number alone, and ``why`` says so.

    Args:
        a, b: key -> value. clusters: key -> cluster, at least for all common keys.

    Raises:
        BadInput: a common key without cluster.
    """
    left, right, names, lost = _common(a, b, clusters)
    if not len(left):
        return unknown("no scored pairs", 0, lost)
    gap = left - right
    found = cluster_bootstrap(gap, names, draws=draws, seed=seed, level=level)
    why = found.why or (
        "all pairs differ by the same number" if len(gap) > 1 and np.ptp(gap) == 0 and gap[0] != 0 else ""
    )
    return found._replace(n_unscored=lost, why=why)


def paired_ratio(
    a: Mapping[Any, float],
    b: Mapping[Any, float],
    clusters: Mapping[Any, Hashable],
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = SEED,
) -> Estimate:
    """Mean of ``a`` over mean of ``b`` on the keys that both have, for values of at least 0 on average; interval over
    clusters.

    Ten clusters or more: percentile bootstrap; two to nine: t(G-1) with the jackknife error. A resample whose
    denominator is not above 0 counts as infinite; NaN with a reason where ``b`` itself is not above 0 or the upper end
    would be infinite."""
    left, right, names, lost = _common(a, b, clusters)
    if not len(left):
        return unknown("no scored pairs", 0, lost)
    if right.mean() <= 0:
        return unknown("the rate it is compared with is 0", len(left), lost)
    top, bottom = _grouped(left, names), _grouped(right, names)
    value = float(left.mean() / right.mean())
    if top.clusters < 2:
        return Estimate(value, math.nan, math.nan, len(left), lost, _alone(top))
    above, _ = _sums(top, top.values)
    below, _ = _sums(bottom, bottom.values)
    few = top.clusters < FEW
    if few:
        above, below = above.sum() - above, below.sum() - below
    else:
        weights = _weights(top.clusters, draws, seed)
        above, below = weights @ above, weights @ below
    ratios = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.inf)
    if few and not np.isfinite(ratios).all():
        return Estimate(value, math.nan, math.nan, len(left), lost, "one cluster carries the rate it is compared with")
    low, high = _jackknife(value, ratios, level) if few else _quantiles_with_infinity(ratios, level)
    if not math.isfinite(high):
        return Estimate(value, math.nan, math.nan, len(left), lost, "the rate it is compared with may be 0")
    return Estimate(value, max(0.0, low), high, len(left), lost)


def _quantiles_with_infinity(drawn: Array, level: float) -> tuple[float, float]:
    """Order statistics, since interpolation between a number and infinity has no value."""
    low = np.quantile(drawn, (1 - level) / 2, method="lower")
    return float(low), float(np.quantile(drawn, (1 + level) / 2, method="higher"))
