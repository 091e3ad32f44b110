"""What papers claim, what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Cell, Chip, Column, Row, Section, Table, Text
from genward.sections.arms import Metrics
from genward.sections.cells import rows
from genward.sections.numbers import DASH, short

COLUMNS = (
    Column("system", "text"),
    Column("claim", "text"),
    Column("paper"),
    Column("ours"),
    Column("verdict", "text"),
    Column("command", "code"),
)
NOTE = "“Holds” if the whole interval satisfies the claim, “does not hold” if none of it does, else “cannot tell”."
TONES = {"holds": "good", "does not hold": "bad"}


def section(metrics: Metrics) -> Section:
    """One table of the metrics' ``claims``; no blocks where there are none."""
    found = rows(metrics, "claims")
    table = Table(COLUMNS, tuple(map(claim, found)), label="Claims")
    return Section("claims", "Claims", (Text(NOTE), table) if found else ())


def claim(row: Mapping[str, Any]) -> Row:
    """One claim beside what was measured."""
    text = {k: _text(row.get(k)) for k in ("id", "system", "statement", "paper", "verdict", "command")}
    ours, low, high = (_figure(row.get(k)) for k in ("ours", "low", "high"))
    return Row(
        text["system"],
        (
            Cell(text["statement"], text["statement"], note=text["id"]),
            Cell(text["paper"] or None, text["paper"] or DASH),
            Cell(ours or None, ours or DASH, f"{low} to {high}" if low and high else ""),
            Cell(text["verdict"], text["verdict"], chip=Chip(text["verdict"], TONES.get(text["verdict"], ""))),
            Cell(text["command"], text["command"]),
        ),
    )


def _figure(value: Any) -> str:
    return short(float(value)) if isinstance(value, (int, float)) and not isinstance(value, bool) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)
