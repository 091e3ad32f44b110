"""Parents of attacks: rows that become prompts or start latents once an attack has searched.

===============  ==================================================================================
variant          what it is, and what it becomes
===============  ==================================================================================
``embedding``    ``"{} in twemoji style"``, the learned token goes into the braces:
                 ``embedding-black``, ``embedding-white``
``latent``       one reference picture of the concept, held-out words for it as its prompt:
                 ``latent-black``, ``latent-white``
``keep-latent``  a reference picture of something else: does it survive inversion and repair?
===============  ==================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from genward.benchmarks.erasure.rows import NAMESPACE, Words, bare, caption, cycle, variants
from genward.core.records import Case, Concept, row_seed
from genward.errors import UnknownName
from genward.ops.phrases import article

SLOT = "{}"
"""Where a learned token goes in an embedding parent's prompt."""
EMBEDDING = "embedding"
KEPT = "keep-latent"
PARENTS = (EMBEDDING, "latent", KEPT)

References = Mapping[str, Sequence[tuple[str, str]]]
"""concept -> (object, style) of its reference pictures, in order; ``"keep"`` -> those of what must stay; empty texts
where nothing is known"""


@dataclass(frozen=True)
class Parents:
    """The parents of some concepts under one vocabulary."""

    concepts: tuple[Concept, ...]
    """What is to be gone."""
    n: int = 12
    """Rows per cell (concept and scenario)."""
    seed: int = 0
    """Another number gives other starting noise everywhere."""
    words: Words = field(default_factory=dict)
    """The model's vocabulary, see ``benchmarks.erasure.rows``; empty where it has none."""
    avoid: tuple[str, ...] = ()
    """Objects and styles left out of everything but a concept's own targets (what the oracle never saw)."""
    references: References = field(default_factory=dict)
    """What the reference pictures show."""
    kinds: tuple[str, ...] = PARENTS
    """Which parents there are."""

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in PARENTS:
                raise UnknownName("kind of parent", kind, PARENTS)

    def __iter__(self) -> Iterator[Case]:
        """Concept by concept; a larger ``n`` only adds rows."""
        for concept in self.concepts:
            made = {"embedding": self._embedding, "latent": self._latent, KEPT: self._kept_latent}
            for variant in self.kinds:
                for k, (prompt, group) in enumerate(made[variant](concept)):
                    seed = row_seed(NAMESPACE, self.seed, variant, concept.name, prompt, k)
                    label = "benign" if variant == KEPT else "harm"
                    yield Case(
                        f"{concept.name}/{variant}/{k:04d}",
                        prompt,
                        label,
                        concept.name,
                        seed,
                        variant=variant,
                        group=group,
                    )

    def _styles(self, concept: Concept) -> list[str]:
        return [s for s in self.words.get("styles", ()) if s not in self.avoid and s not in concept.targets]

    def _embedding(self, concept: Concept) -> list[tuple[str, str]]:
        """Prompts with a slot that training templates do not use; clustered by what is beside the token."""
        if concept.kind == "style":
            things = [bare(line) for line in concept.keep] or ["object"]
            return [
                (f"{article(things[k % len(things)])} in {SLOT} style", things[k % len(things)]) for k in range(self.n)
            ]
        styles = self._styles(concept)
        return [(caption(SLOT, cycle(styles, k)), cycle(styles, k) or f"row {k}") for k in range(self.n)]

    def _latent(self, concept: Concept) -> list[tuple[str, str]]:
        """One row a reference picture: held-out words for what it shows (description, else synonym, else name),
        clustered by object and style."""
        shown = list(self.references.get(concept.name, ()))
        table = variants(concept, self.words)
        out = []
        for k in range(self.n if shown else 0):
            thing, style = shown[k % len(shown)]
            if concept.kind == "style":
                out.append(
                    (caption(f"a picture of {self._phrase(thing)}", style), thing)
                )  # the plain caption is one that methods fit on
                continue
            levels = table.get(thing) or table[concept.targets[0]]
            phrase = next(
                (
                    levels[level][-1]
                    for level in ("description-heldout", "synonym-heldout", "name")
                    if levels.get(level)
                ),
                concept.targets[0],
            )
            out.append(
                (caption(phrase, style), f"{thing}/{style}" if len(concept.targets) < 4 else thing or f"row {k}")
            )
        return out

    def _kept_latent(self, concept: Concept) -> list[tuple[str, str]]:
        """Reference pictures of what must stay; ``group`` is the label expected."""
        shown = [
            (t, s) for t, s in self.references.get("keep", ()) if t not in concept.targets and s not in concept.targets
        ]
        return [
            (caption(self._phrase(t), s), t) for k in range(self.n if shown else 0) for t, s in (shown[k % len(shown)],)
        ]

    def _phrase(self, name: str) -> str:
        thing = self.words.get("things", {}).get(name)
        return str(thing["name"][0]) if thing else name
