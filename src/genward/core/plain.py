"""Rows of plain values as a table of a report, for benchmarks that do not shape their own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from genward.core.blocks import Cell, Column, Row, Table


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> Table:
    """Rows of plain values as a table of a report: numbers to four significant digits, what is missing as a dash.

    Args:
        columns: which fields, in order, the first one heads the rows; by default those of the first row.
    """
    names = tuple(columns) or tuple(rows[0] if rows else ())
    if not names:
        return Table((), (), label="Figures")
    numbers = {n for n in names if any(_is_number(row.get(n)) for row in rows)}
    heads = tuple(Column(n, "number" if n in numbers and n != names[0] else "text") for n in names)
    made = [Row(str(row.get(names[0], "")), tuple(_plain_cell(row.get(n)) for n in names[1:])) for row in rows]
    return Table(heads, tuple(made), label="Figures")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain_cell(value: Any) -> Cell:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return Cell(None, "–")
    return Cell(value if _is_number(value) else str(value), f"{value:.4g}" if isinstance(value, float) else str(value))
