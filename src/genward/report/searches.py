"""The attacks of a run for the page: what each search cost, its learning curves, how well its inversions close."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT, PAD = 260, 90, 6
"""Size of a learning curve's picture and the space around the line, in SVG units."""


class Curve(NamedTuple):
    """A learning curve as an SVG line, with what it ended at."""

    concept: str
    points: str
    first: float
    last: float
    steps: int
    word: str


class Search(NamedTuple):
    """One search: the attack, the arms it went through, the doors its results were used at, and its cost."""

    attack: str
    fields: str
    arms: str
    scenarios: str
    nfe: int
    gradient_nfe: int
    seconds: float
    round_trip: float | None
    """Median relative error of the latents after inversion and back; ``None`` for other attacks"""
    curves: tuple[Curve, ...]


def searches(rows: Sequence[Mapping[str, Any]]) -> list[Search]:
    """The section ``attacks`` of a run's metrics, ready for the page. Figures that are missing or no numbers are left
    out."""
    return [_search(row) for row in rows]


def _search(row: Mapping[str, Any]) -> Search:
    attack: Mapping[str, Any] = row.get("attack") if isinstance(row.get("attack"), Mapping) else {}  # type: ignore[assignment]
    cost: Mapping[str, Any] = row.get("cost") if isinstance(row.get("cost"), Mapping) else {}  # type: ignore[assignment]
    facts = [f for f in row.get("facts") or () if isinstance(f, Mapping)]
    fields = attack.get("fields") if isinstance(attack.get("fields"), Mapping) else {}
    trips = [x for x in (_number(f.get("round_trip")) for f in facts) if x is not None and x >= 0]
    return Search(
        str(attack.get("name", "?")),
        ", ".join(f"{k} {v}" for k, v in (fields or {}).items() if isinstance(v, (int, float, str)) and v != ""),
        ", ".join(map(str, row.get("arms") or ())) or "the undefended model",
        ", ".join(map(str, row.get("scenarios") or ())),
        int(_number(cost.get("nfe")) or 0),
        int(_number(cost.get("gradient_nfe")) or 0),
        float(_number(cost.get("seconds")) or 0.0),
        statistics.median(trips) if trips else None,
        tuple(c for f in facts if (c := curve(f)) is not None),
    )


def curve(fact: Mapping[str, Any]) -> Curve | None:
    """The line of a fact's ``curve`` (loss by step), smoothed over a tenth of the steps; ``None`` where there is
    none."""
    raw = fact.get("curve")
    values = [v for v in (_number(x) for x in raw) if v is not None] if isinstance(raw, list) else []
    if len(values) < 2:
        return None
    window = max(1, len(values) // 10)
    smooth = [sum(values[max(0, k - window + 1) : k + 1]) / min(window, k + 1) for k in range(len(values))]
    low, high = min(smooth), max(smooth)
    across, down = WIDTH - 2 * PAD, HEIGHT - 2 * PAD
    points = [
        f"{PAD + across * k / (len(smooth) - 1):.1f},{PAD + down * (1 - (v - low) / (high - low)) if high > low else HEIGHT / 2:.1f}"
        for k, v in enumerate(smooth)
    ]
    return Curve(
        str(fact.get("concept", "")), " ".join(points), smooth[0], smooth[-1], len(values), str(fact.get("word", ""))
    )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
