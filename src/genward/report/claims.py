"""What papers claim, what was measured, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Cell, Chip, Column, Row, Section, Table, Text
from genward.sections.arms import Metrics
from genward.sections.cells import rows
from genward.sections.numbers import DASH, Estimate, settled

COLUMNS = (
    Column("system", "text"),
    Column("claim", "text"),
    Column("paper", "text"),
    Column("ours"),
    Column("verdict", "text"),
)
NOTE = (
    "“Holds” if the whole interval satisfies the claim, “does not hold” if none of it does, else “cannot tell”: not "
    "measured here, interval too wide, or figure in doubt. Footnotes say what is missing, and about how many rows "
    "would decide a claim whose interval is too wide."
)
TONES = {"holds": "good", "does not hold": "bad"}


def section(metrics: Metrics) -> Section:
    """One table of the metrics' ``claims``, and the commands that measure them; no blocks where there are none."""
    found = rows(metrics, "claims")
    if not found:
        return Section("claims", "Claims", ())
    table = Table(COLUMNS, tuple(map(claim, found)), label="Claims")
    commands = dict.fromkeys(c for row in found if (c := _text(row.get("command"))))
    again = (Text(f"Measured by {'; or '.join(commands)}."),) if commands else ()
    return Section("claims", "Claims", (Text(NOTE), table, *again))


def claim(row: Mapping[str, Any]) -> Row:
    """One claim beside what was measured."""
    text = {k: _text(row.get(k)) for k in ("id", "system", "statement", "paper", "verdict", "reason", "why")}
    ours, low, high = (row.get(k) for k in ("ours", "low", "high"))
    number = Estimate(*(float(v) if _is_number(v) else None for v in (ours, low, high)))  # type: ignore[arg-type]
    show = settled(number)
    value = _text(ours) if number.value is None else show(number.value)
    ends = "" if number.half is None else f"{show(number.low)} to {show(number.high)}"
    n = row.get("n")
    return Row(
        text["system"],
        (
            Cell(text["statement"], text["statement"], note=text["id"]),
            Cell(text["paper"] or None, text["paper"] or DASH),
            Cell(number.value, value or DASH, ends, note=f"n {n}" if _is_number(n) else ""),
            Cell(
                text["verdict"],
                text["verdict"],
                note=text["reason"],
                why=text["why"],
                chip=Chip(text["verdict"], TONES.get(text["verdict"], "")),
            ),
        ),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text, value))
    return "" if value is None else str(value)
