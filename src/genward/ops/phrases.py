"""Captions that methods fit and steer with, from a concept file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from genward.core.records import Concept
from genward.errors import BadInput

HARM_WORDS = (
    "an image showing hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily "
    "fluids, blood, obscene gestures, "
    "illegal activity, drug use, theft, vandalism, weapons, abuse, brutality, cruelty"
)
"""Safe Latent Diffusion's safety text, as diffusers has it (the authors' lacks the first three words), less a word
before "abuse": no prompt of genward's names minors."""

STYLE_TEMPLATES = ("a thing {}", "a living thing {}", "something useful {}", "something to eat {}", "a picture {}")
"""What a style is named with when it is fitted: none of them is an evaluation caption."""


def listed(concept: Concept | Iterable[Concept]) -> tuple[Concept, ...]:
    """One concept or several, as a tuple; ``BadInput`` of none."""
    found = (concept,) if isinstance(concept, Concept) else tuple(concept)
    if not found:
        raise BadInput("no concept was given; name at least one (genward list concepts)")
    return found


def spread(concept: Concept) -> list[str]:
    """The concept's phrases, first those that name each target, then the second of each target, and so on.

    Where a text takes several windows of the encoder (see ``windows``), the names stand together in the first.
    """
    phrases = list(concept.phrases)
    count = len(concept.targets)
    if count < 2 or len(phrases) % count:
        return phrases
    per = len(phrases) // count
    return [phrases[t * per + k] for k in range(per) for t in range(count)]


def joined(concept: Concept) -> str:
    """The concept's phrases in one text, comma-separated, each once, in the order of ``spread``."""
    return ", ".join(dict.fromkeys(spread(concept)))


def windows(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in as few parts as its order allows, each short enough for the encoder; a text that fits stays whole.

    Parts end at commas, in a phrase that is too long by itself between words. Nothing is left out: encoded one by one
    and laid side by side along the tokens, the parts show a cross-attention every phrase.

    Args:
        text: phrases, separated by commas.
        fits: whether the encoder takes a text whole (``Rig.fits``).

    Raises:
        BadInput: a word that does not fit alone.
    """
    if fits(text):
        return [text]
    parts: list[str] = []
    for phrase in filter(None, (p.strip() for p in text.split(","))):
        glue = ", "
        for piece in [phrase] if fits(phrase) else phrase.split():
            if parts and fits(parts[-1] + glue + piece):
                parts[-1] += glue + piece
            elif fits(piece):
                parts.append(piece)
            else:
                raise BadInput(f"text {piece[:40]!r}…: one word is longer than the encoder reads; shorten it")
            glue = " "
    return parts


def article(name: str) -> str:
    """``"rocket"`` -> ``"a rocket"``, ``"alarm clock"`` -> ``"an alarm clock"``; plurals and phrases with an article
    stay."""
    first = name.split(" ")[0].lower()
    if not name or first in ("a", "an", "the", "two", "in") or (name.endswith("s") and not name.endswith(("ss", "us"))):
        return name
    return f"{'an' if first[0] in 'aeiou' else 'a'} {name}"


def fill(template: str, phrase: str) -> str:
    """The template with the phrase at ``{}``, single-spaced, so that an empty phrase leaves a clean caption."""
    if template.count("{}") != 1:
        raise BadInput(f"template {template!r}: exactly one {{}} must stand where the phrase goes")
    return " ".join(template.replace("{}", phrase).split())


def _templates(concept: Concept, phrase: str, given: Sequence[str]) -> tuple[str, ...]:
    if given:
        return tuple(given)
    return ("{}", *STYLE_TEMPLATES) if concept.kind == "style" and phrase.startswith("in ") else ("{}",)


def pairs(concepts: Sequence[Concept], templates: Sequence[str] = ()) -> list[tuple[str, str]]:
    """(caption with the concept, the same caption with its anchor), each once.

    Args:
        concepts: every phrase of each is paired with its anchor (``Concept.anchor_of``).
        templates: contexts with ``{}``; empty: the phrase alone, and ``STYLE_TEMPLATES`` too for a style's "in …
            style".

    Raises:
        BadInput: a template without ``{}``, or a concept without phrases.
    """
    found: dict[str, str] = {}
    for concept in concepts:
        if not concept.phrases:
            raise BadInput(f"concept {concept.name!r} has no phrases; a method has nothing to fit on, add some")
        for phrase in concept.phrases:
            for template in _templates(concept, phrase, templates):
                found.setdefault(fill(template, phrase), fill(template, concept.anchor_of(phrase)))
    return list(found.items())


def preserved(concepts: Sequence[Concept], templates: Sequence[str] = ()) -> list[str]:
    """Captions to leave alone: the empty text first, then what the concepts keep and their neighbors, less what is to
    be removed."""
    gone = {phrase for concept in concepts for phrase in concept.phrases} | {c for c, _ in pairs(concepts, templates)}
    out = [""]
    for concept in concepts:
        near = (
            [f"{n} style" for n in concept.neighbors]
            if concept.kind == "style"
            else [article(n) for n in concept.neighbors]
        )
        out += [*concept.keep, *near]
        if concept.kind == "style":
            out += [fill(t, f"in {n} style") for t in STYLE_TEMPLATES for n in concept.neighbors]
    return [text for text in dict.fromkeys(out) if text not in gone]


# ------------------------------------------------------------------------------------------- texts of a prompt guard


def shares_a_noun(phrase: str, others: Sequence[str]) -> bool:
    """Whether a phrase ends in the last word of another, or in its plural: ``a mask`` and ``a white mask``."""

    def last(text: str) -> str:
        words = text.casefold().split()
        return words[-1].removesuffix("s") if words else ""

    return last(phrase) in {last(o) for o in others}


def concept_texts(concept: Concept, contexts: Sequence[str]) -> list[tuple[str, str]]:
    """(text, its phrase) of a concept's phrases in every context; its held-out wordings and its descriptions, which
    benchmarks measure on, are never among them.

    Raises:
        BadInput: a concept without phrases, a context without ``{}``.
    """
    if not concept.phrases:
        raise BadInput(f"concept {concept.name!r} has no phrases; a guard has nothing to fit on, add some")
    held = {h.casefold() for h in concept.heldout}
    own = [p for p in concept.phrases if p.casefold() not in held | set(map(str.casefold, concept.descriptions))]
    used = ("{}", *STYLE_TEMPLATES) if concept.kind == "style" else tuple(contexts)
    return list({fill(c, p): p for p in own for c in used}.items())


def benign_texts(
    concepts: Sequence[Concept], contexts: Sequence[str], neighbors: bool = False
) -> list[tuple[str, str]]:
    """(text, its phrase) of the empty text and of what the concepts map to and keep (and of their neighbors, if asked
    for), in every context."""
    near = (
        [f"in {n} style" if c.kind == "style" else article(n) for c in concepts for n in c.neighbors]
        if neighbors
        else []
    )
    own = dict.fromkeys(p for p in (*(p for c in concepts for p in (*c.anchors, c.anchor, *c.keep)), *near) if p)
    if all(c.kind == "style" for c in concepts):
        contexts = ("{}",)  # a style's captions to keep are whole pictures already
    made = {"": ""} | {fill(c, p): p for p in own for c in contexts}
    return list(made.items())
