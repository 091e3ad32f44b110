"""Whether a guard's scores have moved since it was calibrated, read from its audit records."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from genward.errors import BadInput
from genward.metrics.drift import shift, tenths
from genward.metrics.intervals import wilson
from genward.serve.audit import read_audit
from genward.serve.policy import Policy

FEW = 30
"""Scores below which a comparison says nothing"""


class Moved(NamedTuple):
    """One guard's scores then and now."""

    guard: str
    reference: str
    """``calibration`` | ``audit`` | ``first half``"""
    then: int
    now: int
    """Numbers of scores"""
    median_then: float
    median_now: float
    threshold: float
    """NaN where none is known"""
    over: float
    low: float
    high: float
    """Share of rows at or above the threshold, with its 95 % interval (Wilson)"""
    psi: float
    limit: float
    """Population stability index, and what it exceeds by chance one time in twenty"""
    verdict: str
    """``moved`` | ``as before`` | ``too few``"""


def scores_of(path: str | Path) -> dict[str, list[float]]:
    """Guard -> its finite scores in an audit file, in order.

    Raises:
        BadInput: no such file, or none of its records has scores.
    """
    if not Path(path).is_file():
        raise BadInput(f"{path}: no such file; give what audit= or --audit wrote")
    found: dict[str, list[float]] = {}
    for record in read_audit(path):
        scores = record.get("scores")
        for guard, score in (scores if isinstance(scores, dict) else {}).items():
            if isinstance(score, int | float) and math.isfinite(score):
                found.setdefault(str(guard), []).append(float(score))
    if not found:
        raise BadInput(f"{path}: no record has scores; they are written since genward 0.1.0, by guards that score rows")
    return found


def drift(audit: str | Path, policy: Policy | None = None, against: str | Path | None = None) -> list[Moved]:
    """Hold an audit's scores against their reference, guard by guard.

    Args:
        policy: whose calibrations are the reference; a guard that none of them is of has the first half of its own
            scores for one. against: an earlier audit, in the place of that.

    Raises:
        BadInput: nothing to read, or a reference that knows none of the guards.
    """
    now = scores_of(audit)
    before = scores_of(against) if against is not None else {}
    if before and not set(before) & set(now):
        raise BadInput(f"{against} has scores of {', '.join(sorted(before))}, {audit} of {', '.join(sorted(now))}")
    out = []
    for guard, scores in now.items():
        known = _calibrated(policy, guard) if policy is not None else None
        cut = float(known["threshold"]) if known is not None else math.nan
        if guard in before:
            edges, count, where = tenths(before[guard]), len(before[guard]), "audit"
        elif known is not None and (stored := _stored(known)) is not None:
            edges, count, where = np.asarray(stored), int(known.get("n", 0)), "calibration"
        else:
            half = len(scores) // 2
            if not half:
                continue
            edges, count, where, scores = tenths(scores[:half]), half, "first half", scores[half:]
        out.append(_moved(guard, where, edges, count, scores, cut))
    return out


def _moved(guard: str, where: str, edges: Any, count: int, scores: Sequence[float], cut: float) -> Moved:
    found, few = shift(edges, count, scores), min(count, len(scores)) < FEW
    over = wilson(sum(s >= cut for s in scores), len(scores)) if math.isfinite(cut) else None
    middle = float(np.median(scores))
    shares = (math.nan,) * 3 if over is None else (over.value, over.low, over.high)
    verdict = "too few" if few else "moved" if found.moved else "as before"
    return Moved(
        guard, where, count, len(scores), float(edges[5]), middle, cut, *shares, found.psi, found.limit, verdict
    )


def _calibrated(policy: Policy, guard: str) -> Mapping[str, Any] | None:
    """The calibration of an attached guard: ``aeiou``, or ``aeiou:weapons`` where several stand side by side."""
    name, _, about = guard.partition(":")
    concepts = {c.name: policy.concepts[c.name].name for c in policy.categories}
    for row in policy.calibration:
        place = str(row.get("category"))
        if row.get("defense") == name and (not about or about in (place, concepts.get(place))):
            return row
    return None


def _stored(row: Mapping[str, Any]) -> list[float] | None:
    """The tenths that a calibration keeps, as eleven numbers of a text; ``BadInput`` where they are none."""
    text = row.get("tenths")
    if text is None:
        return None
    try:
        found = [float(x) for x in str(text).split()]
    except ValueError:
        found = []
    if len(found) != 11 or not all(map(math.isfinite, found)) or sorted(found) != found:
        raise BadInput(f"the policy's calibration has tenths {str(text)[:40]!r}; calibrate again (genward calibrate)")
    return found
