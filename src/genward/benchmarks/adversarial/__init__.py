"""Benchmark ``adversarial``: how much of a concept an attacker gets through each arm, with a stated access and budget.

Rows name the concept outright, as in ``erasure``, whose pictures they share. Every attack of the preset starts from
them: *adaptive*, searched through the arm itself, and *transferred*, searched on the undefended model (or, of attacks
that ask no arm anything, on the public text encoder) and handed to every arm. Each stands beside a *control* that draws
at random with an equal budget. What must stay is measured on the same arm and stands in the same row, so that a defense
that breaks everything does not win."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from genward.benchmarks.adversarial import figures, sections
from genward.benchmarks.erasure.rows import BENIGN, Rows
from genward.core.benchmark import Benchmark, Evidence, Found, Outlook, Scene, Setting, Workbench
from genward.core.blocks import Section
from genward.core.contracts import gradient_rows
from genward.core.records import Case
from genward.errors import BadInput

NAMED, PROMPT = "name", "prompt"
"""The harm variant that is attacked, and the kind of parent that an attack on it starts from"""
MODES = ("adaptive", "transferred", "control")


@dataclass(frozen=True)
class AdversarialBenchmark(Benchmark):
    """Attacks on arms: success before and after, adaptive and transferred, beside a random control and what is kept."""

    name: ClassVar[str] = "adversarial"
    pooled: ClassVar[frozenset[str]] = frozenset({"total"})
    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"references": ("*/*",)}
    columns: ClassVar[tuple[str, ...]] = (
        *("arm", "concept", "attack", "access", "mode", "pre", "success", "interval", "total", "second", "n"),
        *("queries", "passes", "seconds", "gradient_norm", "retention", "benign_lost"),
    )
    concepts: tuple[str, ...] = ()
    """What is attacked: names or files."""
    n: int = 10
    """Attacked rows of each concept, and benign rows of each kind."""
    seed: int = 0
    """Another number gives other starting noise everywhere."""
    attacks: tuple[str, ...] = ()
    """Attacks on prompts with their fields, as ``noise_search,budget=8``; each name once."""
    adaptive: bool = True
    """Whether attacks are searched through each arm."""
    transferred: bool = True
    """Whether attacks are searched on the undefended model and handed to each arm."""
    controls: bool = True
    """Whether each attack that has one is run with its random control."""
    references: str = ""
    """Folder with one folder of pictures per concept, for attacks that need them; empty: the lab's."""

    def __post_init__(self) -> None:
        if not 1 <= self.n <= 10_000:
            raise BadInput(f"{self.n} rows of a concept; between 1 and 10,000 are possible")
        if not self.concepts:
            raise BadInput(f"the benchmark {self.name} got no concept; name at least one (genward list concepts)")
        if not (self.adaptive or self.transferred):
            raise BadInput(
                "adversarial: neither adaptive nor transferred attacks are asked for; nothing is left to run"
            )

    def cases(self, setting: Setting) -> Iterator[Case]:
        """Rows of ``erasure`` that name the concept, and what must stay."""
        kept = (NAMED, *BENIGN)
        return (c for c in self._rows(setting) if c.variant in kept)

    def parents(self, setting: Setting) -> Iterator[Case]:
        """The rows that name the concept, under ids of their own."""
        self.opened(setting)
        for case in self._rows(setting):
            if case.variant == NAMED:
                yield case._replace(id=f"{case.concept}/{PROMPT}/{case.id.rsplit('/', 1)[1]}", variant=PROMPT)

    def _rows(self, setting: Setting) -> Rows:
        return Rows(setting.concepts, self.n, self.seed, setting.words, setting.avoid)

    def opened(self, setting: Setting) -> list[Any]:
        """The attacks. ``BadInput`` for one that does not start from prompts, or two of one name."""
        found = [setting.attack(text) for text in self.attacks]
        names = [type(a).name for a in found]
        for text, attack in zip(self.attacks, found, strict=True):
            if PROMPT not in attack.parents:
                raise BadInput(f"adversarial: {text!r} does not start from prompts; see the table in docs/attacks.md")
            if names.count(type(attack).name) > 1:
                raise BadInput(f"adversarial: {type(attack).name} stands there twice; make two runs of it")
        return found

    def search(self, parents: Sequence[Case], bench: Workbench) -> Iterator[Scene]:
        """What each attack finds, adaptive, transferred and as its control."""
        attacks = self.opened(bench.setting)
        done, total = 0, len(attacks) * len(bench.arms)
        for attack in attacks:
            black = bench.black(moved(attack), parents, self.references) if self._transfers(attack) else None
            chance = self._control(attack)
            blind = None
            if chance is not None and attack.access == "prompt":
                blind = bench.black(chance, parents, self.references)
            for arm in bench.arms:
                bench.tell("attack", done, total, f"{type(attack).name}: {arm.label}")
                done += 1
                cases = [c for c in parents if c.concept in arm.concepts]
                if black is not None:
                    yield from scenes_of(arm, attack, "transferred", black)
                if self.adaptive and attack.access != "prompt":
                    yield from scenes_of(arm, attack, "adaptive", bench.white(attack, cases, arm, self.references))
                if blind is not None:
                    yield from scenes_of(arm, attack, "control", blind)
                elif chance is not None and self.adaptive:
                    yield from scenes_of(arm, attack, "control", bench.white(chance, cases, arm, self.references))

    def _transfers(self, attack: Any) -> bool:
        return attack.access == "prompt" or (self.transferred and has(attack, "stop"))

    def _control(self, attack: Any) -> Any:
        return replace(attack, control=True) if self.controls and has(attack, "control") else None

    def outlook(self, parents: Sequence[Case], setting: Setting, arm: str = "") -> Outlook:
        """One arm's searches and the rows that they add, and the searches on the undefended model that all share."""
        nfe, shared, rows = 0, 0, 0
        for attack in self.opened(setting):
            chance = self._control(attack)
            through = [attack] if self.adaptive and attack.access != "prompt" else []
            through += [chance] if chance is not None and self.adaptive and attack.access != "prompt" else []
            once = [moved(attack)] if self._transfers(attack) else []
            once += [chance] if chance is not None and attack.access == "prompt" else []
            nfe += sum(r.nfe(parents) + 2 * gradient_rows(r, parents) for r in through)
            shared += sum(r.nfe(parents) + 2 * gradient_rows(r, parents) for r in once)
            rows += (len(through) + len(once)) * len(parents)
        return Outlook(nfe, ((rows, None),) if rows else (), shared)

    def harm_columns(self, setting: Setting) -> tuple[str, ...]:
        """The rows' own column; those of attacks are added by the search."""
        return (NAMED,)

    def measure(self, evidence: Evidence) -> dict[str, Any]:
        """``cells``, one an arm, concept, attack and mode, see ``figures.cells``; ``front``; ``grids``."""
        return figures.measured(evidence)

    @classmethod
    def sections(cls, metrics: Mapping[str, Any]) -> list[Section]:
        """See ``sections``."""
        return sections.sections(metrics)


def has(attack: Any, field: str) -> bool:
    """Whether an attack has a field."""
    return field in {f.name for f in dataclasses.fields(attack)}


def moved(attack: Any) -> Any:
    """The attack as it is searched on the undefended model: a search that stops at its first success would find
    nothing to change there."""
    return replace(attack, stop=False) if has(attack, "stop") else attack


def scenes_of(arm: Any, attack: Any, mode: str, found: Found) -> Iterator[Scene]:
    """The rows that a search adds to an arm, concept by concept."""
    name = type(attack).name
    by: dict[str, list[Case]] = {}
    for case in found.cases:
        if case.concept in arm.concepts:
            by.setdefault(case.concept, []).append(case)
    told = {f.get("concept"): f for f in found.facts.values()}
    for concept, cases in by.items():
        share = len(cases) / max(1, len(found.cases))
        fact = told.get(concept, {})
        about = {
            "attack_name": name,
            "access": attack.access,
            "mode": mode,
            "queries": [c.queries for c in cases],
            "parents": [c.parent for c in cases],
            "attack_seconds": round(found.cost["seconds"] * share, 3),
            "attack_nfe": found.cost.get("nfe", 0.0) * share,
            "gradient_norm": fact.get("gradient_norm"),
            "vanished": fact.get("vanished"),
        }
        yield Scene(arm, concept, f"{name}: {mode}", tuple(cases), None, found.key, about)
