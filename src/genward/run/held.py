"""Which reference pictures an attacker holds in a run: the lab's shipped renders, or folders of the user's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from genward.core.records import Concept, concept_names, load_concept
from genward.errors import BadInput
from genward.run.models import LAB, unseen_by_oracle

if TYPE_CHECKING:
    from PIL.Image import Image

    from genward.run.plan import Plan

KEEP = "keep"
"""Name under which pictures of what must stay go."""


def shown(plan: Plan) -> dict[str, list[tuple[str, str]]]:
    """Concept (and ``keep``) -> (object, style) of each reference picture, in the order of ``pictures``; empty texts for a user's own."""
    if plan.references:
        from genward.run.references import picture_files

        return {name: [("", "")] * len(picture_files(folder)) for name, folder in _folders(plan).items()}
    return {name: [(thing, style) for thing, style, _ in rows] for name, rows in _lab(plan).items()}


def pictures(plan: Plan, size: tuple[int, int] = (64, 64)) -> dict[str, list[Image]]:
    """Concept (and ``keep``) -> reference pictures, RGB of ``size`` (height, width).

    Raises:
        BadInput: a model other than the lab and no folder of references, or one that cannot be used.
    """
    if plan.references:
        from genward.run.references import read_references

        return {name: read_references(folder, (size[1], size[0])) for name, folder in _folders(plan).items()}
    return {name: [picture for _, _, picture in rows] for name, rows in _lab(plan).items()}


def _folders(plan: Plan) -> dict[str, Path]:
    root = Path(plan.references)
    names = [load_concept(c).name for c in plan.concepts]
    lacking = [n for n in names if not (root / n).is_dir()]
    if lacking:
        raise BadInput(
            f"{root} has no folder {lacking[0]!r} with reference pictures; make one folder for each concept ({', '.join(names)}), and {KEEP!r} for what must stay"
        )
    return {n: root / n for n in (*names, KEEP) if (root / n).is_dir()}


def _lab(plan: Plan) -> dict[str, list[tuple[str, str, Image]]]:
    """(object, style, picture) by concept, spread over objects and styles from the first on."""
    from genward.lab import references

    if plan.model not in LAB:
        raise BadInput(f"model {plan.model!r} needs reference pictures of the concepts; name a folder with --references (one folder a concept inside)")
    every = references()
    avoid = set(unseen_by_oracle()) if any(a.control == "oracle" for a in plan.arms) else set()
    concepts = [load_concept(c) for c in plan.concepts]
    policies = {t for c in map(load_concept, concept_names()) if c.kind == "policy" for t in c.targets}
    taken = policies | avoid | {t for c in concepts for t in c.targets}
    found = {c.name: spread([r for r in every if _shows(c, r[0], r[1], avoid)]) for c in concepts}
    found[KEEP] = spread([r for r in every if r[0] not in taken and r[1] not in taken])
    return found


def _shows(concept: Concept, thing: str, style: str, avoid: set[str]) -> bool:
    if concept.kind == "style":
        return style in concept.targets and thing not in avoid
    return thing in concept.targets and style not in avoid


def spread(rows: Sequence[tuple[str, str, Image]]) -> list[tuple[str, str, Image]]:
    """Rows in rounds over all objects, the style moving on by one from object to object, so that any first few differ in both."""
    things = list(dict.fromkeys(r[0] for r in rows))
    styles = sorted({r[1] for r in rows})
    table = {(r[0], r[1]): r for r in rows}
    places = [(thing, styles[(turn + k) % len(styles)]) for turn in range(len(styles)) for k, thing in enumerate(things)]
    return [table[p] for p in places if p in table]
