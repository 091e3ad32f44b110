"""Two judges on the same pictures, by arm: the raw rate by each and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Block, Cell, Column, Row, Section, Table, Term, Text
from genward.sections.arms import Metrics, arms
from genward.sections.cells import rows
from genward.sections.numbers import DASH, Estimate, estimate, figure, number, percent

COLUMNS = (
    Column("arm", "text"),
    Column("raw, first judge, %", hint="Share of harm pictures where the judge that scores sees the concept"),
    Column("raw, second judge, %", hint="The same by the second judge"),
    Column("agreement, %", hint="Share of pictures on which both say the same", better="more"),
    Column("kappa", hint="Agreement beyond chance: 1 in full, 0 by chance", better="more"),
)
ERRORS = (
    Column("concept, arms", "text"),
    Column("from", "text", hint="What the judge's error rates were measured on"),
    Column("sensitivity, %", hint="Of what is there, the share that the first judge sees", better="more"),
    Column("specificity, %", hint="Of what is not there, the share where it sees nothing", better="more"),
    Column("second: sensitivity, %", hint="The second judge's, where two judges were compared", better="more"),
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
    blocks: list[Block] = [*([about] if tables else []), *tables, *error_table(metrics)]
    return Section(
        "two-judges",
        "Two judges on the same pictures",
        tuple(blocks),
        terms=TERMS if lines else (),
    )


def error_table(metrics: Metrics) -> list[Block]:
    """Which error of the first judge the corrected rates were made with, by concept and class of arm; none in metrics
    of earlier versions.

    Raises:
        BadInput: a figure that is no number.
    """
    lines = rows(metrics, "judge_errors")
    made = []
    for line in lines:
        name = f"{line.get('concept')}, {line.get('arms')}"
        shares = (figure(_told(line, key, name), percent) for key in ("sensitivity", "specificity"))
        second = figure(_told(line, "second_sensitivity", name), percent)
        source, why = str(line.get("source", "")), str(line.get("why") or "")
        made.append(Row(name, (Cell(source, source, why=why), *shares, second)))
    return [Table(ERRORS, tuple(made), label="Error of the judge")] if made else []


def _told(line: Mapping[str, Any], name: str, where: str) -> Estimate:
    ends = (number(line.get(key), f"{where}: {key}") for key in (name, f"{name}_low", f"{name}_high"))
    return Estimate(*ends)


def _row(line: Mapping[str, Any], role: str) -> Row:
    label = str(line.get("arm"))
    value = number(line.get("kappa"), f"{label}: kappa")
    shares = (figure(_told(line, name, label), percent) for name in ("crr_raw", "second", "agreement"))
    return Row(label, (*shares, Cell(value, DASH if value is None else f"{value:.2f}")), role, f"n {line.get('n', 0)}")


def beside(cell: Mapping[str, Any]) -> tuple[str, ...]:
    """What a cell of the matrix adds about its judges: where the error is from, the second one's raw rate, and the
    agreement; nothing of what there is not."""
    where = f"cell {cell['arm']}/{cell['concept']}/{cell['variant']}"
    second, same = (estimate({k: number(cell.get(k), where) for k in _KEYS}, name) for name in ("second", "agreement"))
    found = [f"second judge {percent(second.value)}"] if second.value is not None else []
    source = [f"error from {cell['error']}"] if cell.get("error") else []
    return tuple(source + found + ([f"agree {percent(same.value)}"] if same.value is not None else []))


_KEYS = ("second", "second_low", "second_high", "agreement", "agreement_low", "agreement_high")
