"""The judges of a run with their own error rates."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Block, Box, Cell, Column, Facts, Row, Section, Summary, Table
from genward.sections.arms import Metrics
from genward.sections.numbers import DASH, percent

WEAK = 0.90
"""A rate below this is called out."""
RATES = ("sensitivity", "specificity", "positives", "negatives", "threshold")
COLUMNS = (Column("label", "text"), *map(Column, RATES))


def section(metrics: Metrics) -> Section:
    """A box per judge; its weak labels as cautions."""
    boxes = tuple(judge(raw) for raw in metrics["judges"])
    return Section(
        "judges", "Judges and their own error rates", boxes, Summary(cautions=tuple(cautions(metrics))), short="Judges"
    )


def cautions(metrics: Metrics) -> list[str]:
    """A sentence for each judge that misses or invents too much."""
    scores = next((str(j.get("name")) for j in metrics["judges"]), "")
    same = [str(a.get("label")) for a in metrics.get("arms", ()) if scores and scores in (a.get("labels_by") or ())]
    out = [f"{', '.join(same)}: labelled or filtered by judge {scores}, which scores here too."] if same else []
    for raw in metrics["judges"]:
        weak = [str(k) for k, v in (raw.get("labels") or {}).items() if _weak(v)]
        if weak:
            more = [f"{len(weak) - 4} more"] if len(weak) > 4 else []
            shown = [*weak[:4], *more]
            names = shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
            out.append(
                f"Judge {raw.get('name', '?')} misses or invents more than {percent(1 - WEAK)}\u00a0% on {len(weak)} "
                f"label{'s' if len(weak) > 1 else ''} ({names})."
            )
    return out


def judge(raw: Mapping[str, Any]) -> Box:
    """One judge's card: a table of rates, a line about them, and its facts."""
    labels: Mapping[str, Any] = raw.get("labels") or {}
    rows = [Row(str(k), tuple(_rate(v, key) for key in RATES)) for k, v in labels.items()]
    line = [f"{len(rows)} label{'s' if len(rows) != 1 else ''}"]
    for k, name in enumerate(RATES[:2]):
        known = [(cell.value, row.label) for row in rows if (cell := row.cells[k]) and isinstance(cell.value, float)]
        if known:
            low, label = min(known)
            line.append(
                f"{name} {percent(statistics.median(v for v, _ in known), 1)} % (median), {percent(low, 1)} % at worst "
                f"({label})"
            )
    name = str(raw.get("name", "?"))
    blocks: list[Block] = [Table(COLUMNS, tuple(rows), label=f"Card of {name}")] if rows else []
    facts = pairs(raw.get("facts"))
    return Box(name, (*blocks, *([Facts(facts)] if facts else [])), str(raw.get("hash") or "")[:12], "; ".join(line))


def pairs(value: Any) -> tuple[tuple[str, str], ...]:
    """A table of facts as words and texts; what is no text as JSON."""
    if isinstance(value, Mapping):
        return tuple(
            (str(k), v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, sort_keys=True, default=str))
            for k, v in value.items()
        )
    return (("", str(value)),) if value else ()


def _weak(rates: Any) -> bool:
    if not isinstance(rates, Mapping):
        return False
    return any(isinstance(v := rates.get(k), (int, float)) and v < WEAK for k in RATES[:2])


def _rate(rates: Any, key: str) -> Cell:
    value = rates.get(key) if isinstance(rates, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return Cell(None, DASH)
    return Cell(float(value), f"{value:,.0f}" if key in ("positives", "negatives") else f"{value:.3f}")
