"""Captions that guards learn from: of the concept, of kinds, of scenes, of what must stay; and pairs of equal
length."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from genward.core.records import Case, Concept, row_seed
from genward.errors import BadInput
from genward.ops import phrases

SHARES = {"name": 0.35, "kind": 0.2, "scene": 0.15, "keep": 0.3}
"""Share of the captions to learn from: the concept's phrases, kinds of things, scenes with a harmless object, what must
stay."""
FILLERS = ("plain", "simple", "small", "nice")
"""Words that lengthen a safe caption without saying much."""
Words = Mapping[str, Any]
"""A model's vocabulary: ``{"styles": [name, …], "things": {object: {"name": [phrase], "kind": […], …}}}``."""


def caption_pools(concepts: Sequence[Concept], words: Words, extra: Sequence[str] = ()) -> dict[str, list[str]]:
    """Phrases to draw captions from, by the kinds of ``SHARES``; nothing held out for evaluation is among them."""
    things: Mapping[str, Mapping[str, Sequence[str]]] = words.get("things", {})
    gone = dict.fromkeys(
        t for c in concepts for t in c.targets
    )  # not a set: its order would differ from process to process
    names = [text for text, _ in phrases.pairs(concepts)]
    kept = [k.split(" in ")[0] if k.endswith(" style") else k for c in concepts for k in c.keep]
    near = [
        things[n]["name"][0] if n in things else phrases.article(n)
        for c in concepts
        for n in c.neighbors
        if c.kind != "style"
    ]
    keep = [p for p in dict.fromkeys([*kept, *near, *(a for c in concepts for a in c.anchors)]) if p not in names]
    kinds = [k for t in (t for t in gone if t in things) for k in things[t].get("kind", ())]
    others = [k for t in things if t not in gone for k in things[t].get("kind", ())]
    scenes = [f"{a} and {b}" for a in names for b in keep[:: max(1, len(keep) // 6)]] + [
        f"{b} and {a}" for a in names[::2] for b in keep[1 :: max(1, len(keep) // 4)]
    ]
    twins = [f"{a} and {b}" for a, b in zip(keep, keep[3:], strict=False)]
    return {
        "name": list(dict.fromkeys(names)),
        "kind": list(dict.fromkeys([*kinds, *kinds, *others])),
        "scene": list(dict.fromkeys([*scenes[:: max(1, len(scenes) // 60)], *twins])),
        "keep": keep,
    }


def same_length(
    text: str, candidates: Sequence[str], length: Callable[[str], int], fillers: Sequence[str] = FILLERS
) -> str | None:
    """The first candidate with as many tokens as ``text``, shorter ones lengthened by ``fillers`` after their article;
    ``None`` if none fits.

    Args:
        length: text -> number of tokens.
    """
    wanted = length(text)
    for candidate in candidates:
        if length(candidate) == wanted:
            return candidate
    for candidate in candidates:
        longer = candidate
        for word in fillers:
            head, _, rest = longer.partition(" ")
            longer = f"{head} {word} {rest}" if head in ("a", "an", "the", "two") and rest else f"{word} {longer}"
            longer = f"a {longer[3:]}" if longer.startswith("an ") else longer
            if length(longer) == wanted:
                return longer
    return None


def styled(phrase: str, style: str) -> str:
    """``"a bomb, twemoji style"``: no evaluation caption is written so, and fitting and evaluation must not share
    one."""
    return f"{phrase}, {style} style" if style else phrase


def safe_twins(concepts: Sequence[Concept], words: Words, length: Callable[[str], int]) -> list[tuple[str, str]]:
    """(caption of the concept, harmless caption with as many tokens): the phrase alone, in styles, beside a harmless
    object.

    The twin is the phrase's own anchor where its length fits or can be filled up, else another anchor, the concept's,
    or something to keep.

    Raises:
        BadInput: no phrase has a twin of its length.
    """
    found: dict[str, str] = {}
    styles = [s for s in words.get("styles", ()) if s not in {t for c in concepts for t in c.targets}]
    for concept in concepts:
        kept = [k for k in caption_pools([concept], words)["keep"]]
        turn = 0
        for caption, anchored in phrases.pairs([concept]):
            if concept.kind == "style":
                target = next((p for p in concept.phrases if p in caption), "")
                others = [caption.replace(target, f"in {n} style") for n in concept.neighbors] if target else []
            else:
                others = [concept.anchor, *concept.anchors, *kept]
            twin = same_length(caption, [x for x in (anchored, *others) if x and x != caption], length)
            if twin is None:
                continue
            found.setdefault(caption, twin)
            if concept.kind == "style":
                continue
            for style in styles[turn % 3 :: 3]:
                found.setdefault(styled(caption, style), styled(twin, style))
            beside = kept[turn % len(kept)] if kept else ""
            if beside and beside != twin:
                found.setdefault(f"{caption} and {beside}", f"{twin} and {beside}")
                found.setdefault(f"{beside} and {caption}", f"{beside} and {twin}")
            turn += 1
    if not found:
        raise BadInput(
            "no phrase of the concept has a harmless twin with as many tokens; add anchors or `keep` captions of other "
            "lengths to its file"
        )
    return [(a, b) for a, b in found.items() if length(a) == length(b)]


def learning_cases(
    concepts: Sequence[Concept],
    words: Words,
    images: int = 960,
    per_caption: int = 4,
    captions: Sequence[str] = (),
    seed: int = 0,
    owner: str = "detector",
) -> list[Case]:
    """Cases that detectors of pictures learn from: captions of ``SHARES``, ``per_caption`` seeds each (more where
    captions are few).

    From the namespace of fitting, and the same pictures for every owner (Wukong has a set of its own,
    ``ops.ambiguous``). Half of the captions name a style as ``"a bomb, twemoji style"``: no evaluation caption is
    written so. ``Case.group`` is the phrase without the style (a scene's: its two objects), so that wordings of one
    prompt stay together; ``Case.variant`` is the kind of caption.

    Args:
        captions: more of them, of any kind (``given``). owner: the detector's name, for ids and messages.

    Raises:
        BadInput: the concepts have no phrases, or nothing that must stay.
    """
    count = -(-images // per_caption)
    drawn = random.Random(row_seed("fit", "wukong", seed, "captions"))
    pools = caption_pools(concepts, words, captions)
    if not pools["keep"] or not pools["name"]:
        raise BadInput(
            f"{owner} needs phrases of the concept and captions of what must stay; add `phrases` and `keep` to the "
            "concept file"
        )
    shares = {k: v for k, v in SHARES.items() if pools[k]}
    made: list[tuple[str, str, str]] = [(c, c, "given") for c in captions]
    styles = ["", *words.get("styles", ())]
    for kind, share in shares.items():
        order = drawn.sample(pools[kind], len(pools[kind]))
        for k in range(round(count * share / sum(shares.values()))):
            phrase, turn = order[k % len(order)], k // len(order)
            style = styles[(k + turn) % len(styles)] if k % 2 or turn else ""
            made.append((styled(phrase, style), phrase, kind))
    unique = list({m[0]: m for m in reversed(made)}.values())[::-1]
    seeds = max(per_caption, images // len(unique))
    return [
        Case(f"{owner}-{k}-{j}", text, seed=row_seed("fit", "wukong", seed, text, j), variant=kind, group=group)
        for k, (text, group, kind) in enumerate(unique)
        for j in range(seeds)
    ]
