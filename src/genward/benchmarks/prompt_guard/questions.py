"""Which rows answer which question, and what may be fitted on for it; see the package's text for the three splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from genward.benchmarks.prompt_guard.sets import PromptRow, families, side_of

MIN_ROWS = 20
"""Fewest rows of a class for a set to be measured on its own; otherwise its rows are measured against the pool."""
POOL = ("coco_30k", "diffusiondb_sample", "partiprompts", "drawbench", "sixcd_benign")
"""Benign sets whose test part serves as the pool where they are present: natural captions and user prompts, not
templates."""
POOL_ROWS = 300
"""Rows of each set in the pool."""
SPLITS = ("own", "in", "out")


class Question(NamedTuple):
    """One dataset's test: the rows, and what may be fitted on."""

    dataset: str
    split: str
    rows: list[int]
    fit: list[int]
    against: str
    """Benign rows it is measured against: the set's ``own``, the ``pool``; empty for a benign set"""


class Layout(NamedTuple):
    """Which rows stand where."""

    by_set: dict[str, list[int]]
    side: list[str]
    pool: list[int]
    family: Mapping[str, frozenset[str]]


def layout_of(rows: Sequence[PromptRow], sets: Mapping[str, Sequence[PromptRow]], seed: int) -> Layout:
    """Sides by unit, and the pool: the test side of the ``POOL`` sets, or of every benign set where none of these is
    there."""
    by_set: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        by_set[row.set].append(k)
    side = [side_of(row.unit, seed) for row in rows]
    benign = [name for name, found in by_set.items() if not any(rows[k].harmful for k in found)]
    named = [name for name in POOL if name in benign] or benign
    pool = [k for name in named for k in [k for k in by_set[name] if side[k] == "test"][:POOL_ROWS]]
    return Layout(dict(by_set), side, pool, families(sets))


def questions(rows: Sequence[PromptRow], layout: Layout) -> list[Question]:
    """Every set in every split; rows that are fitted on share no unit with those that are measured, pool included.

    A question with fewer than ``MIN_ROWS`` rows of a class to fit on, or with none to measure, is not asked; a benign
    set has no ``own``."""
    every = [k for k in range(len(rows)) if layout.side[k] == "fit"]
    quiet = {rows[k].set for k in layout.pool}
    out = []
    for name, own in layout.by_set.items():
        harmful = [k for k in own if rows[k].harmful]
        calm = [k for k in own if not rows[k].harmful]
        alone = len(calm) >= MIN_ROWS and len(harmful) >= MIN_ROWS
        for split in SPLITS:
            mine = [k for k in (own if alone or not harmful else harmful) if split == "out" or layout.side[k] == "test"]
            tested = mine if alone or not harmful else mine + layout.pool
            units = {rows[k].unit for k in tested}
            away = layout.family[name] if split == "out" else frozenset()
            fit = [k for k in every if rows[k].unit not in units and rows[k].set not in away]
            if split == "own":
                fit = [k for k in fit if rows[k].set == name or (not alone and rows[k].set in quiet)]
            known = [sum(rows[k].harmful == side for k in fit) for side in (True, False)]
            if mine and min(known) >= MIN_ROWS and (harmful or split != "own"):
                out.append(Question(name, split, tested, fit, "" if not harmful else "own" if alone else "pool"))
    return sorted(
        out, key=lambda q: (SPLITS.index(q.split), q.fit)
    )  # questions with the same rows to fit on stand together, so each fit is made once
