"""How well an arm's detector tells captions with a trigger from clean ones, by the numbers that it noted on their rows:
``<detector>.score`` and ``<detector>.hit_count`` (1 where the score was above its threshold)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from genward.core.benchmark import Row
from genward.metrics.erasure import json_numbers
from genward.metrics.intervals import Estimate, unknown, wilson
from genward.metrics.ranking import auroc_estimate

SCORE, HIT = ".score", ".hit_count"


def noted(row: Row) -> dict[str, float]:
    """A row's noted signals, each summed over its calls."""
    raw = row.get("notes") or "{}"
    found: Mapping[str, Any] = json.loads(raw) if isinstance(raw, str) else raw
    return {name: float(sum(x)) for name, x in found.items()}


def detector_of(rows: Sequence[Row]) -> str:
    """Name of the first detector that noted a score and a decision on every row that has notes of it; empty where none
    did."""
    names = {n.removesuffix(HIT) for row in rows for n in noted(row) if n.endswith(HIT)}
    return min(names, default="")


def detected(triggered: Sequence[Row], clean: Sequence[Row]) -> dict[str, Any]:
    """The detector's figures on rows with a trigger (positives) and clean ones, empty where the arm has none.

    Returns:
        ``detector``; ``auroc`` with its interval (each caption its own cluster); ``f1`` of its decisions; ``fpr``:
        share of clean rows that it decided against, with its Wilson interval; ``tpr``: share of those with a trigger;
        ``n_undetected``: rows without a score, which are in none of these.
    """
    name = detector_of([*triggered, *clean])
    if not name:
        return {}
    scores, truth, hits, _ = _told(name, triggered, clean)
    lost = len(triggered) + len(clean) - len(scores)
    caught = sum(h for h, t in zip(hits, truth, strict=True) if t)
    false = sum(hits) - caught
    positives = sum(truth)
    area = auroc_estimate(scores, truth) if scores else None
    wrong = wilson(false, len(truth) - positives)
    numbers = {
        "auroc": area.value if area else math.nan,
        "auroc_low": area.low if area else math.nan,
        "auroc_high": area.high if area else math.nan,
        "f1": 2 * caught / (2 * caught + false + positives - caught) if positives else math.nan,
        "fpr": wrong.value,
        "fpr_low": wrong.low,
        "fpr_high": wrong.high,
        "tpr": caught / positives if positives else math.nan,
    }
    return {"detector": name, **json_numbers(numbers), "n_undetected": lost}


def _told(
    name: str, triggered: Sequence[Row], clean: Sequence[Row]
) -> tuple[list[float], list[bool], list[float], list[int]]:
    """Scores, whether there was a trigger, decisions and places of the rows that have both."""
    scores: list[float] = []
    truth: list[bool] = []
    hits: list[float] = []
    places: list[int] = []
    for k, row in enumerate((*triggered, *clean)):
        notes = noted(row)
        score, hit = notes.get(name + SCORE, math.nan), notes.get(name + HIT, math.nan)
        if math.isfinite(score) and math.isfinite(hit):
            scores.append(score)
            truth.append(k < len(triggered))
            hits.append(hit)
            places.append(k)
    return scores, truth, hits, places


def area(triggered: Sequence[Row], clean: Sequence[Row], clusters: Sequence[str]) -> Estimate:
    """AUROC of an arm's detector over rows of several columns, with an interval over clusters (one name a row, those
    with a trigger first)."""
    name = detector_of([*triggered, *clean])
    scores, truth, _, places = _told(name, triggered, clean) if name else ([], [], [], [])
    if not scores:
        return unknown("no detector scored these rows")
    return auroc_estimate(scores, truth, [clusters[k] for k in places])
