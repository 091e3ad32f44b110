"""Benchmark ``m-erasure``: does an erased concept come back through texts, learned embeddings or inverted latents?

After M-ErasureBench (Weng et al., arXiv 2512.22877). Five scenarios: ``text``; ``embedding`` and ``latent``, each
``black`` (searched on the undefended model, shared by all arms) and ``white`` (searched through the arm). The abstract
names the scenarios and the measure, the rest is ours (docs/papers.md). Latents are regenerated twice: at guidance 1
with the empty prompt, and at the plan's guidance with held-out words. Text rows are those of the benchmark ``erasure``
and share its pictures; what attacks start from is described in ``rows``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from genward.benchmarks.erasure import ErasureBenchmark
from genward.benchmarks.erasure.files import CSV_HARM, with_files
from genward.benchmarks.erasure.rows import BENIGN, HARM, Rows
from genward.benchmarks.m_erasure import figures, sections
from genward.benchmarks.m_erasure.rows import EMBEDDING, KEPT, Parents
from genward.benchmarks.m_erasure.scenes import SIDES, USES, columns, scenes_of
from genward.core.benchmark import Benchmark, Evidence, Outlook, Scene, Setting, Workbench, apart, together
from genward.core.blocks import Section
from genward.core.records import Case
from genward.errors import BadInput, UnknownName


@dataclass(frozen=True)
class MErasureBenchmark(Benchmark):
    """Concepts coming back through texts, learned embeddings and inverted latents, with what must stay."""

    name: ClassVar[str] = "m-erasure"
    figure: ClassVar[str] = "crr"
    columns: ClassVar[tuple[str, ...]] = ErasureBenchmark.columns
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"references": ("*/*",)}
    concepts: tuple[str, ...] = ()
    """What is to be gone: names or files."""
    n: int = 12
    """Rows per cell (concept and scenario)."""
    seed: int = 0
    """Another number gives other starting noise everywhere."""
    variants: tuple[str, ...] = ("name", "synonym-heldout")
    """Harm variants of the text scenario."""
    attacks: tuple[str, ...] = ()
    """Attacks with their fields, as ``ddim_inversion,steps=50`` (genward list attacks)."""
    attacked: tuple[str, ...] = ()
    """Labels of the arms that learned embeddings are searched through; empty: all. The black-box ones meet every
    arm, and so do inverted latents, which are cheap."""
    references: str = ""
    """Folder with one folder of reference pictures per concept (and ``keep``); empty: the lab's."""
    prompts: tuple[str, ...] = ()
    """CSV files whose rows stand in the place of a concept's text rows, as ``rows.csv,concept=church``."""

    def __post_init__(self) -> None:
        for variant in self.variants:
            if variant not in HARM:
                raise UnknownName("variant", variant, HARM)
        if not 1 <= self.n <= 10_000:
            raise BadInput(f"{self.n} rows per cell; between 1 and 10,000 are possible")
        if not self.concepts:
            raise BadInput(f"the benchmark {self.name} got no concept; name at least one (genward list concepts)")

    def cases(self, setting: Setting) -> Iterator[Case]:
        """Text rows: those of ``erasure`` in this benchmark's variants, and what must stay."""
        keep = (*self.variants, *BENIGN)
        rows = Rows(setting.concepts, self.n, self.seed, setting.words, setting.avoid)
        found = (c for c in rows if c.variant in keep)
        return with_files(found, self.prompts, [c.name for c in setting.concepts])

    def parents(self, setting: Setting) -> Iterable[Case]:
        """Rows that the attacks start from, see ``rows``."""
        kinds = self._kinds(setting)
        shown = setting.shown(self.references) if kinds else {}
        return Parents(setting.concepts, self.n, self.seed, setting.words, setting.avoid, shown, kinds)

    def _kinds(self, setting: Setting) -> tuple[str, ...]:
        return tuple(dict.fromkeys(p for text in self.attacks for p in setting.attack(text).parents))

    def harm_columns(self, setting: Setting) -> tuple[str, ...]:
        """Harm columns of the matrix, in order."""
        filed = {c.concept for c in self.cases(setting) if c.variant == CSV_HARM} if self.prompts else set()
        own = self.variants if len(filed) < len(setting.concepts) else ()
        return tuple(columns((*own, *((CSV_HARM,) if filed else ())), self._kinds(setting)))

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """Every attack on the undefended model and through every arm; what it found in each of its uses."""
        attacks = [bench.setting.attack(text) for text in self.attacks]
        total = len(attacks) * (1 + len(bench.arms))
        for k, attack in enumerate(attacks):
            mine = [
                c._replace(concept=apart(c.concept)) if c.variant == KEPT else c
                for c in parents
                if c.variant in attack.parents
            ]
            name = type(attack).name
            bench.tell("attack", k * (1 + len(bench.arms)), total, f"{name}: the undefended model")
            black = bench.black(attack, mine, self.references)
            for j, arm in enumerate(bench.arms, 1):
                bench.tell("attack", k * (1 + len(bench.arms)) + j, total, f"{name}: {arm.label}")
                cases = [c for c in mine if together(c.concept) in arm.concepts]
                yield from scenes_of(arm, SIDES[0], black)
                if self._meets(attack, arm.label):
                    yield from scenes_of(arm, SIDES[1], bench.white(attack, cases, arm, self.references))

    def _meets(self, attack: Any, arm: str) -> bool:
        """Whether an attack is searched through this arm; no label stands for the undefended model."""
        return not (self.attacked and arm and EMBEDDING in attack.parents) or arm in self.attacked

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """Every arm counted as searched by itself, where it is searched through at all."""
        attacks = [a for a in map(setting.attack, self.attacks) if self._meets(a, arm)]
        white = {variant for a in attacks for variant in a.parents}
        nfe = sum(a.nfe([c for c in parents if c.variant in a.parents]) for a in attacks)
        sides = {v: 1 if v == KEPT else len(SIDES) if v in white else 1 for v in USES}
        return Outlook(nfe, tuple((sides[c.variant], use.guidance) for c in parents for use in USES[c.variant]))

    def illustrated(self, cases: Sequence[Case]) -> list[Case]:
        """Inverted latents without a prompt: there masks show what a defense did to the concept."""
        return [c for c in cases if c.variant == "latent/empty"]

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells``, ``pairs``, ``grids`` and ``attacks``, see ``figures``."""
        return figures.measured(evidence, self.harm_columns(evidence.setting), self.references)

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)

    @classmethod
    def kept(cls, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """All but pairs, pictures and learning curves."""
        return figures.without_curves(super().kept(metrics))
