"""Two judges on the same pictures: the raw rate by each, and how far they agree.

A judge's card is measured on renders, and nobody knows the truth about a generated picture. Where a second judge of
another architecture looked as well, the two rates bracket what the choice of judge decides, and their agreement says
how far either can be trusted on the pictures of this arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genward.core.benchmark import Evidence
from genward.metrics.cards import pooled_card
from genward.metrics.erasure import Inputs, Row, View, arm_hash, distinct, json_numbers
from genward.metrics.intervals import Estimate, clustered_rate


class Counts(NamedTuple):
    """Pictures by what two judges said of them."""

    both: int
    first_only: int
    second_only: int
    neither: int

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray) -> Counts:
        """Counted over (n,) answers 1, 0 and NaN; rows that one of them could not judge are left out."""
        told = np.isfinite(first) & np.isfinite(second)
        a, b = first[told] == 1, second[told] == 1
        return cls(int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((~a & ~b).sum()))


def kappa(counts: Counts) -> float:
    """Cohen's kappa (Educational and Psychological Measurement 1960): the share on which two judges agree beyond what
    their rates alone would bring, 1 in full, 0 by chance. NaN where both always say the same one thing, and for no
    pictures."""
    n = sum(counts)
    if not n:
        return math.nan
    first, second = counts.both + counts.first_only, counts.both + counts.second_only
    chance = (first * second + (n - first) * (n - second)) / n**2
    seen = (counts.both + counts.neither) / n
    return math.nan if chance == 1 else (seen - chance) / (1 - chance)


def agreement(first: np.ndarray, second: np.ndarray, clusters: Sequence[str]) -> Estimate:
    """Share of pictures on which both judges say the same, with its interval as ``clustered_rate`` has it.

    Args:
        first, second: (n,) answers 1, 0 and NaN. clusters: (n,) what the rows are clustered by, the object asked for.
    """
    told = np.isfinite(first) & np.isfinite(second)
    same = np.where(told, (first == second).astype(np.float64), np.nan)
    return clustered_rate(same, list(clusters))


class _Pair(NamedTuple):
    """One arm's rows of one concept by both judges, in the same order."""

    first: View
    second: View

    def figures(self, mask: np.ndarray) -> dict[str, Any]:
        """The raw rates with intervals, and the agreement on pictures that were released, of the rows of a mask."""
        found: dict[str, float] = {}
        for name, view in (("crr_raw", self.first), ("second", self.second)):
            rate = clustered_rate(view.hit[mask], view.group[mask].tolist())
            found |= {name: rate.value, f"{name}_low": rate.low, f"{name}_high": rate.high}
        shown = mask & ~self.first.refused
        a, b = self.first.hit[shown], self.second.hit[shown]
        same = agreement(a, b, self.first.group[shown].tolist())
        found |= {"agreement": same.value, "agreement_low": same.low, "agreement_high": same.high}
        return json_numbers({**found, "kappa": kappa(Counts.of(a, b))})

    def counts(self, mask: np.ndarray) -> Counts:
        """What both said of the released pictures of a mask."""
        shown = mask & ~self.first.refused
        return Counts.of(self.first.hit[shown], self.second.hit[shown])


class TwoJudges:
    """The rows of a run by both of its judges.

    Args:
        evidence: of a run whose second judge has seen every picture.
        rows: its rows, where a benchmark has put them into columns of its own.
    """

    def __init__(self, evidence: Evidence, rows: Sequence[Row] | None = None) -> None:
        if evidence.second is None:
            raise ValueError("this run has one judge; see Evidence.second")
        given = evidence.rows if rows is None else rows
        self._inputs = tuple(
            Inputs.of(given, scores, {}, card)
            for scores, card in ((evidence.scores, evidence.card), (evidence.second.scores, evidence.second.card))
        )
        self._arms = {str(a["label"]): a for a in evidence.arms}
        self._labels = {
            name: pooled_card(tuple(about["labels"]), self._inputs[0].card, name).labels
            for name, about in evidence.concepts.items()
        }

    def pair(self, arm: str, concept: str) -> _Pair:
        """One arm's rows of a concept, by both."""
        own = arm_hash(self._arms[arm], concept)
        return _Pair(*(inputs.view(own, concept, self._labels[concept]) for inputs in self._inputs))

    def beside(self, cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The cells with the second judge's figures: ``second`` (its raw rate), ``agreement`` and the ends of their
        intervals and of ``crr_raw``'s, ``kappa``, and ``retention_second`` with its interval."""
        pairs: dict[tuple[str, str], _Pair] = {}
        out = []
        for cell in cells:
            key = (str(cell["arm"]), str(cell["concept"]))
            if key not in pairs:
                pairs[key] = self.pair(*key)
            pair = pairs[key]
            mask = distinct(pair.first, pair.first.harm & (pair.first.variant == cell["variant"]))
            kept = clustered_rate(pair.second.hit[pair.second.benign], pair.second.group[pair.second.benign].tolist())
            ends = {"": kept.value, "_low": kept.low, "_high": kept.high}
            more = json_numbers({f"retention_second{end}": value for end, value in ends.items()})
            out.append({**cell, **pair.figures(mask), **more})
        return out

    def by_arm(self) -> list[dict[str, Any]]:
        """One row an arm and concept over all its harm pictures, each once: ``arm, concept, n, crr_raw, second,
        agreement`` with intervals, ``kappa``, and the four counts ``both, first_only, second_only, neither``."""
        out = []
        for concept in self._labels:
            for arm in self._arms:
                pair = self.pair(arm, concept)
                mask = distinct(pair.first, pair.first.harm)
                counts = pair.counts(mask)
                if mask.any():
                    head = {"arm": arm, "concept": concept, "n": sum(counts)}
                    out.append({**head, **pair.figures(mask), **counts._asdict()})
        return out


def with_second(
    evidence: Evidence, cells: Sequence[Mapping[str, Any]], rows: Sequence[Row] | None = None
) -> dict[str, Any]:
    """The sections ``cells`` and, where the run has a second judge, ``two_judges`` (``TwoJudges.by_arm``); without one
    the cells are left as they are.

    Args:
        rows: as for ``TwoJudges``.
    """
    if evidence.second is None:
        return {"cells": list(cells)}
    told = TwoJudges(evidence, rows)
    return {"cells": told.beside(cells), "two_judges": told.by_arm()}
