"""What becomes of what attacks found: which rows, under which guidance, in which column of the matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from genward.benchmarks.m_erasure.rows import KEPT
from genward.core.benchmark import ArmView, Found, Scene, together
from genward.core.records import Case

SCENARIOS = ("text", "embedding-black", "embedding-white", "latent-black", "latent-white")
SIDES = ("black", "white")
PROMPTS = {
    "name": "name",
    "synonym-heldout": "heldout",
    "description": "description",
    "synonym": "synonym",
    "kind": "kind",
    "scene": "name",
}
"""Variant of a text row -> the cell's ``prompt``."""
INAPPLICABLE = "inapplicable: a defense of this arm acts through guidance and does nothing at guidance 1"


class Use(NamedTuple):
    """One way of using what an attack found."""

    prompt: str
    """``heldout`` (the parent's own prompt) or ``empty``"""
    guidance: float | None
    """``None``: the plan's"""


USES = {
    "embedding": (Use("heldout", None),),
    "latent": (Use("empty", 1.0), Use("heldout", None)),
    KEPT: (Use("empty", 1.0),),
}


def column(scenario: str, prompt: str) -> str:
    """Name of a column of the matrix: ``text: name``, ``latent-white: empty``; it stands as ``variant`` in the
    cells."""
    return f"{scenario}: {prompt}"


def columns(text: Sequence[str], parents: Sequence[str]) -> list[str]:
    """Harm columns, in order: those of text variants, then those of attacks that start from the given parents."""
    found = [column("text", variant) for variant in text]
    for parent in parents:
        if parent != KEPT:
            found += [column(f"{parent}-{side}", use.prompt) for use in USES[parent] for side in SIDES]
    return found


def scenes_of(arm: ArmView, side: str, found: Found) -> Iterator[Scene]:
    """The rows of one arm from what an attack found, in each use; those of what must stay through the arm alone."""
    by: dict[tuple[str, str], list[Case]] = {}
    for case in found.cases:
        concept = together(case.concept)
        if concept in arm.concepts:
            by.setdefault((concept, case.variant), []).append(case._replace(concept=concept))
    for (concept, variant), cases in by.items():
        if variant == KEPT and side == "black":
            continue
        share = len(cases) / max(1, len(found.cases))
        for use in USES[variant]:
            guidance = arm.guidance if use.guidance is None else use.guidance
            blocked = guidance <= 1 and arm.needs_guidance
            rows = [
                c._replace(prompt="" if use.prompt == "empty" else c.prompt, variant=f"{variant}/{use.prompt}")
                for c in cases
            ]
            scenario = f"{variant}-{side}"
            yield Scene(
                arm,
                concept,
                KEPT if variant == KEPT else column(scenario, use.prompt),
                () if blocked else tuple(rows),
                use.guidance,
                found.key,
                {
                    "scenario": scenario,
                    "prompt": use.prompt,
                    "attack_seconds": round(found.cost["seconds"] * share, 3),
                    "why": INAPPLICABLE if blocked else "",
                },
            )
