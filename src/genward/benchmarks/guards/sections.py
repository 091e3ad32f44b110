"""The report of a ``guards`` run: unsafe pictures released, benign rows blocked, denoiser rows per released picture;
which guards no other one beats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from genward.core.blocks import Block, Cell, Chip, Column, Plot, Point, Row, Section, Table, Term, Text
from genward.sections import Arm, Estimate, Grid, Metrics, judges, matrix, measures, samples, tradeoff
from genward.sections.cells import rows
from genward.sections.numbers import figure, interval, number, percent, short

COST = ("unsafe_released", "benign_blocked", "nfe_per_released")
"""What a guard is better the less of it has; the first two are shares, the last one counts denoiser rows."""
COLUMNS = (
    Column("guard", "text"),
    Column("unsafe released, %", hint="Of rows whose undefended picture shows the policy", better="less"),
    Column(
        "benign blocked, %",
        hint="Of rows whose undefended picture does not: refused, or steered out of recognition",
        better="less",
    ),
    Column("accuracy, %", hint="Share of both kinds of rows decided rightly", better="more"),
    Column(
        "within prompt, AUROC %",
        hint="Of a guard with a score: pairs of rows of one prompt that leaves open what is drawn, ranked rightly",
        better="more",
    ),
    Column(
        "NFE per released",
        hint="All denoiser rows spent, blocked rows' included, over pictures released",
        better="less",
    ),
    Column("NFE per blocked", hint="Denoiser rows spent on a row before it was refused", better="less"),
    Column("s / image", hint="Seconds per row, in batches", better="less"),
)
STARTED = (
    Column(
        "img2img: unsafe released, %",
        hint="Of rows that start from a picture of the policy under a harmless prompt",
        better="less",
    ),
    Column("img2img: benign blocked, %", hint="Of rows that start from a picture of something else", better="less"),
)
"""Columns of rows that start from pictures, where the run has any."""
NOTE = (
    "By what the undefended picture of the same row shows, not by what its prompt says. Further down and further left "
    "is "
    "better. “front”: no other guard releases less, blocks less and spends less at once, by the values alone; "
    "intervals "
    "overlap. A filter on finished pictures that asks this table's own judge is right by construction."
)
TERMS = (
    Term(
        "unsafe released",
        "Of the rows whose undefended picture shows the policy, the share whose picture came out and still shows it.",
    ),
    Term(
        "within prompt",
        "Of pairs of rows with one prompt, one showing the policy and one not, the share that the guard's score ranks "
        "rightly. A guard that reads the prompt alone gets 50 %, whatever its accuracy.",
    ),
    Term(
        "benign blocked",
        "Of the rows whose undefended picture does not show the policy, the share that was refused, or steered into "
        "something that is no longer recognized.",
    ),
)


def sections(metrics: Metrics) -> list[Section]:
    """The sections of ``erasure`` with the guards' own after the matrix, in reading order.

    Raises:
        BadInput: metrics of another schema.
    """
    grid = Grid(metrics)
    return [
        matrix.section(grid),
        guards(rows(metrics, "guards"), grid.arms),
        tradeoff.section(grid),
        judges.section(metrics),
        measures.section(grid),
        samples.section(metrics, grid.arms),
    ]


def guards(cells: Sequence[Mapping[str, Any]], arms: Sequence[Arm]) -> Section:
    """For each policy a plot (where an arm has both shares) and a table; no blocks without cells. Arms in the order of
    the cells.

    Raises:
        BadInput: a figure that is no number.
    """
    title = "Guards: what comes out, what is lost, what is spent"
    policies = list(dict.fromkeys(str(c.get("policy", "")) for c in cells))
    by = {a.label: a for a in arms}
    blocks = [b for p in policies for b in policy(p, [c for c in cells if str(c.get("policy", "")) == p], by)]
    return Section("guards", title, (Text(NOTE), *blocks) if blocks else (), terms=TERMS)


def policy(name: str, cells: Sequence[Mapping[str, Any]], arms: Mapping[str, Arm]) -> list[Block]:
    """The plot and the table of one policy."""
    known = [(arms.get(str(c.get("arm")), Arm(str(c.get("arm")))), c) for c in cells]
    tested = [c for arm, c in known if not arm.control]
    started = any("n_img2img" in c for c in cells)
    lines = [row(arm, c, not arm.control and not any(beats(other, c) for other in tested), started) for arm, c in known]
    points = [p for arm, c in known if (p := point(arm, c)) is not None]
    drawn = {p.label for p in points}
    table = Table((*COLUMNS, *(STARTED if started else ())), tuple(lines), name)
    if not points:
        return [table]
    plot = Plot(
        name,
        *tradeoff.equal_axes("benign blocked, % (less is better)", "unsafe released, % (less is better)", points),
        tuple(points),
        f"Unsafe pictures released against benign rows blocked, {name}",
        tuple(arm.label for arm, _ in known if arm.label not in drawn),
    )
    return [plot, table]


def beats(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether ``a`` is at most ``b`` in every cost and less in one, by the values alone; an arm that lacks a figure
    neither beats nor is beaten."""
    left, right = ([number(c.get(k), k) for k in COST] for c in (a, b))
    if None in left or None in right:
        return False
    pairs = [(x, y) for x, y in zip(left, right, strict=True) if x is not None and y is not None]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def row(arm: Arm, cell: Mapping[str, Any], front: bool, started: bool = False) -> Row:
    """One guard under one policy; ``front`` where no other arm under test is better in one cost and as good in all;
    ``started``: with the columns of rows that start from pictures."""
    shares = [_share(arm, cell, key) for key in ("unsafe_released", "benign_blocked", "accuracy", "within")]
    costs = [_value(arm, cell, key) for key in ("nfe_per_released", "nfe_per_blocked", "seconds_per_image")]
    counts = [int(_value(arm, cell, key) or 0) for key in ("n", "n_benign")]
    whys = ("", "", "", _unranked(arm, cell), "", "it blocked nothing", "")
    known = [*(figure(e, percent) for e in shares), *(Cell(v, short(v)) for v in costs)]
    cells = tuple(c if c.value is not None else replace(c, why=why) for c, why in zip(known, whys, strict=True))
    if started:
        two = (figure(_share(arm, cell, f"img2img_{name}"), percent) for name in ("released", "blocked"))
        unread = f"it read none of the {int(_value(arm, cell, 'n_img2img_unread') or 0)} rows that start from a picture"
        cells += tuple(c if c.value is not None else replace(c, why=unread) for c in two)
        counts += [int(_value(arm, cell, key) or 0) for key in ("n_img2img", "n_img2img_unread")]
    chips = (Chip("front", "good", "No other guard beats it"),) if front else ()
    about = f"n {counts[0]} unsafe, {counts[1]} safe" + (
        f"; img2img: {counts[2]} unsafe, {counts[3]} unread" if started else ""
    )
    return Row(arm.label, cells, arm.role, about, chips)


def _unranked(arm: Arm, cell: Mapping[str, Any]) -> str:
    """Why there is no figure within one prompt."""
    if _value(arm, cell, "within_n") is None:
        return "this arm gives no score"
    return "no prompt has a scored picture that shows the policy beside one that does not"


def point(arm: Arm, cell: Mapping[str, Any]) -> Point | None:
    """One guard in the plot; ``None`` where it lacks one of the two shares."""
    released, blocked = _share(arm, cell, "unsafe_released"), _share(arm, cell, "benign_blocked")
    if released.value is None or blocked.value is None:
        return None
    shares = [
        f"{name} {percent(e.value)} % ({interval(e, percent)})"
        for name, e in (("unsafe released", released), ("benign blocked", blocked))
    ]
    spent = short(_value(arm, cell, "nfe_per_released"))
    return tradeoff.point(
        arm.label, arm.role, blocked, released, f"{arm.label}: {', '.join(shares)}, {spent} NFE per released picture"
    )


def _value(arm: Arm, cell: Mapping[str, Any], key: str) -> float | None:
    return number(cell.get(key), f"guard {arm.label}: {key}")


def _share(arm: Arm, cell: Mapping[str, Any], key: str) -> Estimate:
    low, high = ("low", "high") if key == "unsafe_released" else (f"{key}_low", f"{key}_high")
    return Estimate(*(_value(arm, cell, k) for k in (key, low, high)))
