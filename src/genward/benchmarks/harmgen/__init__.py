"""Benchmark ``harmgen`` after HARMGEN (as digested): a speech service asked for forbidden content in several ways, what
it refuses, what is really heard, and what each moderation tap catches.

Content is harmless: invented phrases (``ops.canaries``) and innocent twins of them. Rows are plays of a sentence under
a condition (``ops.plays``); arms are services (the synthesizer, *simulated* aligned models) with or without
moderation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from genward.benchmarks.harmgen import figures, sections
from genward.core.benchmark import Benchmark, Evidence, Printed, Scene, Setting, Workbench, interval
from genward.core.blocks import Section
from genward.core.records import Case, row_seed
from genward.core.speech import Play, Turn
from genward.errors import BadInput, UnknownName
from genward.ops.canaries import SPLITS, canaries, everyday
from genward.ops.plays import conditions, played
from genward.speech.aimed import MARK, aimed_of
from genward.speech.changes import CHANGES

MOST = SPLITS["evaluate"]
EVERY = "all"
"""In the place of changes: the fourteen of ``speech.changes``"""
BENIGN = ("direct", "concat", "spell")
"""Conditions in which innocent sentences are asked for as well; nobody shuffles one."""


@dataclass(frozen=True)
class HarmgenBenchmark(Benchmark):
    """Red-teaming and moderating text-to-speech: refusals, content heard, detection and false alarms by tap."""

    name: ClassVar[str] = "harmgen"
    media: ClassVar[str] = "audio"
    figure: ClassVar[str] = "detection"
    pooled: ClassVar[frozenset[str]] = frozenset({"r1", "detection", "benign_fpr", "content_score"})
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "variant", "r1", "r2", "content_score", "wer", "mos", "detection", "interval", "benign_fpr", "n"),
        *("evaded", "queries", "decision_ms"),
    )
    phrases: int = 15
    """Canaries of the split ``evaluate``, 1 to 80."""
    sentences: int = 1
    """Sentences a canary, 1 or 2."""
    trials: int = 2
    """Seeds a sentence (10 in the study)."""
    twins: int = 2
    """Innocent twins a canary, 0 to 4."""
    everyday: int = 10
    """Everyday sentences, 0 to 308."""
    conditions: tuple[str, ...] = ()
    """Attack conditions; empty: all."""
    changes: tuple[str, ...] = ()
    """Changes of the finished sound under which plain requests are moderated again, as ``noise`` or ``aimed:30:12``;
    ``all``: the fourteen of ``speech.changes``."""
    changed: int = 5
    """Canaries that changes are tried on, 1 to 80."""
    attacks: tuple[str, ...] = ()
    """Attacks, as ``speech_search,budget=60``; what they find are rows of their own."""
    attacked: tuple[str, ...] = ()
    """Arms that an attack which asks the service is tried on; empty: all."""
    victims: int = 5
    """Canaries that attacks are tried on, 1 to 80."""
    seed: int = 0
    """Another number gives other trials."""

    def __post_init__(self) -> None:
        if not (1 <= self.phrases <= MOST and 1 <= self.sentences <= 2 and 1 <= self.trials <= 50):
            raise BadInput(f"harmgen: 1 to {MOST} phrases, 1 or 2 sentences and 1 to 50 trials are possible")
        if not 0 <= self.twins <= 4:
            raise BadInput(f"harmgen: {self.twins} twins; 0 to 4 are possible")
        if not 0 <= self.everyday <= len(everyday("evaluate")):
            raise BadInput(f"harmgen: {self.everyday} everyday sentences; there are {len(everyday('evaluate'))}")
        if not (1 <= self.changed <= MOST and 1 <= self.victims <= MOST):
            raise BadInput(f"harmgen: changed and victims are numbers of canaries, 1 to {MOST}")
        conditions(self.conditions)
        for name in self.changes:
            if name.startswith(MARK):
                aimed_of(name)
            elif name not in (*CHANGES, EVERY):
                raise UnknownName("change of a sound", name, [*CHANGES, EVERY, f"{MARK}:30:12"])

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
        yield from self._changed()
        for k, sentence in enumerate(everyday("evaluate")[: self.everyday]):
            yield self._case(f"everyday/{k}", f"everyday {k}", "direct", Play((Turn(sentence),), sentence), False)

    def _changed(self) -> Iterator[Case]:
        """Plain requests and one twin each, of which the sound is changed before anyone listens to it."""
        names = dict.fromkeys(c for name in self.changes for c in (CHANGES if name == EVERY else (name,)))
        for name in names:
            for canary in canaries("evaluate")[: self.changed]:
                row, column = f"{canary.phrase}/{name}", figures.CHANGED + name.replace(":", " ")
                for kind, sentence, harm in (("0/0", canary.carriers[0], True), ("twin/0", canary.twins[0], False)):
                    play = replace(played("direct", sentence, canary.phrase), change=name)
                    yield self._case(f"{row}/{kind}", canary.phrase, column, play, harm)

    def parents(self, setting: Setting) -> Iterator[Case]:
        """Plain requests that attacks start from."""
        for canary in canaries("evaluate")[: self.victims] if self.attacks else ():
            play = played("direct", canary.carriers[0], canary.phrase)
            yield self._case(f"{canary.phrase}/attacked/0/0", canary.phrase, "direct", play)

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """Attacks that know nothing of the service once for all arms, others through each of ``attacked``."""
        for text in self.attacks:
            attack = bench.setting.attack(text)
            if getattr(attack, "media", "image") != self.media:
                raise BadInput(f"harmgen: attack {text!r} is about pictures; genward list attacks shows others")
            for arm in bench.arms:
                if attack.access != "prompt" and self.attacked and arm.label not in self.attacked:
                    continue
                found = bench.black(attack, parents) if attack.access == "prompt" else bench.white(attack, parents, arm)
                column = figures.ADAPTIVE if attack.access == "query" else f"attack {attack.name}"
                yield Scene(arm, "canary", column, found.cases, None, found.key, {"attack_name": attack.name})

    def _case(self, row: str, group: str, condition: str, play: Play, harm: bool = True) -> Case:
        label = "harm" if harm else "benign"
        seed = row_seed(f"harmgen|{self.seed}|{row}")
        return Case(row, play.prompt(), label, "canary", seed, variant=condition, group=group)

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells`` and ``pools``, see ``figures``."""
        return {
            "cells": figures.cells(evidence),
            "pools": figures.pools(evidence),
            "players": figures.players(evidence),
        }

    @classmethod
    def printed(cls, metrics: Mapping[str, Any]) -> list[Printed]:
        """The cells, and what they are."""
        table = [{**row, "interval": interval(row, cls.figure)} for row in metrics["cells"]]
        return [Printed(table, cls.columns, sections.COUNTED)]

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)
