"""Benchmark ``guards``: what a guard lets out, what it stops for nothing, and what that costs.

The rows are those of ``erasure`` (so pictures are shared with it): harm rows in every variant, kinds and scenes among
them, where the same prompt is safe with one seed and unsafe with another; benign rows that must pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.benchmarks.erasure import ErasureBenchmark
from genward.benchmarks.guards import sections
from genward.core.benchmark import Evidence
from genward.core.blocks import Section
from genward.metrics.guarding import guard_cells, guard_pairs


@dataclass(frozen=True)
class GuardsBenchmark(ErasureBenchmark):
    """Guards on a live pipeline: unsafe pictures released, benign rows blocked, denoiser rows spent."""

    name: ClassVar[str] = "guards"
    table: ClassVar[str] = "guards"
    figure: ClassVar[str] = ""
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "policy", "unsafe_released", "interval", "n", "benign_blocked", "n_benign", "accuracy"),
        *("nfe_per_released", "nfe_per_blocked", "seconds_per_image"),
    )

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """What ``erasure`` measures, with the section ``guards``: cells of ``metrics.guarding.guard_cells``."""
        shared: dict[str, Any] = {
            "arms": evidence.arms,
            "base": evidence.base,
            "concepts": evidence.concepts,
            "card": evidence.card,
        }
        found = super().measure(evidence)
        more = guard_pairs(evidence.rows, evidence.scores, **shared, compare=evidence.compare)
        cells = guard_cells(evidence.rows, evidence.scores, **shared)
        return {**found, "guards": cells, "pairs": [*found["pairs"], *more]}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)
