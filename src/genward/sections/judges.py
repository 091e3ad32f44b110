"""Two judges on the same pictures, by arm: the raw rate by each and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Cell, Column, Row, Section, Table, Term, Text
from genward.sections.arms import Metrics, arms
from genward.sections.cells import rows
from genward.sections.numbers import Estimate, estimate, figure, number, percent, short

COLUMNS = (
    Column("arm", "text"),
    Column("raw, first judge, %", hint="Share of harm pictures where the judge that scores sees the concept"),
    Column("raw, second judge, %", hint="The same by the second judge"),
    Column("agreement, %", hint="Share of pictures on which both say the same", better="more"),
    Column("kappa", hint="Agreement beyond chance: 1 in full, 0 by chance", better="more"),
)
NOTE = (
    "All harm pictures of an arm, each once, before any correction. Agreement that falls where a defense acts says "
    "that half-erased things are hard to see there: small differences between such arms are not told by either judge."
)
TERMS = (
    Term("kappa", "Cohen's kappa: the share on which two judges agree beyond what their rates alone would bring."),
)


def section(metrics: Metrics) -> Section:
    """One table a concept, a row for each arm; no blocks where the run has one judge alone.

    Raises:
        BadInput: a figure that is no number.
    """
    lines = rows(metrics, "two_judges")
    roles = {a.label: a.role for a in arms(metrics, [str(r.get("arm")) for r in lines])}
    tables = []
    for concept in dict.fromkeys(str(r.get("concept", "")) for r in lines):
        mine = [r for r in lines if str(r.get("concept", "")) == concept]
        tables.append(Table(COLUMNS, tuple(_row(r, roles.get(str(r.get("arm")), "")) for r in mine), concept))
    names = [str(j.get("name", "?")) for j in metrics.get("judges", ())]
    about = Text(f"First judge: {names[0]}; second: {names[1]}. {NOTE}" if len(names) > 1 else NOTE)
    return Section(
        "two-judges",
        "Two judges on the same pictures",
        (about, *tables) if tables else (),
        terms=TERMS if lines else (),
    )


def _row(line: Mapping[str, Any], role: str) -> Row:
    label = str(line.get("arm"))

    def told(name: str) -> Estimate:
        ends = (number(line.get(key), f"{label}: {key}") for key in (name, f"{name}_low", f"{name}_high"))
        return Estimate(*ends)

    value = number(line.get("kappa"), f"{label}: kappa")
    shares = (figure(told(name), percent) for name in ("crr_raw", "second", "agreement"))
    return Row(label, (*shares, Cell(value, short(value))), role, f"n {line.get('n', 0)}")


def beside(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """What a cell of the matrix adds about its second judge: its raw rate, and the agreement; nothing where there is
    none."""
    where = f"cell {cell['arm']}/{cell['concept']}/{cell['variant']}"
    second, same = (estimate({k: number(cell.get(k), where) for k in _KEYS}, name) for name in ("second", "agreement"))
    found = [f"second judge {percent(second.value)}"] if second.value is not None else []
    return tuple(found + ([f"agree {percent(same.value)}"] if same.value is not None else []))


_KEYS = ("second", "second_low", "second_high", "agreement", "agreement_low", "agreement_high")
