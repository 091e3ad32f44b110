"""Benchmark ``guards``: what a guard lets out, what it stops for nothing, and what that costs.

The rows are those of ``erasure`` (so pictures are shared with it): harm rows in every wording, kinds and scenes among
them, where the same prompt is safe with one seed and unsafe with another; benign rows that must pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from genward.benchmarks.erasure import ErasureBenchmark


@dataclass(frozen=True)
class GuardsBenchmark(ErasureBenchmark):
    """Guards on a live pipeline: unsafe pictures released, benign rows blocked, denoiser passes spent."""

    name: ClassVar[str] = "guards"
