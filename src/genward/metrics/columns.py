"""Figures over several columns at once, of rows that no judge's error corrects: one sample, paired on the case and
clustered, so that what the columns share is counted once (``metrics.pooling`` does the same with the judge's error)."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from genward.core.benchmark import Pool
from genward.metrics.comparing import told
from genward.metrics.erasure import json_numbers
from genward.metrics.intervals import (
    Estimate,
    cluster_bootstrap,
    clustered_rate,
    paired_difference,
    paired_ratio,
    unknown,
    wilson,
)


class Entry(NamedTuple):
    """One row's part in a figure."""

    key: Hashable
    """Equal for the rows of two arms that are a pair"""
    cluster: Hashable
    value: float
    """0 to 1, or NaN where nobody could say"""


def valued(entries: Sequence[Entry]) -> Estimate:
    """Mean of entries with an interval over their clusters: ``clustered_rate`` of zeros and ones, else a bootstrap."""
    values, clusters = [e.value for e in entries], [e.cluster for e in entries]
    if all(math.isnan(v) or v in (0.0, 1.0) for v in values):
        return clustered_rate(values, clusters)
    return cluster_bootstrap(values, clusters)


def compared(a: Sequence[Entry], b: Sequence[Entry]) -> tuple[Estimate, Estimate]:
    """Paired difference and ratio. Where all pairs differ by one number, which a resample takes for certain, the
    difference's interval is as wide as that of a rate of 0 of so many clusters."""
    left, right = ({e.key: e.value for e in side} for side in (a, b))
    clusters = {e.key: e.cluster for e in (*b, *a)}
    gap = paired_difference(left, right, clusters)
    pairs = [k for k in left if k in right and math.isfinite(left[k]) and math.isfinite(right[k])]
    if math.isfinite(gap.low) and len({left[k] - right[k] for k in pairs}) == 1:
        wide = wilson(0, len({clusters[k] for k in pairs})).high
        low, high = (float(np.clip(gap.value + side, -1, 1)) for side in (-wide, wide))
        gap = gap._replace(low=low, high=high, why="")
    return gap, paired_ratio(left, right, clusters)


def apart(a: Estimate, b: Estimate) -> Estimate:
    """``a - b`` of two estimates as if they were independent (MOVER: Zou and Donner, Statistics in Medicine 2008),
    which is wider than a paired interval where they rise and fall together."""
    if not all(math.isfinite(x) for x in (*a[:3], *b[:3])):
        return unknown(a.why or b.why or "one of the two is not known", a.n, a.n_unscored)
    value = a.value - b.value
    low = value - math.hypot(a.value - a.low, b.high - b.value)
    return Estimate(value, low, value + math.hypot(a.high - a.value, b.value - b.low), a.n, a.n_unscored)


def tables(
    pools: Iterable[Pool],
    entries: Callable[[str, Pool], Sequence[Entry]],
    figure: Callable[[str, Pool], Estimate | None] = lambda label, pool: None,
) -> list[dict[str, Any]]:
    """The section ``pools`` of a run.

    Args:
        entries: an arm's label and a pool -> the arm's rows in it, as the pool's measure counts them.
        figure: the same -> an arm's whole figure, for measures that are no mean over rows (an AUROC); ``None``: take
            ``entries``.

    Returns:
        ``claim, arm, versus, measure`` with ``value`` of an arm alone, ``difference`` and ``ratio`` of two, each with
        ``_low`` and ``_high``, ``n, n_unscored, why``; pools without a row are left out.
    """
    out = []
    for pool in pools:
        sides = [label for label in (pool.arm, pool.versus) if label]
        whole = [w for label in sides if (w := figure(label, pool)) is not None]
        rows = [entries(label, pool) for label in sides] if len(whole) < len(sides) else []
        if rows and not all(rows):
            continue
        head = {"claim": pool.claim, "arm": pool.arm, "versus": pool.versus}
        if not pool.versus:
            out.append(_alone(head, pool.measure, valued(rows[0]) if rows else whole[0]))
            continue
        gap, ratio = compared(*rows) if rows else (apart(*whole), unknown("no mean over rows"))
        out.append(told(head, pool.measure, gap, ratio))
    return out


def _alone(head: dict[str, str], measure: str, found: Estimate) -> dict[str, Any]:
    figures = {"value": found.value, "value_low": found.low, "value_high": found.high}
    more = {"n": found.n, "n_unscored": found.n_unscored, "why": found.why}
    return {**head, "measure": measure, **json_numbers(figures), **more}
