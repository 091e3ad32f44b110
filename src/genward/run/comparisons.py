"""Which arms a run holds against each other, and on which rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from genward.core.benchmark import Pool
from genward.run.claims import claims_of

POOLED = ("crr", "retention", "drift")
"""Measures that are paired row by row"""


def comparisons(labels: Sequence[str], base: str, benchmark: str) -> list[tuple[str, str]]:
    """Pairs of arms that are compared on equal rows: each with the base, those that the benchmark's claims name, and
    each with every later one, once."""
    asked = [(label, base) for label in labels if label != base]
    for claim in claims_of(benchmark):
        asked += [(claim.arm, claim.versus)] if claim.versus else []
        asked += list(zip(claim.arms, claim.arms[1:], strict=False))
    told = {frozenset(pair) for pair in asked}
    asked += [pair for pair in combinations(labels, 2) if frozenset(pair) not in told]
    return [pair for pair in dict.fromkeys(asked) if set(pair) <= set(labels)]


def pools(
    labels: Sequence[str],
    concepts: Mapping[str, Mapping[str, Any]],
    benchmark: str,
    own: frozenset[str] = frozenset(),
) -> list[Pool]:
    """What the benchmark's claims say of more than one column: the rows that each pools.

    Args:
        own: measures that the benchmark pools itself, values of one arm among them (``Benchmark.pooled``).
    """
    out = []
    for claim in claims_of(benchmark):
        about = tuple(name for name, table in concepts.items() if not claim.kinds or table.get("kind") in claim.kinds)
        sides = list(zip(claim.arms, claim.arms[1:], strict=False)) if claim.arms else [(claim.arm, claim.versus)]
        known = own if claim.form == "value" else own.union(POOLED)
        if claim.measure not in known or max(1, len(about)) * max(1, len(claim.variant)) < 2:
            continue
        if claim.measure == "crr" and not claim.variant:
            continue
        out += [
            Pool(claim.id, a, b, about, claim.variant, claim.measure) for a, b in sides if {a, b or a} <= set(labels)
        ]
    return out
