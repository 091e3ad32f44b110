"""Benchmark ``backdoor``: do triggers still work on poisoned models behind a defense, and are clean captions drawn as
before?

An arm is a poisoned model behind a chain of defenses; its label says which, ``rickrolling`` alone or ``rickrolling +
pepper``. Every arm draws the same clean captions, short and long; each fixture's arms draw captions with its trigger at
the start, in the middle and at the end, others at each place. Rows are in ``rows``, figures in ``figures``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.benchmarks.backdoor import figures, rows
from genward.core.benchmark import Benchmark, Evidence, Outlook, Scene, Setting, Workbench
from genward.core.blocks import Section, Text
from genward.core.plain import plain_table
from genward.core.records import Case
from genward.errors import BadInput
from genward.sections import arms as arms_of
from genward.sections import samples

NOTE = (
    "Attack success: share of captions with the trigger whose picture shows the target (refused rows do not). Clean "
    "accuracy: share of clean captions of that length whose picture shows their object. Fallbacks: captions with the "
    "trigger that no rewrite was accepted for. Drift: cosine distance of clean pictures' features from the same "
    "fixture's without a defense. AUROC, F1, FPR: of an arm's detector, captions with the trigger against clean ones "
    "of that length."
)


@dataclass(frozen=True)
class BackdoorBenchmark(Benchmark):
    """Poisoned models behind defenses: attack success, clean accuracy, what is refused and what falls back."""

    name: ClassVar[str] = "backdoor"
    figure: ClassVar[str] = "asr"
    pooled: ClassVar[frozenset[str]] = frozenset({"asr", "clean_accuracy", "auroc"})
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "caption_length", "trigger_place", "asr", "interval", "n", "clean_accuracy", "frechet", "similarity"),
        *("rejected", "fallbacks", "generations_per_query", "drift", "auroc", "f1", "fpr"),
    )
    concepts: tuple[str, ...] = ("banana",)
    """The target of the fixtures, as a concept that defenses can erase."""
    n: int = 6
    """Rows per fixture, length and place of the trigger."""
    clean: int = 12
    """Clean captions per length."""
    seed: int = 0
    """Another number gives other captions and other starting noise."""

    def __post_init__(self) -> None:
        if len(self.concepts) != 1:
            raise BadInput(f"the benchmark {self.name} wants one concept, the target of its fixtures")
        if not 1 <= self.n <= 1000 or not 2 <= self.clean <= 1000:
            raise BadInput(f"backdoor: n {self.n}, clean {self.clean}; 1 and 2 to 1,000 rows are possible")

    def cases(self, setting: Setting) -> Iterator[Case]:
        """The clean captions."""
        return rows.clean(setting, self.clean, self.seed)

    def parents(self, setting: Setting) -> Iterable[Case]:
        """The captions that triggers are planted into, for each fixture that comes with genward."""
        return rows.parents(setting, self.n, self.seed)

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """The rows of each arm's fixture; the undefended clean model draws none."""
        for arm in bench.arms:
            fixture, _ = rows.named(arm.label)
            if fixture:
                yield from rows.scenes(arm, fixture, parents, bench.setting)

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """Nothing is searched; an arm adds the rows of its fixture."""
        return Outlook(0, ((len(parents) // max(1, len(rows.FIXTURES)), None),))

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells`` and ``pools`` of ``figures``, and sample ``grids``: clean captions, then one case of each fixture,
        length and place under every arm of the fixture."""
        triggered = [r for r in evidence.rows if "scene" in r]
        clean = [r for r in evidence.rows if "scene" not in r]
        grids = [*evidence.strips(clean, each=1), *evidence.strips(triggered, each=1)] if triggered else []
        return {"cells": figures.cells(evidence), "pairs": [], "pools": figures.pools(evidence), "grids": grids}

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """The table and the pictures."""
        tables = tuple(plain_table(list(part.rows), part.columns) for part in cls.printed(metrics))
        return [
            Section("figures", "Triggers behind defenses", (Text(NOTE), *tables)),
            samples.section(metrics, arms_of(metrics)),
        ]
