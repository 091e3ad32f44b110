"""Comparisons of two arms over several columns at once, which claims are decided on: rows of several wordings and
concepts are one sample, paired on case and seed and clustered by object, so that what the columns share is counted
once. Putting the columns' own intervals together instead has to take them for independent, or for one and the same."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from genward.core.benchmark import Evidence, Pool
from genward.metrics.cards import Truth, pooled_card
from genward.metrics.comparing import pairs, quotient, told
from genward.metrics.erasure import Inputs, Key, Row, Sides, View, arm_hash, base_arm, distinct, drifted, gap, sides
from genward.metrics.intervals import paired_difference, paired_ratio

Part = tuple[View, View, Sides]
"""One concept's rows in two arms, and their values"""


def pooled(
    inputs: Inputs,
    arms: Sequence[Mapping[str, Any]],
    base: str,
    concepts: Mapping[str, Mapping[str, Any]],
    pools: Iterable[Pool],
    truths: Mapping[tuple[str, str], Truth] | None = None,
) -> list[dict[str, Any]]:
    """What ``comparing.pairs`` tells of one column, of each pool as a whole; arguments as there.

    Each row counts the same, whatever its concept and wording.

    Returns:
        ``claim, arm, versus, measure, difference, ratio`` with ``_low`` and ``_high``, ``n, n_unscored, why``; pools
        without a row in both arms are left out.
    """
    by_label = {str(a["label"]): a for a in arms}
    root = base_arm(arms, base)
    out = []
    for pool in pools:
        if not {pool.arm, pool.versus} <= set(by_label):
            continue
        parts: list[tuple[str, Part]] = []
        for name in pool.concepts:
            truth = pooled_card(tuple(concepts[name]["labels"]), inputs.card, name)
            a, b, ground = (
                inputs.view(arm_hash(arm, name), name, truth.labels)
                for arm in (by_label[pool.arm], by_label[pool.versus], root)
            )
            errors = [(truths or {}).get((name, label), truth) for label in (pool.arm, pool.versus)]
            found = _values(pool, a, b, ground, errors)
            if a.keys and b.keys and found[0]:
                parts.append((name, (a, b, found)))
        if parts:
            head = {"claim": pool.claim, "arm": pool.arm, "versus": pool.versus}
            out.append(told(head, pool.measure, *_estimates(pool.measure, parts)))
    return out


def compared(
    evidence: Evidence, rows: Sequence[Row], truths: Mapping[tuple[str, str], Truth], **about: Any
) -> dict[str, Any]:
    """The sections ``pairs`` and ``pools`` of a run; further keywords (``variants``) go to ``pairs``."""
    inputs = Inputs.of(rows, evidence.scores, evidence.features, evidence.card)
    shared: dict[str, Any] = {
        "arms": evidence.arms,
        "base": evidence.base,
        "concepts": evidence.concepts,
        "truths": truths,
    }
    return {
        "pairs": pairs(
            rows, evidence.scores, evidence.features, card=evidence.card, compare=evidence.compare, **shared, **about
        ),
        "pools": pooled(inputs, pools=evidence.pools, **shared),
    }


def _values(pool: Pool, a: View, b: View, ground: View, errors: Sequence[Truth]) -> Sides:
    """Key -> value in each arm, of one concept's rows in the pool."""
    if pool.measure == "drift":
        left, right = (drifted(view, ground, view.benign)[1] for view in (a, b))
        return left, right
    if pool.measure == "retention":
        return sides(a, b, a.benign, None)
    columns = [distinct(a, a.harm & (a.variant == variant)) for variant in pool.variants]
    return sides(a, b, np.any(columns, axis=0) if columns else np.zeros(len(a.keys), bool), *errors)


def _estimates(measure: str, parts: Sequence[tuple[str, Part]]) -> tuple[Any, Any]:
    """Paired difference and ratio over the concepts' rows together."""
    a = _together([(name, part[0]) for name, part in parts])
    b = _together([(name, part[1]) for name, part in parts])
    left, right = ({_key(name, k): v for name, part in parts for k, v in part[2][side].items()} for side in (0, 1))
    if measure == "drift":
        return paired_difference(left, right, a.clusters), paired_ratio(left, right, a.clusters)
    return gap(a, b, left, right), quotient(a, b, left, right)


def _key(concept: str, key: Key) -> Key:
    return f"{concept}\x1f{key[0]}", key[1]


def _together(views: Sequence[tuple[str, View]]) -> View:
    """One view of several concepts' rows. Clusters of one name are one: an object that two concepts share is itself."""

    def joined(name: str) -> Any:
        return np.concatenate([getattr(view, name) for _, view in views])

    columns = ("harm", "variant", "group", "hit", "refused", "vectors", "seconds", "nfe")
    return View(
        keys=[_key(name, key) for name, view in views for key in view.keys],
        images=[image for _, view in views for image in view.images],
        **{name: joined(name) for name in columns},
    )
