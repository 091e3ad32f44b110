"""The report of a ``canvas`` run: figures by request, the matrix of earlier targets, and what papers print, apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from genward.benchmarks.canvas.published import PUBLISHED
from genward.core.benchmark import interval
from genward.core.blocks import Block, Cell, Column, Row, Section, Table, Text
from genward.core.plain import plain_table
from genward.sections import arms as arms_of
from genward.sections import samples

COUNTED = (
    "UA: share of pictures of the target that show another class; IRA: accuracy on the other classes of its domain, "
    "those erased with it left out; CRA: accuracy in the other domain over all pictures, cra_without leaves the erased "
    "ones out. Each n is the figure's denominator; the likeliest class is the answer, refused pictures show none. "
    "Counting rules: canvas-1."
)
BESIDE = (
    "artifacts: pictures in which the judge sees none of the objects; locality: two-object scenes that still show the "
    "other object, to be read beside the base arm's; frechet: what must stay from the undefended model's pictures, in "
    "the judge's features, and so no number to compare with a published FID. peak_bytes: of memory while the arm drew, "
    "the whole process."
)
CHAINED = (
    "Arms that were asked for several concepts. For edits of activations a sequence is the union of the edits, "
    "whatever its order; weight erasers start each step from the weights of the one before. RA: mean of IRA and CRA."
)
PAPERS = (
    "Printed by the papers for Stable Diffusion 1.5 tuned on UnlearnCanvas; other pictures, other classifiers, so no "
    "row stands beside one above. SAeUron's row is the one of its own paper, PER's are of its page."
)


def sections(metrics: Mapping[str, Any], columns: Sequence[str]) -> list[Section]:
    """In reading order."""
    cells = list(metrics["cells"])
    table = plain_table([{**c, "interval": interval(c, "ua")} for c in cells], columns)
    blocks: list[Block] = [Text(COUNTED), table, Text(BESIDE)]
    hit = [
        {"arm": c["arm"], "concept": c["concept"], "attack": name, "ua_attacked": a["ua"], "n": a["n"], "ua": c["ua"]}
        for c in cells
        for name, a in (c.get("attacks") or {}).items()
    ]
    if hit:
        blocks += [Text("What attacks through each arm bring back: UA before and after."), plain_table(hit)]
    out = [Section("figures", "Erasing on every object and style", tuple(blocks), short="Requests")]
    chained = metrics.get("earlier") or []
    if chained:
        out.append(Section("earlier", "Several concepts: earlier targets", (Text(CHAINED), matrix(chained))))
    out.append(Section("paper", "paper (SD 1.5)", (Text(PAPERS), papers())))
    return [*out, samples.section(metrics, arms_of(metrics))]


def _share(value: Any) -> Cell | None:
    return None if value is None else Cell(float(value), f"{100 * float(value):.0f} %")


def matrix(rows: Sequence[Mapping[str, Any]]) -> Table:
    """UA of every target under each arm of several concepts."""
    names = list(dict.fromkeys(c for row in rows for c in row["ua"]))
    heads = [Column("arm", "text"), Column("request", "text"), Column("concepts"), Column("RA", better="more")]
    heads += [Column(f"UA {name}", better="more") for name in names]
    made = [
        Row(
            str(row["arm"]),
            (
                Cell(row["request"], str(row["request"])),
                Cell(row["n_concepts"], str(row["n_concepts"])),
                _share(row["ra"]),
                *(_share(row["ua"].get(name)) for name in names),
            ),
        )
        for row in rows
    ]
    return Table(tuple(heads), tuple(made), label="UA of each target")


def papers() -> Table:
    """The published figures."""
    heads = (Column("method", "text"), Column("task", "text"), Column("UA"), Column("IRA"), Column("CRA"))
    made = [
        Row(
            p.method,
            (Cell(p.task, p.task), *(Cell(v, f"{v:.2f}") for v in (p.ua, p.ira, p.cra)), Cell(p.source, p.source)),
        )
        for p in PUBLISHED
    ]
    return Table((*heads, Column("source", "text")), tuple(made), title="paper (SD 1.5)")
