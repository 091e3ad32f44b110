"""Error rates of two judges without a known truth: the latent-class model of Hui and Walter (Biometrics 1980).

Two judges look at the same pictures of two or more populations (arms) with different shares of the concept. Given the
truth they err independently and alike in all populations; then four cells a population tell sensitivities,
specificities and shares together. A population that is known to be without the concept (an oracle that never saw it)
pins the specificities down. What both judges miss for the same reason the model does not see: where they err together,
sensitivities come out too high."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genward.errors import BadInput
from genward.metrics.intervals import SEED

Array = NDArray[np.float64]
STEPS, TOLERANCE = 20_000, 1e-12
"""EM stops after so many steps, or where no parameter moves by more than this."""
ROUGH = (2_000, 1e-6)
"""The same for resamples, whose spread is wanted."""
FIRST = np.array([1.0, 1.0, 0.0, 0.0])
SECOND = np.array([1.0, 0.0, 1.0, 0.0])
"""What the first and the second judge say in each of the four cells."""


class Latent(NamedTuple):
    """What the model says; each has any leading shape that the tables had."""

    sensitivity: Array
    """(…, 2) of the two judges"""
    specificity: Array
    """(…, 2)"""
    shares: Array
    """(…, populations) of pictures that show the concept"""


def probabilities(sensitivity: Array, specificity: Array, shares: Array) -> Array:
    """(…, populations, 4) probability of each cell (both, first only, second only, neither)."""
    there, gone = _cells(sensitivity), _cells(1 - specificity)
    return shares[..., None] * there[..., None, :] + (1 - shares[..., None]) * gone[..., None, :]


def _cells(yes: Array) -> Array:
    """(…, 4) probabilities of the cells for two judges that say yes with (…, 2) probabilities."""
    first = np.where(FIRST == 1, yes[..., :1], 1 - yes[..., :1])
    return np.asarray(first * np.where(SECOND == 1, yes[..., 1:], 1 - yes[..., 1:]))


def fit(tables: ArrayLike, absent: Sequence[bool], steps: int = STEPS, tolerance: float = TOLERANCE) -> Latent:
    """Maximum likelihood by EM from sensitivity 0.9 and specificity 0.95, which settles which class is which.

    Args:
        tables: (…, populations, 4) counts by cell: both say yes, the first alone, the second alone, neither.
        absent: (populations,) whether a population is known to be without the concept.

    Raises:
        BadInput: tables of another shape, or counts that are negative.
    """
    counts = np.asarray(tables, np.float64)
    known = np.asarray(absent, bool)
    if counts.ndim < 2 or counts.shape[-2:] != (len(known), 4) or (counts < 0).any():
        raise BadInput(f"tables of shape {counts.shape}; (…, {len(known)}, 4) counts of at least 0 are wanted")
    lead = counts.shape[:-2]
    sensitivity, specificity = np.full((*lead, 2), 0.9), np.full((*lead, 2), 0.95)
    shares = np.broadcast_to(np.where(known, 0.0, 0.5), (*lead, len(known))).copy()
    size = np.maximum(counts.sum(-1), 1e-300)
    for _ in range(steps):
        there, gone = _cells(sensitivity)[..., None, :], _cells(1 - specificity)[..., None, :]
        top = shares[..., None] * there
        whole = top + (1 - shares[..., None]) * gone
        shown = counts * np.divide(top, whole, out=np.zeros_like(top), where=whole > 0)
        hidden = counts - shown
        moved = Latent(
            np.stack([_share(shown, FIRST), _share(shown, SECOND)], -1),
            1 - np.stack([_share(hidden, FIRST), _share(hidden, SECOND)], -1),
            np.where(known, 0.0, shown.sum(-1) / size),
        )
        before = (sensitivity, specificity, shares)
        sensitivity, specificity, shares = moved
        if max(float(np.abs(a - b).max(initial=0)) for a, b in zip(before, moved, strict=True)) < tolerance:
            break
    return Latent(sensitivity, specificity, shares)


def _share(counts: Array, cell: Array) -> Array:
    """(…,) of weighted counts (…, populations, 4) the share in cells that are 1; 0 of none."""
    return np.asarray((counts * cell).sum((-2, -1)) / np.maximum(counts.sum((-2, -1)), 1e-300))


def resampled(tables: ArrayLike, absent: Sequence[bool], draws: int = 200, seed: int = SEED) -> Latent:
    """``fit`` of ``draws`` resamples of the pictures within each population, a leading axis of draws: for intervals.

    Half a count is added to each cell before drawing (Jeffreys), so that a cell without a picture is not impossible."""
    counts = np.asarray(tables, np.float64)
    rng = np.random.default_rng(seed)
    drawn = np.stack(
        [
            rng.multinomial(round(n), (row + 0.5) / (row + 0.5).sum(), size=draws)
            for row, n in zip(counts, counts.sum(-1), strict=True)
        ],
        1,
    )
    return fit(drawn, absent, *ROUGH)
