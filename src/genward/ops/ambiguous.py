"""Captions that leave open what is drawn, with many seeds each: the set that a detector of *pictures* learns from.

Where one prompt always shows the concept and another one never does, a detector may read the prompt alone. So most rows
here are of **ambiguous prompts**, whose picture shows the concept with one seed and not with another: kinds of things
("a tool"), other wordings of them ("some tool") and either of two kinds ("a tool or a fruit"). Each of their seeds is a
row with a label of its own, as in Wukong's (prompt, seed, label) set (arXiv 2508.00591)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from genward.core.records import Case, Concept, row_seed
from genward.errors import BadInput
from genward.ops.captions import Words, caption_pools, styled
from genward.ops.detection import spread_groups

SHARES = {"kind": 0.3, "either": 0.35, "name": 0.1, "scene": 0.1, "keep": 0.15}
"""Share of the rows: kinds of things, either of two kinds, the concept's phrases, scenes with a harmless object, what
must stay. The first two are the ambiguous ones."""
AMBIGUOUS = ("kind", "either")
WORDINGS = ("{a}", "the {bare}", "some {bare}", "one {bare}", "a kind of {bare}", "a simple {bare}", "a {bare} alone")
"""Ways to write a kind; ``{a}`` has its article, ``{bare}`` has none."""
PARTS = ("fit", "choose", "calibrate")
"""What rows are for: weights, the epoch, temperature and thresholds."""


class Phrase(NamedTuple):
    """A phrase to draw, what keeps it together with others when rows are split, and its kind among ``SHARES``."""

    text: str
    group: str
    variant: str


def phrases_of(concepts: Sequence[Concept], words: Words, captions: Sequence[str] = ()) -> dict[str, list[Phrase]]:
    """Phrases by the keys of ``SHARES`` (and ``given``), nothing held out for evaluation among them.

    The group is what must not be shared between parts: the wording of a kind, the other kind of an "either", the
    concept's phrase, the harmless object of a scene or of what must stay.
    """
    things: Mapping[str, Mapping[str, Sequence[str]]] = words.get("things", {})
    targets = dict.fromkeys(t for c in concepts for t in c.targets)
    kinds = list(dict.fromkeys(k for t in targets if t in things for k in things[t].get("kind", ())))
    others = [k for k in dict.fromkeys(k for t in things for k in things[t].get("kind", ())) if k not in kinds]
    pools = caption_pools(concepts, words)
    out = {
        "kind": [Phrase(w.format(a=k, bare=_bare(k)), f"kind: {w}", "kind") for w in WORDINGS for k in kinds],
        "either": [Phrase(f"{k} or {o}", f"either: {o}", "either") for o in others for k in kinds],
        "name": [Phrase(p, f"name: {p}", "name") for p in pools["name"]],
        "scene": [Phrase(f"{a} and {b}", f"keep: {b}", "scene") for b in pools["keep"] for a in pools["name"]],
        "keep": [Phrase(p, f"keep: {p}", "keep") for p in pools["keep"]],
        "given": [Phrase(c, f"given: {c}", "given") for c in captions],
    }
    return {k: v for k, v in out.items() if v}


def ambiguous_cases(
    concepts: Sequence[Concept],
    words: Words,
    rows: int,
    seeds: int,
    captions: Sequence[str] = (),
    seed: int = 0,
    owner: str = "detector",
) -> list[Case]:
    """About ``rows`` cases in the ``SHARES``: ambiguous prompts with ``seeds`` seeds each, the others with a quarter of
    them; more where there are too few prompts.

    Every (prompt, number) has a seed of its own, so no two rows share one. ``Case.group`` keeps together what must not
    be split, ``Case.variant`` is the kind of phrase.

    Args:
        captions: more of them, of any kind (``given``), with ``seeds`` seeds each, beside the rows above.

    Raises:
        BadInput: the concepts have no phrases, or nothing that must stay.
    """
    pools = phrases_of(concepts, words, captions)
    if "keep" not in pools or "name" not in pools:
        raise BadInput(
            f"{owner} needs phrases of the concept and captions of what must stay; add `phrases` and `keep` to the "
            "concept file"
        )
    drawn = random.Random(row_seed("fit", "ambiguous", seed, "captions"))
    whole = sum(share for k, share in SHARES.items() if k in pools)
    made: dict[str, tuple[Phrase, int]] = {}
    for kind, pool in pools.items():
        styles = [""] if kind == "given" else ["", *words.get("styles", ())]
        each = seeds if kind in (*AMBIGUOUS, "given") else max(1, seeds // 4)
        share = len(pool) * each if kind == "given" else max(1, round(rows * SHARES[kind] / whole))
        count = min(max(1, round(share / each)), len(pool) * len(styles))
        pairs = drawn.sample(pool, len(pool))
        taken = [(p, styles[(k + turn) % len(styles)]) for turn in range(len(styles)) for k, p in enumerate(pairs)]
        for phrase, style in taken[:count]:
            made.setdefault(styled(phrase.text, style), (phrase, max(each, round(share / count))))
    return [
        Case(
            f"{owner}-{k}-{j}",
            text,
            seed=row_seed("fit", "ambiguous", seed, text, j),
            variant=p.variant,
            group=p.group,
        )
        for k, (text, (p, each)) in enumerate(made.items())
        for j in range(each)
    ]


def parts_of(groups: Sequence[str], variants: Sequence[str], shares: Sequence[float], seed: int) -> list[str]:
    """What each row is for, one of ``PARTS``: whole groups together, each variant in the given shares as far as its
    groups allow.

    Args:
        groups, variants: (rows,). shares: of ``PARTS``, summing to 1.
    """
    kind: dict[str, str] = {}
    for group, variant in zip(groups, variants, strict=True):
        kind.setdefault(group, variant)
    out = [PARTS[0]] * len(groups)
    for variant in dict.fromkeys(kind.values()):
        mine = [k for k, g in enumerate(groups) if kind[g] == variant]
        cut = spread_groups([groups[k] for k in mine], shares, lambda g: row_seed("part", seed, g))
        for k, p in zip(mine, cut, strict=True):
            out[k] = PARTS[p]
    return out


def _bare(phrase: str) -> str:
    """A phrase without its article."""
    first, _, rest = phrase.partition(" ")
    return rest if first in ("a", "an", "the") and rest else phrase
