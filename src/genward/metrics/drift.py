"""Whether a guard's scores have moved: the population stability index over the reference's tenths, and two shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 10
"""Tenths of the reference scores"""
HALF = 0.5
"""Rows that every bin is given beforehand, so that an empty one has a logarithm"""


class Shift(NamedTuple):
    """How far scores have moved from their reference."""

    psi: float
    """Population stability index, 0 where the shares of the ten bins agree"""
    limit: float
    """What the index exceeds by chance in one of twenty comparisons of scores that did not move"""

    @property
    def moved(self) -> bool:
        return self.psi > self.limit


def tenths(scores: ArrayLike) -> NDArray[np.float64]:
    """(11,) the quantiles 0, 0.1, …, 1 of finite scores (n,).

    Raises:
        ValueError: no scores, or one that is not finite.
    """
    values = np.asarray(scores, np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("tenths want at least one score, and finite ones")
    found: NDArray[np.float64] = np.quantile(values, np.linspace(0, 1, BINS + 1), method="inverted_cdf")
    return found


def shift(edges: Sequence[float] | NDArray[np.float64], count: int, scores: ArrayLike) -> Shift:
    """The population stability index of scores against a reference: the sum over bins of ``(o - e) ln(o / e)``, ``o``
    and ``e`` the shares of a bin now and then. Bins are bounded by the reference's inner tenths. Where tenths coincide,
    the reference's share up to there is known within a tenth only, and counts as the one nearest to now.

    Args:
        edges: (11,) the reference's ``tenths``. count: of scores that they are of. scores: (n,) now.

    The limit is the 0.95 quantile of the index without a shift, chi-square with (bins - 1) degrees of freedom times
    ``1/n + 1/count`` (Yurdakul 2018, Statistical Properties of Population Stability Index, section 3).
    """
    from scipy.stats import chi2

    values, known = np.sort(np.asarray(scores, np.float64)), np.asarray(edges, np.float64)
    cuts, n = np.unique(known[1:-1]), len(values)
    below = np.searchsorted(values, cuts, side="right") / n
    last = np.searchsorted(known, cuts, side="right") - 1
    tied = np.searchsorted(known, cuts, side="left") < last
    reference = last / BINS
    loose = np.clip(below, reference, np.minimum(1.0, reference + 1 / BINS))
    then = _smoothed(np.where(tied, loose, reference), count)
    now = _smoothed(below, n)
    limit = float(chi2.ppf(0.95, len(cuts))) * (1 / n + 1 / count)
    return Shift(float(((now - then) * np.log(now / then)).sum()), limit)


def _smoothed(below: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """(cuts + 1,) shares of the bins from the shares at or below each cut."""
    shares = np.diff(np.concatenate([[0.0], below, [1.0]]))
    found: NDArray[np.float64] = (shares * count + HALF) / (count + HALF * len(shares))
    return found
