"""The matrix of an erasure-like run: how much of each concept is left, by arm and prompt variant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.core.blocks import Cell, Column, Matrix, Row, Section, Summary, Text
from genward.sections.cells import Grid, why_of
from genward.sections.findings import cautions, findings
from genward.sections.judges import beside
from genward.sections.numbers import DASH, Estimate, estimate, interval, percent, share_digits
from genward.sections.words import ERASURE

MEAN = "Mean over the variants that every arm was run on, its interval that of the intervals' ends, never too narrow"


def section(grid: Grid) -> Section:
    """Matrices of all concepts, with findings and cautions for the page's summary and the glossary's words."""
    note = Text(
        "Corrected concept reproduction rate in percent, its interval below. Lower is better. Click a column's name to "
        "sort."
    )
    return Section(
        "matrix",
        "Matrix: how much of the concept is left",
        (note, *(matrix(grid, c) for c in grid.concepts)) if grid.concepts else (),
        Summary(tuple(findings(grid)), tuple(cautions(grid))),
        ERASURE,
    )


def matrix(grid: Grid, concept: str) -> Matrix:
    """One concept's heat map: a column per prompt variant, a row for each arm that has any; their mean at the end where
    there are several."""
    variants = grid.variants(concept)
    mean = [Column("mean", hint=MEAN)] if len(variants) > 1 else []
    rows = []
    for arm in grid.arms:
        found = [grid.cell(arm.label, concept, w) for w in variants]
        if any(c is not None for c in found):
            cells = [None if c is None else _cell(c) for c in found]
            cells += [_shade(grid.residual(arm.label, concept)) for _ in mean]
            rows.append(Row(arm.label, tuple(cells), arm.role))
    columns = (Column("arm", "text"), *map(Column, variants), *mean)
    return Matrix(concept, columns, tuple(rows), "0 % left", "100 %", "raw rate and difference to base")


def _shade(e: Estimate) -> Cell:
    return Cell(e.value, percent(e.value), interval(e, percent))


def _cell(cell: Mapping[str, Any]) -> Cell:
    e, difference = estimate(cell, "crr"), estimate(cell, "crr_difference")
    digits = share_digits(e)

    def show(x: float | None) -> str:
        return percent(x, digits)

    unscored = int(cell["n_unscored"] or 0)
    more = [f"raw {show(cell['crr_raw'])}"] if cell["crr_raw"] is not None else []
    if difference.value is not None:
        more.append(f"vs base {100 * difference.value:+.{digits}f}".replace("-", "−"))
        ends = interval(difference, lambda x: show(x).replace("-", "−"), " to ")
        more += [f"({ends})"] if ends else []
    more += beside(cell)
    own = estimate(cell, "crr_raw")
    if e.value is None and own.value is not None and own.low is not None:
        return Cell(
            own.value,
            f"{show(own.value)} raw",
            interval(own, show),
            note=f"n {cell['n']:.0f}" if cell["n"] is not None else "",
            warning=f"{unscored} unscored" if unscored else "",
            why=why_of(cell),
        )
    return Cell(
        e.value,
        show(e.value) if e.value is not None else DASH,
        interval(e, show) if e.value is not None else "",
        note=f"n {cell['n']:.0f}" if cell["n"] is not None else "",
        warning=f"{unscored} unscored" if unscored else "",
        more=tuple(more) if e.value is not None else (),
        why=why_of(cell),
    )
