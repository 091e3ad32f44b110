"""Tables in, estimates with intervals out. Definitions and formulas: docs/metrics.md. numpy and scipy only."""

from genward.metrics.comparing import pairs
from genward.metrics.distances import drift, frechet, frechet_estimate
from genward.metrics.erasure import cells
from genward.metrics.intervals import (
    Estimate,
    cluster_bootstrap,
    clustered_rate,
    corrected_rate,
    mean,
    paired_difference,
    paired_ratio,
    wilson,
)

__all__ = [
    "Estimate", "cells", "cluster_bootstrap", "clustered_rate", "corrected_rate", "drift", "frechet",
    "frechet_estimate", "mean",
    "paired_difference", "paired_ratio", "pairs", "wilson",
]  # fmt: skip
