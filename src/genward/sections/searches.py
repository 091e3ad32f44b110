"""The attacks of a run: what each search cost, its learning curves, how well its inversions close."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Block, Cell, Column, Curve, Heading, Row, Section, Table, Text
from genward.sections.arms import Metrics
from genward.sections.cells import rows
from genward.sections.numbers import DASH, duration

COLUMNS = (
    Column("attack", "text"),
    Column("through", "text"),
    Column("vectors", "text"),
    Column("denoiser rows"),
    Column("with gradient"),
    Column("time"),
    Column("round trip", hint="Median relative error of the latents after inversion and back", better="less"),
)
NOTE = (
    "White-box searches go through the arms they name, black-box ones through the undefended model. Round trip: "
    "relative "
    "error of the latents after inversion and back."
)


def section(metrics: Metrics) -> Section:
    """A table of the metrics' ``attacks`` and their learning curves; no blocks where there was none. Figures that are
    missing or no numbers are left out."""
    found = rows(metrics, "attacks")
    table = Table(COLUMNS, tuple(search(row) for row in found), label="Attacks")
    blocks = (Text(NOTE), table, *(b for row in found for b in curves(row))) if found else ()
    return Section("attacks", "Attacks: what was searched, and what it cost", blocks)


def search(row: Mapping[str, Any]) -> Row:
    """One search: the attack with its fields, the arms it went through, the attack vectors its results were used in,
    and its cost."""
    attack, cost = _table(row, "attack"), _table(row, "cost")
    fields = ", ".join(
        f"{k} {v}" for k, v in _table(attack, "fields").items() if isinstance(v, (int, float, str)) and v != ""
    )
    facts = [f for f in row.get("facts") or () if isinstance(f, Mapping)]
    trips = [x for x in (_number(f.get("round_trip")) for f in facts) if x is not None and x >= 0]
    trip = statistics.median(trips) if trips else None
    spent = [int(_number(cost.get(key)) or 0) for key in ("nfe", "gradient_nfe")]
    seconds = _number(cost.get("seconds")) or 0.0
    through, vectors = _through(row), ", ".join(map(str, row.get("scenarios") or ()))
    return Row(
        str(attack.get("name", "?")),
        (
            Cell(through, through),
            Cell(vectors, vectors),
            *(Cell(v, str(v)) for v in spent),
            Cell(seconds, duration(seconds)),
            Cell(trip, DASH if trip is None else f"{trip:.3f}"),
        ),
        note=fields,
    )


def curves(row: Mapping[str, Any]) -> tuple[Block, ...]:
    """A heading and the learning curves of one search; nothing where it has none."""
    facts = [f for f in row.get("facts") or () if isinstance(f, Mapping)]
    found = [c for f in facts if (c := curve(f)) is not None]
    return (Heading(str(_table(row, "attack").get("name", "?")), f"through {_through(row)}"), *found) if found else ()


def curve(fact: Mapping[str, Any]) -> Curve | None:
    """The line of a fact's ``curve`` (loss by step), smoothed over a tenth of the steps; ``None`` where there is
    none."""
    raw = fact.get("curve")
    values = [v for v in (_number(x) for x in raw) if v is not None] if isinstance(raw, list) else []
    if len(values) < 2:
        return None
    window = max(1, len(values) // 10)
    smooth = [sum(values[max(0, k - window + 1) : k + 1]) / min(window, k + 1) for k in range(len(values))]
    word = str(fact.get("word", ""))
    return Curve(str(fact.get("concept", "")) + (f", from “{word}”" if word else ""), tuple(smooth))


def _through(row: Mapping[str, Any]) -> str:
    return ", ".join(map(str, row.get("arms") or ())) or "the undefended model"


def _table(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = row.get(key)
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value else None
