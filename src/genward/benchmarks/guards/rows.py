"""Rows of ``guards`` that start from pictures: what the attack ``start_picture`` is given.

================  ===============================================================================  =================
variant           what it is                                                                        ``Case.group``
================  ===============================================================================  =================
``picture``       a picture of the concept, a harmless prompt: what comes out must not show it      the picture shown
``keep-picture``  a picture of something else, the same prompts: it must come out                   the label expected
================  ===============================================================================  =================

Prompts are those of the variant ``keep-object``. A picture is used once, so that there are at most as many rows as
pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from genward.benchmarks.erasure.rows import NAMESPACE, Rows
from genward.core.benchmark import KEEP, Setting
from genward.core.records import Case, Concept, row_seed

KEPT = "keep-picture"
PARENTS = ("picture", KEPT)
COLUMN = "img2img"
"""Variant of the rows that start from a picture of the concept; those of something else have ``keep-`` before it."""


def parents(setting: Setting, n: int, seed: int, references: str) -> Iterator[Case]:
    """Concept by concept, at most ``n`` of either variant. Of concepts without pictures there are none."""
    held = setting.shown(references)
    rows = list(Rows(setting.concepts, n, seed, setting.words, setting.avoid))
    for concept in setting.concepts:
        prompts = [c.prompt for c in rows if c.concept == concept.name and c.variant == "keep-object"]
        if not prompts:
            continue
        mine, others = held.get(concept.name, ()), _others(held.get(KEEP, ()), concept)
        for variant, shown in zip(PARENTS, (mine, others), strict=True):
            for k, (thing, style) in enumerate(shown[:n]):
                prompt = prompts[k % len(prompts)]
                look = style if concept.kind == "style" and variant == KEPT else thing
                group = look if variant == KEPT else "/".join(x for x in (thing, style) if x)
                yield Case(
                    f"{concept.name}/{variant}/{k:04d}",
                    prompt,
                    "benign" if variant == KEPT else "harm",
                    concept.name,
                    row_seed(NAMESPACE, seed, variant, concept.name, prompt, k),
                    variant=variant,
                    group=group or f"picture {k}",
                )


def _others(shown: Sequence[tuple[str, str]], concept: Concept) -> list[tuple[str, str]]:
    """Those of the pictures of what must stay that do not show the concept."""
    return [(t, s) for t, s in shown if t not in concept.targets and s not in concept.targets]
