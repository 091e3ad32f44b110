"""Figures of prompt guards: ranking, rates at the threshold, cost; intervals over units."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genward.benchmarks.prompt_guard.questions import MIN_ROWS, SPLITS
from genward.benchmarks.prompt_guard.sets import PromptRow
from genward.metrics import ranking
from genward.metrics.intervals import clustered_rate

Floats = NDArray[np.float64]
MIN_CATEGORY = 30
CATEGORY_DRAWS = 200


def cells_of(
    rows: Sequence[PromptRow], answer: Mapping[str, Any], index: Sequence[int], scores: Floats
) -> list[dict[str, Any]]:
    """The cell of one guard on one dataset, and one for each of its larger categories.

    Args:
        answer: ``guard, dataset, split, against, threshold, ms_per_prompt, added_ms, fitted_on``.
        index: of the rows that were measured. scores: theirs.
    """
    labels = np.asarray([rows[k].harmful for k in index])
    units = [rows[k].unit for k in index]
    threshold = float(answer["threshold"])
    head = {k: answer[k] for k in ("guard", "dataset", "split", "against")}
    place = {"arm": head["guard"], "concept": head["dataset"], "variant": head["split"], "category": ""}
    cost = {k: answer[k] for k in ("ms_per_prompt", "added_ms", "fitted_on")}
    cells = [{**head, **place, **figures(scores, labels, units, threshold), **cost}]
    by_category: dict[str, list[int]] = defaultdict(list)
    for j, k in enumerate(index):
        if labels[j] and rows[k].set == head["dataset"]:
            for category in rows[k].categories:
                by_category[category].append(j)
    calm = np.flatnonzero(~labels)
    for category, found in sorted(by_category.items()):
        if len(found) >= MIN_CATEGORY and len(calm) >= MIN_ROWS and len(by_category) > 1:
            pick = np.concatenate([np.asarray(found), calm])
            own = figures(scores[pick], labels[pick], [units[j] for j in pick], threshold, CATEGORY_DRAWS)
            where = {"category": category, "variant": f"{head['split']}: {category}"}
            cells.append({**head, **place, **where, **own, **cost})
    return cells


def figures(
    scores: Floats, labels: NDArray[np.bool_], units: Sequence[str], threshold: float, draws: int = ranking.DRAWS
) -> dict[str, Any]:
    """AUROC, AUPRC and TPR at 1 and 5 % FPR with their intervals over units, and accuracy, TPR and FPR at the
    threshold.

    ``low`` and ``high`` are AUROC's interval, or that of the flag rate where there is one class only; the others' are
    ``<figure>_low`` and ``_high``."""
    both = 0 < labels.sum() < len(labels)
    right = clustered_rate(((scores > threshold) == labels).astype(float), list(units))
    told = ranking.confusion(scores, labels, threshold)
    ranked = {
        "auroc": ranking.auroc_estimate(scores, labels, units, draws=draws),
        "auprc": ranking.auprc_estimate(scores, labels, units, draws=draws),
        "tpr_at_fpr1": ranking.tpr_estimate(scores, labels, 0.01, units, draws=draws),
        "tpr_at_fpr5": ranking.tpr_estimate(scores, labels, 0.05, units, draws=draws),
    }
    area = ranked.pop("auroc")
    found = area if both else clustered_rate((scores > threshold).astype(float), list(units))
    out: dict[str, Any] = {"auroc": plain(area.value)}
    out |= {name: plain(value) for name, value in told.items()}
    out |= {name: plain(estimate.value) for name, estimate in ranked.items()}
    out |= {
        "low": plain(found.low),
        "high": plain(found.high),
        "interval_of": "auroc" if both else "fpr" if not labels.any() else "tpr",
    }
    out |= {
        f"{name}_{end}": plain(getattr(estimate, end)) for name, estimate in ranked.items() for end in ("low", "high")
    }
    out |= {"accuracy_low": plain(right.low), "accuracy_high": plain(right.high)}
    return out | {"n": len(scores), "n_harmful": int(labels.sum())}


def plain(value: float) -> float | None:
    return None if not math.isfinite(value) else round(float(value), 6)


def means(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """guard -> mean AUROC over datasets, for each split, and of how many; ``_pool``: over those that hold harmful rows
    only."""
    out: dict[str, dict[str, Any]] = {}
    for guard in dict.fromkeys(c["guard"] for c in cells):
        row: dict[str, Any] = {}
        for split in SPLITS:
            mine = [
                c
                for c in cells
                if c["guard"] == guard and c["split"] == split and not c["category"] and c["auroc"] is not None
            ]
            for end, against in (("", ("own", "pool")), ("_pool", ("pool",))):
                values = [c["auroc"] for c in mine if c["against"] in against]
                row |= {
                    f"auroc_{split}{end}": plain(float(np.mean(values))) if values else None,
                    f"datasets_{split}{end}": len(values),
                }
        out[guard] = row
    return out
