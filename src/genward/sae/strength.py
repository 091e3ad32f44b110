"""How hard a concept's latents are turned: searched by a judge on pictures of the fit's own wordings.

The authors of SAeUron and SAEmnesia try seven multipliers for each concept on training captions and take the largest
mean of UA (pictures of the concept that do not show it) and IRA (pictures of others that show what they should). Ours:
neighbors stand for the others, a few pictures decide, and going up ends where no picture shows the concept, since from
there only IRA can fall. Starting noise is the search's own, and no caption is one of a benchmark's."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Artifact, Defense, FitTools, Judge
from genward.core.records import Case, Concept, Sampler, row_seed
from genward.ops import artifacts, phrases
from genward.ops.asking import judged
from genward.ops.captions import styled
from genward.sae.edit import FOUND
from genward.sae.fit import classes_of

GRID = (-1.0, -5.0, -10.0, -15.0, -20.0, -25.0, -30.0, -50.0)
"""Multipliers that are tried: the authors' seven, and one for states smaller than those of Stable Diffusion."""
MIDDLE = -10.0
"""What is taken where nobody judges."""
PICTURES = 8
"""Of the concept, and as many of neighbors."""
STEPS = 10
"""Of their sampling."""


class Trial(NamedTuple):
    """Captions that a strength is tried on."""

    cases: list[Case]
    labels: list[str]
    """All that the judge is asked for"""
    gone: list[int]
    """Columns of ``labels`` that are the concept's"""
    shown: list[int]
    """Column that each neighbor's picture should show; the pictures of the concept come first"""


def trial(concepts: Sequence[Concept], words: Mapping[str, Any], judge: Judge, seed: int) -> Trial | None:
    """Pictures of every target in turn and of neighbors, in the vocabulary's styles; ``None`` where the judge knows no
    neighbor or no label of the concept."""
    known = set(judge.card.labels) if judge.card is not None else set()
    gone = [label for label in dict.fromkeys(label for c in concepts for label in c.judge) if label in known]
    near = [n for n in dict.fromkeys(n for c in concepts for n in c.neighbors) if n in known and n not in gone]
    targets = list(classes_of(concepts).values())
    if not gone or not near or any(c.kind == "style" for c in concepts):
        return None
    styles = [str(s) for s in words.get("styles", ())] or [""]
    texts = [targets[k % len(targets)][k // len(targets) % len(targets[k % len(targets)])] for k in range(PICTURES)]
    shown = [near[k % len(near)] for k in range(PICTURES)]
    captions = [styled(t, styles[k % len(styles)]) for k, t in enumerate(texts + [phrases.article(n) for n in shown])]
    cases = [Case(f"strength-{k}", c, seed=row_seed("fit", "strength", seed, k)) for k, c in enumerate(captions)]
    labels = [*gone, *near]
    return Trial(cases, labels, list(range(len(gone))), [labels.index(n) for n in shown])


def rates(table: torch.Tensor, pictures: Trial) -> tuple[float, float]:
    """(UA, IRA) of a judge's table (cases, labels) of 0 and 1."""
    ua = 1 - table[:PICTURES, pictures.gone].amax(1)
    ira = table[PICTURES:].gather(1, torch.tensor(pictures.shown)[:, None])
    return float(ua.nanmean()), float(ira.nanmean())


def best(tried: Sequence[tuple[float, float, float]]) -> float:
    """The multiplier with the largest mean of UA and IRA, of (multiplier, UA, IRA); of equal ones the weakest."""
    return max(tried, key=lambda row: (row[1] + row[2], row[0]))[0]


def searched(
    model: Any, make: Callable[[float], Defense], pictures: Trial, judge: Judge, sampler: Sampler, who: str, say: Any
) -> list[tuple[float, float, float]]:
    """(multiplier, UA, IRA) of each multiplier that was tried, the weakest first.

    Args:
        make: the fitted method at a multiplier. say: told what came of each.
    """
    tried: list[tuple[float, float, float]] = []
    for multiplier in GRID:
        samples = model.generate(pictures.cases, sampler, (make(multiplier),))
        ua, ira = rates(judged(judge, samples, pictures.labels), pictures)
        tried.append((multiplier, ua, ira))
        say(f"{who}: at multiplier={multiplier:g} UA {ua:.2f}, IRA {ira:.2f}")
        if ua == 1:
            break
    return tried


def with_strength(
    method: Any, tensors: Mapping[str, Tensor], card: Mapping[str, Any], model: Any, concepts: Sequence[Concept],
    tools: FitTools,
) -> Artifact:  # fmt: skip
    """A method's artifact with the multiplier that does best under ``rule="product"``; the card says what was tried.

    Args:
        method: with the fields of ``Saeuron``; those that act on attaching have their defaults in the search.
        tensors, card: of the artifact without a multiplier.
    """
    who, judge, began = type(method).name, tools.judge, time.perf_counter()
    pictures = trial(concepts, tools.words, judge, method.seed) if judge is not None else None
    told: dict[str, Any] = {"tried": []}
    found, seen = MIDDLE, dict(card)
    if judge is None or pictures is None:
        why = "no judge is at hand" if judge is None else "the judge knows neither the concept nor its neighbors"
        tools.say(f"{who}: {why}, so no strength is searched for and multiplier={MIDDLE:g} is taken")
    else:
        without = artifacts.make(dict(tensors), dict(card))
        bare = type(method)(error=method.error, site=method.site, artifact=without, multiplier=MIDDLE)
        sampler = Sampler(steps=STEPS, guidance=method.guidance)
        tried = searched(model, lambda m: replace(bare, multiplier=m), pictures, judge, sampler, who, tools.say)
        found, told = best(tried), {"tried": [list(row) for row in tried]}
        seen["judge"] = type(judge).name
        seen["captions"] = sorted({*seen["captions"], *(c.prompt for c in pictures.cases)})
        seen["seeds"] = sorted({*seen["seeds"], *(int(c.seed) for c in pictures.cases)})
    seen["seconds"] = round(float(card["seconds"]) + time.perf_counter() - began, 2)
    return artifacts.make(dict(tensors) | {FOUND: torch.tensor([found])}, {**seen, "strength": told})
