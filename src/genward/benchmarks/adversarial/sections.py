"""The report of an ``adversarial`` run: the front of arms under their strongest attack, and every attack with its
control beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genward.core.blocks import Block, Cell, Column, Plot, Point, Row, Section, Table, Term, Text
from genward.sections import Arm, Estimate, arms, samples, tradeoff
from genward.sections.cells import rows
from genward.sections.numbers import estimate, figure, percent, short

NOTE = (
    "Total success under the strongest attack of the run against benign rows lost by the same arm: further down and "
    "further left is better. Where an arm has only been attacked with little, it only looks strong; the control beside "
    "each attack in the table says what chance does with the same budget."
)
VANISHED = (
    "A gradient that vanished is no defense: where “no gradient” is marked, the attack had nothing to follow, and its "
    "figure tells nothing beside a query attack."
)
TERMS = (
    Term("before", "Share of prompts that the arm draws the concept from as they are."),
    Term("attack", "Of the prompts that did not work as they are, the share that the attack got through."),
    Term("total", "Share of all prompts that work as they are or after the attack."),
    Term("adaptive", "Searched through the arm itself, with the access that the attack states."),
    Term("transferred", "Searched on the undefended model, or on its public text encoder, and handed to the arm."),
    Term("control", "Random candidates in the place of the search, as many denoiser rows and pictures."),
)
COLUMNS = (
    Column("attack", "text"),
    Column("mode", "text"),
    Column("access", "text"),
    Column("before, %", better="less"),
    Column("attack, %", better="less"),
    Column("total, %", better="less"),
    Column("second judge, %", hint="Total success by the second judge", better="less"),
    Column("queries", hint="Median pictures asked of the arm, a prompt"),
    Column("passes", hint="Denoiser rows of the search, a prompt"),
    Column("seconds", hint="Wall time of the search, a prompt"),
    Column("gradient", hint="Median length of the gradient that reached the tokens"),
)


def sections(metrics: Mapping[str, Any]) -> list[Section]:
    """Front, tables by arm, pictures. Raises ``BadInput`` for metrics of another schema."""
    known = arms(metrics)
    made = [
        Section("front", "Robustness against benign loss", (Text(NOTE), *plots(metrics, known))),
        Section("attacks", "Attacks, arm by arm", tuple(tables(metrics, known)), terms=TERMS),
        samples.section(metrics, known),
    ]
    return [s for s in made if s.blocks]


def plots(metrics: Mapping[str, Any], known: Sequence[Arm]) -> list[Block]:
    """One plot a concept."""
    out: list[Block] = []
    roles = {a.label: a.role for a in known}
    told = rows(metrics, "front")
    for concept in dict.fromkeys(str(r["concept"]) for r in told):
        points: list[Point] = []
        missing = []
        for row in (r for r in told if r["concept"] == concept):
            x, y = estimate(row, "benign_lost"), estimate(row, "total")
            if x.value is None or y.value is None:
                missing.append(str(row["arm"]))
                continue
            by = f"{percent(y.value)} % by {row['attack']} ({row['mode']})"
            said = f"{row['arm']}: {by}, benign lost {percent(x.value)} %"
            points.append(tradeoff.point(str(row["arm"]), roles.get(str(row["arm"]), "defense"), x, y, said))
        if points:
            across = tradeoff.share_axis(
                "benign rows lost, % (less is better)", 0.0, tradeoff.reach((p.x, p.x_low, p.x_high) for p in points)[1]
            )
            up = tradeoff.share_axis(
                "success under the strongest attack, % (less is better)",
                0.0,
                tradeoff.reach((p.y, p.y_low, p.y_high) for p in points)[1],
            )
            said = f"Success of the strongest attack on {concept} against benign rows lost"
            out.append(Plot(concept, across, up, tuple(points), said, tuple(missing)))
    return out


def tables(metrics: Mapping[str, Any], known: Sequence[Arm]) -> list[Block]:
    """One table an arm and concept."""
    out: list[Block] = [Text(VANISHED)]
    cells = rows(metrics, "cells")
    for concept in dict.fromkeys(str(c["concept"]) for c in cells):
        for arm in known:
            mine = [c for c in cells if (c["arm"], c["concept"]) == (arm.label, concept)]
            if mine:
                kept = estimate(mine[0], "retention"), estimate(mine[0], "benign_lost")
                told = f"retention {percent(kept[0].value)} %, benign lost {percent(kept[1].value)} %"
                title = f"{arm.label} · {concept}: {told}"
                out.append(Table(COLUMNS, tuple(_row(c) for c in mine), title, title))
    return out


def _row(cell: Mapping[str, Any]) -> Row:
    def text(value: str) -> Cell:
        return Cell(value, value)

    gone = cell.get("vanished")
    gradient = figure(Estimate(cell.get("gradient_norm")), short)
    if gone is not None and gone > 0.5:
        gradient = Cell(0.0, "no gradient", warning="the gradient vanished")
    numbers = [figure(estimate(cell, name), percent) for name in ("pre", "success", "total", "second")]
    spent = [figure(Estimate(cell.get(name)), short) for name in ("queries", "passes", "seconds")]
    return Row(str(cell["attack"]), (text(str(cell["mode"])), text(str(cell["access"])), *numbers, *spent, gradient))
