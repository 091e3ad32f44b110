"""From a run's metrics to a report's blocks: what benchmarks share. The modules named like a part of the page have a
``section``; a benchmark puts those it wants in order, with its own between them."""

from genward.sections import judges, matrix, measures, samples, searches, tradeoff
from genward.sections.arms import Arm, Metrics, arms
from genward.sections.cells import Grid
from genward.sections.numbers import Estimate

__all__ = [
    "Arm",
    "Estimate",
    "Grid",
    "Metrics",
    "arms",
    "judges",
    "matrix",
    "measures",
    "samples",
    "searches",
    "tradeoff",
]
