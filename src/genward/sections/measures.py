"""What each arm of an erasure-like run costs: other content, drift, time, denoiser rows."""

from __future__ import annotations

from dataclasses import replace

from genward.core.blocks import Cell, Column, Row, Section, Table
from genward.sections.cells import MEASURES, Grid, why_of
from genward.sections.numbers import duration, figure, percent, short

COLUMNS = (
    Column("arm", "text"),
    Column("concept", "text"),
    Column("retention", hint="Share of other content still recognized", better="more"),
    Column("drift", hint="Distance to the base model's picture at equal seed", better="less"),
    Column("Fréchet", hint="Distance between sets of pictures in the judge's features", better="less"),
    Column("s / image", hint="Seconds per picture, in batches", better="less"),
    Column("extra NFE", hint="Denoiser rows per picture beyond the base model's", better="less"),
    Column("preparation", hint="Time to fit, once", better="less"),
)


def section(grid: Grid) -> Section:
    """One table, a row per arm and concept; no blocks without cells."""
    rows = []
    for concept in grid.concepts:
        for arm in grid.arms:
            if grid.cells(arm.label, concept):
                kept, *rest = (grid.measure(arm.label, concept, m) for m in MEASURES)
                took = grid.prepare(arm, concept)
                made = [figure(kept, percent, " %"), *(figure(e, short) for e in rest)]
                first = grid.cells(arm.label, concept)[0]
                cells = [Cell(concept, concept)]
                cells += [replace(c, why=why_of(first, m)) for c, m in zip(made, MEASURES, strict=True)]
                rows.append(Row(arm.label, (*cells, Cell(took, duration(took))), arm.role))
    table = Table(COLUMNS, tuple(rows), label="Measures")
    return Section("measures", "Measures: what it costs", (table,) if rows else ())
