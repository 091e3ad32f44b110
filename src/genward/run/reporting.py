"""What a run's benchmark makes of its metrics, for the report."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from genward.core.blocks import Section
from genward.errors import UnknownName
from genward.sections import Metrics

BENCHMARKS = {
    "erasure": "genward.benchmarks._sections.erasure",
    "guards": "genward.benchmarks._sections.guards",
    "m-erasure": "genward.benchmarks._sections.m_erasure",
}


def sections_of(metrics: Metrics) -> list[Section]:
    """The sections of the benchmark that the metrics name.

    Raises:
        UnknownName: no such benchmark.
        BadInput: metrics that it cannot read.
    """
    name = str(metrics["run"].get("benchmark", ""))
    if name not in BENCHMARKS:
        raise UnknownName("benchmark with a report", name, BENCHMARKS)
    module: Any = import_module(BENCHMARKS[name])
    found: list[Section] = module.sections(metrics)
    return found
