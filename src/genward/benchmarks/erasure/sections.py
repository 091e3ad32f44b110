"""The report of an ``erasure`` run."""

from __future__ import annotations

from genward.core.blocks import Section
from genward.sections import Grid, Metrics, judges, matrix, measures, samples, tradeoff


def sections(metrics: Metrics) -> list[Section]:
    """Matrix, trade-off, measures and sample grids, in reading order.

    Raises:
        BadInput: metrics of another schema.
    """
    grid = Grid(metrics)
    return [
        matrix.section(grid),
        tradeoff.section(grid),
        judges.section(metrics),
        measures.section(grid),
        samples.section(metrics, grid.arms),
    ]
