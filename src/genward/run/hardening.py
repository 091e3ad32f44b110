"""Hardening a prompt guard: attack it, add what got through and harmless look-alikes of it, fit it again, and measure
on attacks and captions that no round saw.

A round attacks rows of the concept's named prompts through the guard. A prompt that got through (released, and the
judge sees the concept) joins the harmful texts; as many harmless captions with the same strange words join the benign
ones, so that a strange word is no sign of harm by itself. After each round two figures are measured: ``attack``, the
success of a fresh search (another seed) on prompts of held-out wordings, and ``benign``, the share of captions of
objects that no fit saw which the guard refuses. A round whose ``benign`` is above the limit is not kept, and ends the
work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.benchmarks.erasure.rows import Rows
from genward.catalog.fitting import parse_defense, ready
from genward.catalog.opening import words_of
from genward.core.files import finite
from genward.core.records import Case, Sampler, load_concept, row_seed
from genward.errors import BadInput
from genward.metrics.intervals import wilson
from genward.ops import artifacts
from genward.run.search import attack_arm, parse_attack
from genward.run.target import Means, writable

if TYPE_CHECKING:
    from genward.models.sd import StableDiffusion
    from genward.store import Store

Say = Callable[[str], None]
TRAINED, HELD = "name", "synonym-heldout"
"""Rows that rounds attack, and rows that are attacked only to measure"""
UNSEEN = ("keep-neighbor",)
"""Benign rows to measure on: neighbors, which ``aeiou`` is not fitted on"""


@dataclass(frozen=True)
class Round:
    """What one round came to."""

    number: int
    """0: the guard as it was"""
    added: int
    """Prompts that got through in this round and were learned from"""
    attack: Any
    """Success on held-out wordings under a fresh search, with its interval"""
    benign: Any
    """Share of unseen harmless captions that are refused, with its interval"""
    kept: bool

    def told(self) -> dict[str, Any]:
        out: dict[str, Any] = {"round": self.number, "added": self.added, "kept": self.kept}
        for name, e in (("attack", self.attack), ("benign", self.benign)):
            out |= {
                name: finite(e.value),
                f"{name}_low": finite(e.low),
                f"{name}_high": finite(e.high),
                f"n_{name}": e.n,
            }
        return out


class Hardening:
    """The work on one guard."""

    def __init__(
        self,
        text: str,
        attack: str,
        model: StableDiffusion,
        store: Store,
        judge: Any,
        *,
        name: str,
        n: int,
        limit: float,
        sampler: Sampler,
        say: Say | None,
    ) -> None:
        requests = parse_defense(text)
        if len(requests) != 1 or not requests[0].concept:
            raise BadInput(f"harden: {text!r} is not one guard with its concept, as aeiou:weapons")
        (guard,) = ready(requests, model, store, progress=say).defenses
        if not hasattr(guard, "augment"):
            raise BadInput(f"harden: {type(guard).name} cannot learn from prompts that got through; aeiou can")
        self.guard: Any = guard
        self.attack = parse_attack(attack)
        if self.attack.access != "query" or "prompt" not in self.attack.parents:
            raise BadInput(f"harden: {type(self.attack).name} is no query attack on prompts; sneakyprompt is one")
        if not 0 < limit < 1 or n < 1:
            raise BadInput("harden: the limit is a share between 0 and 1, and at least one row is attacked")
        self.model, self.store, self.judge, self.limit = model, store, judge, limit
        self.sampler, self.say = sampler, say or (lambda _: None)
        self.concept = load_concept(requests[0].concept)
        self.words = words_of(name)
        rows = list(Rows((self.concept,), n, 0, self.words))
        self.rows = {v: [c._replace(variant="prompt") for c in rows if c.variant == v] for v in (TRAINED, HELD)}
        self.unseen = [c.prompt for c in Rows((self.concept,), max(n, 40), 1, self.words) if c.variant in UNSEEN]

    def means(self) -> Means:
        """What the attacker holds."""
        about = self.concept
        things = self.words.get("things", {})
        return Means(
            self.judge,
            {about.name: about.judge or about.targets},
            things,
            {about.name: (*about.phrases, *about.heldout)},
            writable(self.words),
        )

    def attacked(self, guard: Any, cases: Sequence[Case], seed: int) -> list[tuple[Case, bool]]:
        """What the attack found for each case, and whether it got through."""
        attack = replace(self.attack, seed=seed)
        found = attack_arm(
            attack, cases, self.model, [guard], self.sampler, {}, self.store, say=self.say, means=self.means()
        )
        margins = next(t for h, t in found.tensors.items() if found.facts[h]["kind"] == "margins")
        return [(c, bool(float(row.max()) >= 0)) for c, row in zip(found.cases, margins, strict=True)]

    def refused(self, guard: Any, texts: Sequence[str]) -> list[bool]:
        """Which texts the guard refuses."""
        scores = guard.scores(self.model, texts)
        limits = guard.limits(guard.guarding())
        return [bool(x) for x in (scores >= limits).any(1)]

    def measured(self, number: int, guard: Any, added: int) -> Round:
        """The figures of a guard on what no round saw."""
        hits = [hit for _, hit in self.attacked(guard, self.rows[HELD], 1000 + number)]
        stops = self.refused(guard, self.unseen)
        benign = wilson(sum(stops), len(stops))
        return Round(number, added, wilson(sum(hits), len(hits)), benign, float(benign.value) <= self.limit)

    def lookalikes(self, found: Sequence[str], number: int) -> list[str]:
        """As many harmless captions with the same strange words: what is new in a found prompt stands in front of a
        harmless caption."""
        plain = {w for rows in self.rows.values() for c in rows for w in c.prompt.split()}
        keep = [f"{k} in {s} style" for k in self.concept.keep for s in self.words.get("styles", ("plain",))]
        out = []
        for k, text in enumerate(found):
            strange = [w for w in text.split() if w not in plain]
            caption = keep[row_seed("harden", number, k, text) % len(keep)]
            out.append(f"{' '.join(strange)} {caption}" if strange else caption)
        return list(dict.fromkeys(out))

    def run(self, rounds: int) -> tuple[Any, list[Round]]:
        """The hardened guard and what each round came to."""
        told = [self.measured(0, self.guard, 0)]
        if not told[0].kept:
            self.say(
                f"the guard loses {told[0].benign.value:.2f} of the unseen harmless captions before the first round, "
                f"more than {self.limit:g}: a round is kept only if it brings that down; raise the limit, or the "
                "guard's threshold first"
            )
        best = self.guard
        for number in range(1, rounds + 1):
            through = [c.prompt for c, hit in self.attacked(best, self.rows[TRAINED], number) if hit]
            if not through:
                self.say(f"round {number}: nothing got through; done")
                break
            made = best.augment(self.model, through, self.lookalikes(through, number))
            one = self.measured(number, made, len(through))
            told.append(one)
            if not one.kept:
                self.say(f"round {number}: benign loss {one.benign.value:.2f} is above {self.limit:g}; not kept")
                break
            best = made
        return best, told


def saved(guard: Any, path: Path) -> Path:
    """Write what a guard learned: safetensors and its card beside it. Raises ``BadInput`` where they cannot be."""
    artifact = guard.artifact
    artifacts.save(path.with_suffix(""), artifact.tensors, artifact.card)
    return path
