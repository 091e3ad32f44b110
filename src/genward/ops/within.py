"""How well a score tells pictures of **one prompt** apart: what no reader of prompts can do. Numpy in, numbers out.

A score that depends on the prompt alone gets 0.5 here, however well it ranks prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genward.ops.detection import scored, threshold_at_fpr

Array = NDArray[np.float64]
DRAWS = 1_000


class Within(NamedTuple):
    """AUROC over pairs of one prompt, with a 95 % interval over prompts; NaN where nothing can be said."""

    value: float
    low: float
    high: float
    pairs: int
    """Pairs of a row that shows the concept and one that does not, of the same prompt"""
    prompts: int
    """Prompts that have a pair"""


def pairs_within(scores: ArrayLike, truth: ArrayLike, prompts: Sequence[Hashable]) -> tuple[Array, Array]:
    """Of each prompt that has both outcomes: pairs that are ranked rightly (ties half), and all pairs.

    Args:
        scores: (n,). truth: (n,) of 0, 1, NaN for unknown (left out). prompts: (n,) what a pair must share.

    Raises:
        BadInput: unequal lengths, or a score that is not finite.
    """
    known = ~np.isnan(np.asarray(truth, np.float64).ravel())
    s, t = scored(scores, truth)
    rows: dict[Hashable, list[int]] = {}
    for k, prompt in enumerate(p for p, use in zip(prompts, known, strict=True) if use):
        rows.setdefault(prompt, []).append(k)
    won, all_of = [], []
    for mine in rows.values():
        up, down = s[mine][t[mine]], s[mine][~t[mine]]
        if len(up) and len(down):
            gap = up[:, None] - down[None]
            won.append(float((gap > 0).sum() + 0.5 * (gap == 0).sum()))
            all_of.append(float(gap.size))
    return np.asarray(won, np.float64), np.asarray(all_of, np.float64)


def within_auroc(scores: ArrayLike, truth: ArrayLike, prompts: Sequence[Hashable], seed: int = 0) -> Within:
    """AUROC over all pairs within one prompt, the interval by percentile bootstrap of whole prompts (of at least
    two)."""
    won, pairs = pairs_within(scores, truth, prompts)
    count = len(pairs)
    if not count:
        return Within(math.nan, math.nan, math.nan, 0, 0)
    value = float(won.sum() / pairs.sum())
    if count < 2:
        return Within(value, math.nan, math.nan, int(pairs.sum()), count)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    low, high = np.quantile((times @ won) / (times @ pairs), [0.025, 0.975])
    return Within(value, float(low), float(high), int(pairs.sum()), count)


def flipping(truth: ArrayLike, prompts: Sequence[Hashable]) -> NDArray[np.bool_]:
    """bool (n,): rows of prompts that show the concept with one seed and not with another; truth NaN is unknown."""
    t = np.asarray(truth, np.float64).ravel()
    seen: dict[Hashable, set[float]] = {}
    for value, prompt in zip(t.tolist(), prompts, strict=True):
        if not math.isnan(value):
            seen.setdefault(prompt, set()).add(value)
    return np.array([len(seen.get(p, ())) > 1 for p in prompts], bool)


def recall_at(scores: ArrayLike, truth: ArrayLike, fpr: float) -> float:
    """Share of the positives strictly above the threshold that at most ``fpr`` of these rows' negatives exceed; NaN
    where a class is empty."""
    s, t = scored(scores, truth)
    if not t.any() or t.all():
        return math.nan
    return float((s[t] > threshold_at_fpr(s, t, fpr)).mean())


def balanced_weights(truth: ArrayLike, prompts: Sequence[Hashable], balance: float = 1.0) -> Array:
    """Row weights by which both outcomes of a prompt weigh the same, each prompt as much as it has rows.

    With ``n`` known rows of a prompt, ``p`` of them positive, a positive gets ``n / 2p`` and a negative
    ``n / 2(n - p)``; rows of a prompt with one outcome keep 1. What the prompt alone tells then says nothing about the
    rows of a prompt that has both.

    Args:
        truth: (n,) or (n, labels) of 0, 1, NaN for unknown (weight 1). balance: 0 leaves 1 everywhere, 1 is the above.

    Returns:
        weights like ``truth``
    """
    table = np.asarray(truth, np.float64)
    flat = table.reshape(len(table), -1)
    rows: dict[Hashable, list[int]] = {}
    for k, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(k)
    out = np.ones_like(flat)
    for mine in rows.values():
        for label in range(flat.shape[1]):
            values = flat[mine, label]
            up, down = int((values == 1).sum()), int((values == 0).sum())
            if up and down:
                weight = np.where(values == 1, (up + down) / (2 * up), (up + down) / (2 * down))
                out[mine, label] = np.where(np.isnan(values), 1.0, 1 + balance * (weight - 1))
    found: Array = out.reshape(table.shape)
    return found
