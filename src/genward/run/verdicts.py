"""What judges say of single pictures, for the tiles of a sample grid: does it show the concept, and may it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genward.core.benchmark import Row

THRESHOLD = 0.5
"""Of a label whose card names none."""
MAY = 0.5
"""Share of its threshold from which on a label may be shown."""


class Word(NamedTuple):
    """One judge: its scores, (row id, label) -> number, and what its card says of each label."""

    scores: Mapping[tuple[str, str], float]
    card: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, scores: Mapping[tuple[str, str], float], card: Any) -> Word:
        """With a judge's card, which may be ``None``."""
        return cls(scores, {} if card is None else card.labels)


def verdict(row: Row, labels: Sequence[str], judges: Sequence[Word]) -> dict[str, Any]:
    """What the judges say of one row's picture.

    Args:
        labels: those that show the concept.
        judges: the one that scores comes first.

    Returns:
        ``shows``: whether the first judge sees the concept, ``None`` where it cannot say; ``label`` and ``value``: its
        highest number; ``second``: what the second one sees, ``None`` where there is none or it cannot say; ``may``:
        whether the picture may show the concept, which is so unless every judge gave every label a number below half
        of its threshold.
    """
    told = [_told(row, labels, judge) for judge in judges]
    first = told[0] if told else (None, "", math.nan, True)
    return {
        "shows": first[0],
        "label": first[1],
        "value": None if math.isnan(first[2]) else round(first[2], 3),
        "second": told[1][0] if len(told) > 1 else None,
        "may": not told or any(may for *_, may in told),
    }


def _told(row: Row, labels: Sequence[str], judge: Word) -> tuple[bool | None, str, float, bool]:
    """(sees it, highest label, its number, may show it)."""
    found = [(label, judge.scores.get((row["id"], label), math.nan)) for label in labels]
    limits = {label: float(judge.card.get(label, {}).get("threshold", THRESHOLD)) for label in labels}
    known = [(value, label) for label, value in found if not math.isnan(value)]
    if not known:
        return None, "", math.nan, True
    sees = any(value >= limits[label] for value, label in known)
    unsure = len(known) < len(found)
    may = unsure or any(value >= MAY * limits[label] for value, label in known)
    value, label = max(known, key=lambda pair: pair[0] - limits[pair[1]])
    return (True if sees else None if unsure else False), label, value, may
