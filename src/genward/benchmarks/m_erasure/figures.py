"""The figures of ``m-erasure``: the matrix with scenarios, sample grids with references, and what searches cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from genward.benchmarks.m_erasure.rows import KEPT
from genward.benchmarks.m_erasure.scenes import PROMPTS, column
from genward.core.benchmark import KEEP, Evidence
from genward.core.records import LATENTS
from genward.metrics import erasure
from genward.metrics.judge_errors import with_judges
from genward.metrics.pooling import compared

KEYS = ("scenario", "prompt", "guidance", "attack_seconds")
"""What a cell takes over from its scene."""
Facts = Mapping[str, Any]


def measured(evidence: Evidence, order: Sequence[str], references: str) -> dict[str, Any]:
    """The sections of the metrics; ``order`` are the harm columns."""
    rows = [_placed(row) for row in evidence.rows]
    scenes = [*_text_scenes(evidence), *evidence.scenes]
    shared: dict[str, Any] = {
        "arms": evidence.arms,
        "base": evidence.base,
        "concepts": evidence.concepts,
        "card": evidence.card,
        "variants": order,
    }
    given = (rows, evidence.scores, evidence.features)
    found = erasure.cells(*given, **shared, prepare=evidence.prepare)
    shown = with_judges(evidence, found, rows, partial(compared, evidence, rows, variants=order))
    first = dict(_references(evidence, rows, references))
    return {
        **shown,
        "cells": scened(shown["cells"], scenes, order),
        "grids": [*evidence.strips(rows, first=first), *evidence.illustrations],
        "attacks": attack_tables(evidence.attacks, evidence.scenes),
    }


def _placed(row: Facts) -> Facts:
    """A row with its column as ``variant``: harm rows of the text scenario get theirs here."""
    own = row["label"] == "harm" and not row.get("scene")
    return {**row, "variant": column("text", row["variant"])} if own else row


def _text_scenes(evidence: Evidence) -> Iterator[dict[str, Any]]:
    """One for each arm, concept and text variant: no search, the plan's guidance."""
    there = dict.fromkeys((c.concept, c.variant) for c in evidence.cases if c.label == "harm")
    for arm in evidence.arms:
        for concept, variant in there:
            yield {
                "arm": arm["label"],
                "concept": concept,
                "variant": column("text", variant),
                "scenario": "text",
                "prompt": PROMPTS.get(variant, variant),
                "guidance": arm["sampler"]["guidance"],
                "attack_seconds": 0.0,
                "why": "",
            }


def scened(cells: Sequence[Facts], scenes: Sequence[Facts], order: Sequence[str]) -> list[dict[str, Any]]:
    """Cells with scenario, prompt, guidance and attack seconds; a scene that cannot be gets a cell without numbers and
    says why."""
    by = {(s["arm"], s["concept"], s["variant"]): s for s in scenes}
    out = [{**c, **{k: by[c["arm"], c["concept"], c["variant"]][k] for k in KEYS}} for c in cells]
    blank = {k: None for c in cells[:1] for k, v in c.items() if isinstance(v, (int, float)) or v is None}
    for scene in scenes:
        if scene["why"] and scene["variant"] in order:
            there = next((c for c in out if (c["arm"], c["concept"]) == (scene["arm"], scene["concept"])), {})
            same = {
                k: there.get(k) for k in blank if k.startswith(("retention", "drift", "frechet", "prepare", "extra"))
            }
            head = {k: scene[k] for k in ("arm", "concept", "variant", *KEYS)}
            out.append({**blank, **same, **head, "n": 0, "n_unscored": 0, "why": scene["why"]})
    arms = list(dict.fromkeys(s["arm"] for s in scenes))
    concepts = list(dict.fromkeys(s["concept"] for s in scenes))
    return sorted(out, key=lambda c: (arms.index(c["arm"]), concepts.index(c["concept"]), order.index(c["variant"])))


def _references(evidence: Evidence, rows: Sequence[Facts], folder: str) -> Iterator[tuple[str, str]]:
    """Row id -> content hash of the reference picture that its latents were inverted from, where the attack says."""
    known = {name: fact.get("reference") for card in evidence.attacks.values() for name, fact in card["facts"].items()}
    for row in rows:
        k = known.get(row["inputs"].get(LATENTS))
        if k is not None:
            sha = evidence.reference(folder, KEEP if row["variant"] == KEPT else row["concept"], k)
            if sha is not None:
                yield row["id"], sha


def attack_tables(cards: Mapping[str, Facts], scenes: Sequence[Facts]) -> list[dict[str, Any]]:
    """What each search of the run cost and says about itself: ``attack, arms, scenarios, cost, facts``."""
    out = []
    for key, card in cards.items():
        mine = [s for s in scenes if s["attack"] == key]
        out.append(
            {
                "key": key,
                "attack": card["attack"],
                "arms": list(dict.fromkeys(s["arm"] for s in mine if s["scenario"].endswith("white"))),
                "scenarios": list(dict.fromkeys(s["scenario"] for s in mine)),
                "cost": card["cost"],
                "facts": list(card["facts"].values()),
            }
        )
    return out


def without_curves(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics whose attacks tell no learning curve."""
    attacks = [
        {**a, "facts": [{k: v for k, v in fact.items() if k != "curve"} for fact in a["facts"]]}
        for a in metrics.get("attacks", ())
    ]
    return {**metrics, "attacks": attacks}
