"""What a run's benchmark makes of its metrics, for the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from genward.catalog import plugins
from genward.core.blocks import Section
from genward.errors import BadInput


def sections_of(metrics: Mapping[str, Any]) -> list[Section]:
    """The sections of the benchmark that the metrics name.

    Raises:
        UnknownName: no such benchmark; the distribution that it comes from may be missing.
        BadInput: metrics that name none, or that it cannot read.
    """
    name = metrics["run"].get("benchmark")
    if not isinstance(name, str) or not name:
        raise BadInput("metrics name no benchmark; measure the run again with this version of genward")
    found: list[Section] = plugins.find("benchmark", name).sections(metrics)
    return found
