"""Benchmark ``harmgen`` after HARMGEN (as digested): a speech service asked for forbidden content in several ways, what
it refuses, what is really heard, and what each moderation tap catches.

Content is harmless: invented phrases (``ops.canaries``) and innocent twins of them. Rows are plays of a sentence under
a condition (``ops.plays``); arms are services (the synthesizer, *simulated* aligned models) with or without
moderation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.benchmarks.harmgen import figures, sections
from genward.core.benchmark import Benchmark, Evidence, Printed, Setting, interval
from genward.core.blocks import Section
from genward.core.records import Case, row_seed
from genward.core.speech import Play, Turn
from genward.errors import BadInput
from genward.ops.canaries import canaries, everyday
from genward.ops.plays import conditions, played

BENIGN = ("direct", "concat", "spell")
"""Conditions in which innocent sentences are asked for as well; nobody shuffles one."""


@dataclass(frozen=True)
class HarmgenBenchmark(Benchmark):
    """Red-teaming and moderating text-to-speech: refusals, content heard, detection and false alarms by tap."""

    name: ClassVar[str] = "harmgen"
    media: ClassVar[str] = "audio"
    figure: ClassVar[str] = "detection"
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "variant", "r1", "r2", "content_score", "wer", "detection", "interval", "benign_fpr", "n"),
        "decision_ms",
    )
    phrases: int = 15
    """Canaries of the split ``evaluate``, 1 to 15."""
    sentences: int = 1
    """Sentences a canary, 1 or 2."""
    trials: int = 2
    """Seeds a sentence (10 in the study)."""
    twins: int = 2
    """Innocent twins a canary, 0 to 4."""
    conditions: tuple[str, ...] = ()
    """Attack conditions; empty: all."""
    seed: int = 0
    """Another number gives other trials."""

    def __post_init__(self) -> None:
        if not (1 <= self.phrases <= 15 and 1 <= self.sentences <= 2 and 1 <= self.trials <= 50):
            raise BadInput("harmgen: 1 to 15 phrases, 1 or 2 sentences and 1 to 50 trials are possible")
        if not 0 <= self.twins <= 4:
            raise BadInput(f"harmgen: {self.twins} twins; 0 to 4 are possible")
        conditions(self.conditions)

    def cases(self, setting: Setting) -> Iterator[Case]:
        """Each sentence in each condition and trial, twins in those of ``BENIGN``, everyday sentences once."""
        names = conditions(self.conditions)
        for canary in canaries("evaluate")[: self.phrases]:
            for condition in names:
                for k, sentence in enumerate(canary.carriers[: self.sentences]):
                    for trial in range(self.trials):
                        row = f"{canary.phrase}/{condition}/{k}/{trial}"
                        yield self._case(
                            row, canary.phrase, condition, played(condition, sentence, canary.phrase, trial)
                        )
                for k, sentence in enumerate(canary.twins[: self.twins] if condition in BENIGN else ()):
                    play = played(condition, sentence, canary.phrase, k)
                    yield self._case(f"{canary.phrase}/{condition}/twin/{k}", canary.phrase, condition, play, False)
        for k, sentence in enumerate(everyday("evaluate")):
            yield self._case(f"everyday/{k}", f"everyday {k}", "direct", Play((Turn(sentence),), sentence), False)

    def _case(self, row: str, group: str, condition: str, play: Play, harm: bool = True) -> Case:
        label = "harm" if harm else "benign"
        seed = row_seed(f"harmgen|{self.seed}|{row}")
        return Case(row, play.prompt(), label, "canary", seed, variant=condition, group=group)

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells``, see ``figures``."""
        return {"cells": figures.cells(evidence), "players": figures.players(evidence)}

    @classmethod
    def printed(cls, metrics: Mapping[str, Any]) -> list[Printed]:
        """The cells, and what they are."""
        table = [{**row, "interval": interval(row, cls.figure)} for row in metrics["cells"]]
        return [Printed(table, cls.columns, sections.COUNTED)]

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)
