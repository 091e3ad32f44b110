"""Benchmark ``erasure``: is a concept gone in every variant of a prompt, and is everything else still there?

The rows are described in ``rows``, the figures in ``metrics.erasure``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from genward.benchmarks.erasure import sections
from genward.benchmarks.erasure.files import with_files
from genward.benchmarks.erasure.rows import Rows
from genward.core.benchmark import Benchmark, Evidence, Setting
from genward.core.blocks import Section
from genward.core.records import Case
from genward.errors import BadInput
from genward.metrics import erasure
from genward.metrics.judge_errors import with_judges
from genward.metrics.pooling import compared


@dataclass(frozen=True)
class ErasureBenchmark(Benchmark):
    """Erasure of concepts in all variants of a prompt and in scenes, with what must stay."""

    name: ClassVar[str] = "erasure"
    figure: ClassVar[str] = "crr"
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "concept", "variant", "crr", "interval", "crr_raw", "second", "agreement", "n", "n_unscored"),
        *("retention", "drift", "frechet"),
        *("seconds_per_image", "extra_nfe"),
    )
    concepts: tuple[str, ...] = ()
    """What is to be gone: names or files."""
    n: int = 12
    """Rows per cell (concept and variant)."""
    seed: int = 0
    """Another number gives other starting noise everywhere."""
    prompts: tuple[str, ...] = ()
    """CSV files whose rows stand in the place of a concept's own, as ``rows.csv,concept=church,harm=object:church``."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 10_000:
            raise BadInput(f"{self.n} rows per cell; between 1 and 10,000 are possible")
        if not self.concepts:
            raise BadInput(f"the benchmark {self.name} got no concept; name at least one (genward list concepts)")

    def cases(self, setting: Setting) -> Iterator[Case]:
        """See ``rows``; those of concepts that have CSV files are replaced by the files' rows."""
        rows = Rows(setting.concepts, self.n, self.seed, setting.words, setting.avoid)
        return with_files(rows, self.prompts, [c.name for c in setting.concepts])

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells`` and ``pairs`` of ``metrics.erasure``, and sample ``grids``."""
        shared: dict[str, Any] = {
            "arms": evidence.arms,
            "base": evidence.base,
            "concepts": evidence.concepts,
            "card": evidence.card,
        }
        given = (evidence.rows, evidence.scores, evidence.features)
        cells = erasure.cells(*given, **shared, prepare=evidence.prepare)
        found = with_judges(evidence, cells, compared=partial(compared, evidence, evidence.rows))
        return {**found, "grids": evidence.strips()}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)
