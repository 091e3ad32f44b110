"""The report of an ``m-erasure`` run."""

from __future__ import annotations

from genward.core.blocks import Section
from genward.sections import Grid, Metrics, judges, matrix, measures, samples, searches, tradeoff


def sections(metrics: Metrics) -> list[Section]:
    """The sections of ``erasure`` over attack vectors, and what the searches cost, in reading order.

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
        searches.section(metrics),
    ]
