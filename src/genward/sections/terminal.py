"""An erasure-like run as rows of text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from genward.sections.arms import Metrics
from genward.sections.cells import MEASURES, VARIANTS, Grid
from genward.sections.numbers import DASH, Estimate, duration, short


def _plain(e: Estimate, show: Callable[[float | None], str]) -> str:
    return show(e.value) + (f" [{show(e.low)}, {show(e.high)}]" if e.value is not None and e.half is not None else "")


def summary_rows(metrics: Metrics) -> list[list[str]]:
    """The run as rows of text for a terminal: a header, then one row per arm and concept.

    Columns: concept, arm, each variant's CRR with its interval (shares from 0 to 1, as in the JSON), retention, drift,
    frechet, s/image, extra NFE, prepare. Controls carry a ``*``.

    Raises:
        BadInput: metrics of another schema.
    """
    grid = Grid(metrics)
    every = list(dict.fromkeys(w for c in grid.concepts for w in grid.variants(c)))
    variants = [w for w in VARIANTS if w in every] + [w for w in every if w not in VARIANTS]
    table = [["concept", "arm", *variants, "retention", "drift", "frechet", "s/image", "extra NFE", "prepare"]]

    def share(v: float | None) -> str:
        return DASH if v is None else f"{v:.2f}"

    for concept in grid.concepts:
        for arm in grid.arms:
            if not grid.cells(arm.label, concept):
                continue
            row = [concept, arm.label + (" *" if arm.control else "")]
            row += [_plain(grid.residual(arm.label, concept, w), share) for w in variants]
            row.append(_plain(grid.measure(arm.label, concept, "retention"), share))
            row += [short(grid.measure(arm.label, concept, m).value) for m in MEASURES[1:]]
            table.append([*row, duration(grid.prepare(arm, concept))])
    return table


def text_table(metrics: Metrics) -> str:
    """``summary_rows`` as aligned plain text, first row underlined, without a trailing newline."""
    return align(summary_rows(metrics))


def align(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text in columns two spaces apart, the first row underlined."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]

    def line(row: Iterable[str]) -> str:
        return "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()

    return "\n".join([line(rows[0]), "  ".join("-" * w for w in widths), *map(line, rows[1:])])
