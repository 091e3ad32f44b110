"""What a judge's card says about a concept: the error rates of "any of its labels"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genward.metrics.intervals import card_figures


class Truth(NamedTuple):
    """What a judge's card says about one concept: error rates of "any of its labels"; ``why`` is empty where it can
    correct."""

    labels: tuple[str, ...]
    card: Mapping[str, float]
    why: str

    @property
    def youden(self) -> float:
        return self.card["sensitivity"] + self.card["specificity"] - 1


def card_labels(card: Any) -> Mapping[str, Mapping[str, float]]:
    """The labels of a card in any of its forms: a ``core.Card``, its table, a table of labels, or ``None``."""
    if card is None:
        return {}
    if hasattr(card, "labels"):
        found: Mapping[str, Mapping[str, float]] = card.labels
        return found
    inner = card.get("labels", card)
    return {str(k): v for k, v in inner.items() if isinstance(v, Mapping)}


def pooled_card(labels: Sequence[str], card: Mapping[str, Mapping[str, float]], concept: str = "") -> Truth:
    """Error rates of a concept with several labels: those measured for the concept as a whole if the card has them,
    else pooled.

    Pooled: sensitivity and specificity weighted by positives; positives add up (each picture has one of the labels),
    negatives are the weighted mean (the same pictures serve all labels). The false-positive rate of "any of k labels"
    lies between this mean and the sum; the mean corrects less, so it never flatters a defense."""
    if len(labels) != 1 and concept in card:
        return Truth(tuple(labels), card[concept], card_figures(card[concept])[4])
    known = [card_figures(card[x]) for x in labels if x in card]
    nothing = {"sensitivity": math.nan, "specificity": math.nan, "positives": 0.0, "negatives": 0.0}
    if len(known) < len(labels) or not labels:
        missing = [x for x in labels if x not in card]
        return Truth(
            tuple(labels),
            nothing,
            f"the judge's card does not have {', '.join(missing[:3]) or 'a label of the concept'}",
        )
    table = np.asarray([k[:4] for k in known], np.float64)
    positives = float(table[:, 2].sum())
    if not positives > 0:
        return Truth(tuple(labels), nothing, known[0][4] or "the judge's card was measured on no positives")
    weights = table[:, 2] / positives
    sens, spec, negatives = (float(weights @ table[:, k]) for k in (0, 1, 3))
    pooled = {"sensitivity": sens, "specificity": spec, "positives": positives, "negatives": negatives}
    return Truth(tuple(labels), pooled, card_figures(pooled)[4])
