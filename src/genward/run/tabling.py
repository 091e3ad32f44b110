"""A run's cells as a table for a paper: CSV with every figure, Markdown and LaTeX (booktabs) with intervals."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from genward.core.reading import printable
from genward.errors import BadInput, UnknownName

FORMATS = ("csv", "markdown", "latex")
ENDS = ("_low", "_high")
LABELS = (
    "arm",
    "concept",
    "variant",
    "scenario",
    "attack",
    "tap",
    "condition",
    "profile",
    "fixture",
    "defense",
    "kind",
)
"""Columns that name a cell, in this order where a benchmark has them"""
ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def columns_of(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of a run's figures: those that name a cell first, ends of intervals left out, columns without any plain
    value left out."""
    names = list(dict.fromkeys(name for cell in cells for name in cell))
    known = [n for n in names if not any(n.endswith(e) and n.removesuffix(e) in names for e in ENDS)]
    plain = [n for n in known if any(isinstance(c.get(n), str | int | float) and c.get(n) != "" for c in cells)]
    return [*(n for n in LABELS if n in plain), *(n for n in plain if n not in LABELS)]


def picked(
    cells: Sequence[Mapping[str, Any]], columns: Sequence[str], where: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """The cells in which every column in ``where`` has its value.

    Raises:
        UnknownName: a column that the run does not have. BadInput: no cell is left.
    """
    every = list(dict.fromkeys(name for cell in cells for name in cell))
    for name in (*columns, *where):
        if name not in every:
            raise UnknownName("column of the run", name, every)
    found = [c for c in cells if all(str(c.get(k)) == v for k, v in where.items())]
    if not found:
        told = ", ".join(f"{k}={v}" for k, v in where.items())
        raise BadInput(f"no cell of the run has {told}" if told else "the run has no cells; it measured nothing")
    return found


def _figure(cell: Mapping[str, Any], name: str) -> Any:
    """A cell's figure, ``(value, low, high)`` where it has an interval."""
    ends = [cell.get(name + e) for e in ENDS]
    if name + ENDS[0] in cell and all(isinstance(e, int | float) for e in ends):
        return (cell.get(name), *ends)
    return cell.get(name)


def _with_ends(cells: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    every = set().union(*cells) if cells else set()
    return [w for n in columns for w in (n, *(n + e for e in ENDS if n + e in every))]


def chosen_cells(
    metrics: Mapping[str, Any], columns: Sequence[str], where: Mapping[str, str]
) -> list[Mapping[str, Any]]:
    """A run's cells as they are, or of each the columns that are named, with the ends of their intervals.

    Raises:
        UnknownName, BadInput: as of ``table``.
    """
    cells = list(metrics.get("cells", ()))
    found = picked(cells, columns, where)
    wide = _with_ends(cells, columns)
    return [{n: c.get(n) for n in wide} for c in found] if columns else found


def as_csv(cells: Sequence[Mapping[str, Any]], columns: Sequence[str], where: Mapping[str, str]) -> str:
    """Every figure with all its digits, the ends of intervals as columns of their own, nothing for a missing one."""
    wide = _with_ends(cells, columns)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(wide)
    for cell in picked(cells, columns, where):
        writer.writerow(["" if cell.get(n) is None else cell.get(n) for n in wide])
    return out.getvalue()


def shown(value: Any, digits: int, span: str) -> str:
    """A figure as text: ``0.42 [0.31, 0.55]``; ``-`` where there is none. ``span`` joins the ends of the interval."""
    if isinstance(value, tuple):
        middle, low, high = value
        return f"{shown(middle, digits, span)} [{shown(low, digits, span)}{span}{shown(high, digits, span)}]"
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return printable(" ".join(str(value).split()))


def as_markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> str:
    """A table of GitHub's Markdown."""
    lines = [list(columns), ["---"] * len(columns)]
    lines += [[shown(v, digits, ", ").replace("|", r"\|") for v in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def as_latex(columns: Sequence[str], rows: Sequence[Sequence[Any]], digits: int = 2) -> str:
    """A ``tabular`` with booktabs' rules: texts to the left, figures to the right. Needs ``\\usepackage{booktabs}``."""
    kinds = "".join(
        "l" if all(isinstance(r[k], str) or r[k] is None for r in rows) else "r" for k in range(len(columns))
    )
    lines = [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _tex(columns), r"\midrule"]
    for row in rows:
        texts = [shown(v, digits, ", ") for v in row]
        lines.append(_tex(texts, [not isinstance(v, str) for v in row]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _tex(values: Sequence[str], figures: Sequence[bool] = ()) -> str:
    """A line of a table; the signs of its figures are minuses, not hyphens."""
    texts = ["".join(ESCAPES.get(c, c) for c in v) for v in values]
    for k, figure in enumerate(figures):
        texts[k] = re.sub(r"-(?=\d)", "$-$", texts[k]) if figure else texts[k]
    return " & ".join(texts) + r" \\"


def table(
    metrics: Mapping[str, Any],
    form: str,
    *,
    columns: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    digits: int = 2,
) -> str:
    """A run's cells in one of ``FORMATS``.

    Args:
        columns: names of figures; all by default. where: column -> value that a cell must have. digits: after the
            point, 0 to 9, in Markdown and LaTeX.

    Raises:
        UnknownName, BadInput: no such format or column; no such cell; digits out of range.
    """
    if form not in FORMATS:
        raise UnknownName("table format", form, FORMATS)
    if not 0 <= digits <= 9:
        raise BadInput(f"{digits} digits; 0 to 9 are possible")
    cells = list(metrics.get("cells", ()))
    names = list(columns) or columns_of(cells)
    if form == "csv":
        return as_csv(cells, names, where or {})
    rows = [[_figure(c, name) for name in names] for c in picked(cells, names, where or {})]
    return (as_markdown if form == "markdown" else as_latex)(names, rows, digits)
