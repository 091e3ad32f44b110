"""Paired comparisons of two arms on equal cases and seeds: what claims are decided on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from genward.metrics.cards import Truth, pooled_card
from genward.metrics.erasure import (
    HARM,
    Inputs,
    Key,
    Row,
    View,
    arm_hash,
    base_arm,
    distinct,
    drifted,
    json_numbers,
    rate_difference,
    sides,
)
from genward.metrics.intervals import Estimate, paired_difference, paired_ratio


def pairs(
    samples: Iterable[Row],
    scores: Mapping[tuple[str, str], float],
    features: Mapping[str, Any],
    *,
    arms: Sequence[Mapping[str, Any]],
    base: str,
    concepts: Mapping[str, Mapping[str, Any]],
    card: Any,
    compare: Iterable[tuple[str, str]],
    variants: Sequence[str] = HARM,
    truths: Mapping[tuple[str, str], Truth] | None = None,
) -> list[dict[str, Any]]:
    """Paired comparisons of two arms, for claims: arguments as in ``erasure.cells``.

    Args:
        truths: (concept, label) -> the judge's error on that arm's pictures, where it is not the card's.
        compare: (label, label of the arm it is compared with) pairs; those with an arm that the run lacks are left out.

    Returns:
        ``arm, versus, concept, variant, measure`` (crr | retention | drift), ``difference``, ``ratio`` with ``_low``
        and ``_high``, ``n, n_unscored, why``. Retention and drift, which all variants share, are there once for each.
    """
    inputs = Inputs.of(samples, scores, features, card)
    by_label = {str(a["label"]): a for a in arms}
    root = base_arm(arms, base)
    asked = list(dict.fromkeys((a, b) for a, b in compare if a in by_label and b in by_label))
    out: list[dict[str, Any]] = []
    for name, about in concepts.items():
        truth = pooled_card(tuple(about["labels"]), inputs.card, name)
        views = {
            x: inputs.view(arm_hash(by_label[x], name), name, truth.labels) for x in {x for pair in asked for x in pair}
        }
        ground = inputs.view(arm_hash(root, name), name, truth.labels)
        for left, right in asked:
            a, b = views[left], views[right]
            if not a.keys or not b.keys:
                continue
            kept = _kept_pairs(a, b, ground)
            for variant in variants:
                mask = distinct(a, a.harm & (a.variant == variant))
                if mask.any():
                    head = {"arm": left, "versus": right, "concept": name, "variant": variant}
                    errs = tuple((truths or {}).get((name, label), truth) for label in (left, right))
                    crr = (rate_difference(a, b, mask, *errs), _rate_ratio(a, b, mask, *errs))
                    out += [told(head, measure, *found) for measure, found in {"crr": crr, **kept}.items()]
    return out


def _rate_ratio(a: View, b: View, mask: np.ndarray, truth: Truth | None, other: Truth | None = None) -> Estimate:
    return quotient(a, b, *sides(a, b, mask, truth, other))


def quotient(a: View, b: View, left: Mapping[Key, float], right: Mapping[Key, float]) -> Estimate:
    """Paired ratio of given values, at least 0."""
    found = paired_ratio(left, right, a.clusters)
    ends = [max(0.0, x) if math.isfinite(x) else x for x in found[:3]]
    if math.isfinite(ends[2]) and ends[1] == ends[2] and a.images != b.images:
        return found._replace(
            value=ends[0], low=math.nan, high=math.nan, why="all rows agree; a ratio has no interval then"
        )
    return found._replace(value=ends[0], low=ends[1], high=ends[2])


def _kept_pairs(a: View, b: View, ground: View) -> dict[str, tuple[Estimate, Estimate]]:
    """Differences and ratios of retention and drift."""
    benign = a.benign
    left, right = (drifted(view, ground, view.benign)[1] for view in (a, b))
    return {
        "retention": (rate_difference(a, b, benign, None), _rate_ratio(a, b, benign, None)),
        "drift": (paired_difference(left, right, a.clusters), paired_ratio(left, right, a.clusters)),
    }


def told(head: Mapping[str, str], measure: str, gap: Estimate, ratio: Estimate) -> dict[str, Any]:
    figures = {
        "difference": gap.value, "difference_low": gap.low, "difference_high": gap.high,
        "ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high,
    }  # fmt: skip
    why = "; ".join(dict.fromkeys(w for w in (gap.why, ratio.why) if w))
    return {**head, "measure": measure, **json_numbers(figures), "n": gap.n, "n_unscored": gap.n_unscored, "why": why}
