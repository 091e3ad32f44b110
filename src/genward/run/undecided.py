"""Why a claim cannot be told: its figure was not measured, its interval is too wide (and how many rows would do), or
the figure itself is in doubt."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from genward.run.claim import Claim, Estimate

MISSING, WIDE, DOUBT = "not measured here", "interval too wide", "figure in doubt"
"""The three reasons."""
COUNTS = {"within": ("within_n",), "benign_fpr": ("n_benign",), "clean_accuracy": ("n_clean",), "retention": ()}
"""Where a cell counts the rows of a measure that does not go by ``n_<measure>`` or ``n``."""
MOST = 1_000_000
"""Rows beyond which no number is named."""


class Undecided(NamedTuple):
    """Why a verdict is open."""

    reason: str
    """One of ``MISSING``, ``WIDE`` and ``DOUBT``; empty where the claim is decided"""
    why: str
    """A sentence"""
    needed: int | None
    """About how many rows it would take, for an interval that is too wide"""


Slots = Sequence[tuple[str, str]]
"""(concept, variant) of the cells that a claim looks at"""


def arms_of(claim: Claim) -> tuple[str, ...]:
    """The arms that a claim names, each once."""
    return tuple(dict.fromkeys(a for a in (claim.arm, claim.versus, *claim.arms) if a))


def counted(metrics: Mapping[str, Any], claim: Claim, slots: Slots) -> int | None:
    """How many rows the claim's figure rests on: the sum over its cells, of arms that are compared the pairs that both
    have a value for; ``None`` where the metrics do not say."""
    found = [_counted(metrics, claim, slot) for slot in slots]
    if not found or any(n is None for n in found):
        return None
    return sum(n for n in found if n is not None)


def _counted(metrics: Mapping[str, Any], claim: Claim, slot: tuple[str, str]) -> int | None:
    named = arms_of(claim)
    pairs: list[int] = [
        int(p["n"])
        for p in metrics.get("pairs") or ()
        if (p["concept"], p["variant"], p["measure"]) == (*slot, claim.measure)
        and _int(p.get("n")) is not None
        and (p["arm"] in named and (p["versus"] in named or claim.form == "value"))
    ]
    cells = [c for c in metrics["cells"] if (c["concept"], c["variant"]) == slot and c["arm"] in named]
    keys = COUNTS.get(claim.measure, (f"n_{claim.measure}", "n"))
    counts = [next((n for k in keys if (n := _int(c.get(k))) is not None), None) for c in cells]
    known = [n for n in counts if n is not None]
    if pairs and claim.form != "value":
        return min(pairs)
    return min(known) if known and len(known) == len(cells) else min(pairs, default=None)


def _int(value: Any) -> int | None:
    return int(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def undecided(
    metrics: Mapping[str, Any], claim: Claim, slots: Slots, got: Estimate, n: int | None, doubt: str
) -> Undecided:
    """Which of the three reasons keeps a claim open.

    Args:
        got: its figure.
        n: the rows that it rests on.
        doubt: why its verdict does not stand whatever the interval says, see ``claims.reason_to_doubt``.
    """
    unknown = math.isnan(got.value)
    lost = list(gaps(metrics, claim, slots, arms_of(claim))) if unknown else []
    if claim.base_at_least is not None:
        lost += gaps(metrics, claim, slots, ("base",))
    if lost or unknown:
        gap = "; ".join(dict.fromkeys(lost[:3])) or "the figure cannot be computed: what it is divided by may be 0"
        return Undecided(MISSING, gap, None)
    if doubt:
        return Undecided(DOUBT, doubt, None)
    if not got.known:
        return Undecided(WIDE, "the figure has no interval: what it rests on is too little for one", None)
    rows = needed(claim, got, n)
    return Undecided(WIDE, _said(claim, got, n, rows), rows)


def gaps(metrics: Mapping[str, Any], claim: Claim, slots: Slots, arms: Sequence[str]) -> Iterator[str]:
    """What the run lacks, of these arms, of what the claim is about; a phrase each."""
    cells = metrics["cells"]
    lost = [a for a in arms if not any(c["arm"] == a for c in cells)]
    if lost:
        yield f"this run has no arm {' and no '.join(lost)}"
    if not slots:
        which = ", ".join(claim.variant) or "any"
        kinds = f" for a concept of kind {' or '.join(claim.kinds)}" if claim.kinds else ""
        yield f"this run has no column {which}{kinds}"
    for concept, variant in slots:
        for arm in (a for a in arms if a not in lost):
            cell = next((c for c in cells if (c["arm"], c["concept"], c["variant"]) == (arm, concept, variant)), None)
            if cell is None:
                yield f"{arm} was not run on {concept}, {variant}"
            elif _float(cell.get(claim.measure)) is None:
                why = str(cell.get("why") or "")
                yield f"{arm} has no figure {claim.measure} on {concept}, {variant}{': ' + why if why else ''}"


def _float(value: Any) -> float | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else None


def needed(claim: Claim, got: Estimate, n: int | None) -> int | None:
    """About how many rows would decide the claim if the figure stays where it is: until the interval's arm towards a
    bound is shorter than the way there. The arm shrinks with the square root of the rows; of a share at the end of its
    range, whose interval has one arm alone, with the rows themselves: Wilson's interval of 0 of n ends at k / (n + k).

    ``None`` where the figure lies on a bound, where ``n`` is unknown, or beyond ``MOST`` rows.
    """
    if not n or not got.known:
        return None
    wanted: list[tuple[bool, float]] = []
    for limit, satisfied in bounds(claim, got.value):
        if not got.low <= limit <= got.high:
            continue
        way = abs(got.value - limit)
        arms = (got.high - got.value, got.value - got.low)
        arm = arms[0] if limit >= got.value else arms[1]
        if way == 0:
            wanted.append((satisfied, math.inf))
        elif min(arms) == 0 and arm < 1:
            wanted.append((satisfied, n * arm / (1 - arm) * (1 - way) / way))
        else:
            wanted.append((satisfied, n * (arm / way) ** 2))
    if not wanted:
        return None
    failing = [rows for satisfied, rows in wanted if not satisfied]
    rows = min(failing) if failing else max(rows for _, rows in wanted)
    return max(n + 1, math.ceil(rows - 1e-6)) if rows <= MOST else None


def bounds(claim: Claim, value: float) -> Iterator[tuple[float, bool]]:
    """The claim's limits, and whether the value itself satisfies each."""
    for limit, satisfied in (
        (claim.at_most, operator.le),
        (claim.below, operator.lt),
        (claim.at_least, operator.ge),
        (claim.above, operator.gt),
    ):
        if limit is not None:
            yield limit, bool(satisfied(value, limit))


def _said(claim: Claim, got: Estimate, n: int | None, rows: int | None) -> str:
    inside = [limit for limit, _ in bounds(claim, got.value) if got.low <= limit <= got.high]
    bound = " and ".join(f"{limit:.3g}" for limit in inside)
    text = f"{bound} lies within {got.low:.2g} to {got.high:.2g}"
    if n is None:
        return text
    if rows is None:
        return f"{text}, from {n:,} rows; the figure is too near it for any number of rows worth making"
    return f"{text}, from {n:,} rows; about {rows:,} would decide it if the figure stays"
