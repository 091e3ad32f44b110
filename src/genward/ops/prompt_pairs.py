"""Pairs of captions that differ in one thing: a concept's phrase, and the safe one that the concept file maps it to, in
the same context. Templated; the paper of ActErase asks a language model for ten of at most 20 words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genward.core.records import Concept
from genward.ops import phrases
from genward.ops.captions import styled

EACH = ("target", "concept")
"""What pairs are made for: each target of a concept, or the concept as a whole."""
CONTEXTS = (
    "{}", "a picture of {}", "a close view of {}", "{} on a table", "{} by a window", "{} in a garden",
    "{} on a plain background", "a drawing of {}", "a small {} seen from above", "an old picture of {}",
)  # fmt: skip
"""Contexts of pairs on a model without a vocabulary."""


class Pair(NamedTuple):
    """A caption of the concept, the same made safe, and the number of the target that it is about."""

    concept: str
    safe: str
    group: int


def prompt_pairs(
    concepts: Sequence[Concept],
    words: Mapping[str, Any],
    count: int,
    templates: Sequence[str] = (),
    each: str = EACH[0],
) -> list[Pair]:
    """``count`` pairs for each target (or concept): every phrase in the first context, then in the next one.

    Args:
        words: the model's vocabulary, see ``core.contracts.FitTools``. templates: contexts with ``{}``; empty: the
            phrase alone, then in the model's styles, or in ``CONTEXTS``. each: one of ``EACH``.

    Raises:
        BadInput: a concept without phrases, or a template without ``{}``.
    """
    found: dict[str, Pair] = {}
    group = 0
    for concept in concepts:
        phrases.pairs([concept], templates)  # refuses a concept without phrases
        for mine in _groups(concept, each):
            made = [
                Pair(phrases.fill(context, phrase), phrases.fill(context, concept.anchor_of(phrase)), group)
                for context in _contexts(concept, templates, words)
                for phrase in mine
            ]
            for pair in made[:count]:
                found.setdefault(pair.concept, pair)
            group += 1
    return list(found.values())


def _groups(concept: Concept, each: str) -> list[tuple[str, ...]]:
    """The phrases of each target, where the file has as many for each; else all together."""
    count, said = len(concept.targets), concept.phrases
    if each == "concept" or count < 2 or len(said) % count:
        return [said]
    per = len(said) // count
    return [said[k : k + per] for k in range(0, len(said), per)]


def _contexts(concept: Concept, given: Sequence[str], words: Mapping[str, Any]) -> tuple[str, ...]:
    if given:
        return tuple(given)
    if concept.kind == "style":
        return ("{}", *phrases.STYLE_TEMPLATES)
    styles = words.get("styles", ())
    return ("{}", *(styled("{}", s) for s in styles)) if styles else CONTEXTS
