"""Text normalizer: what guards on the text read beside what was written, a word without its disguise.

It changes no picture. The pipeline draws the user's own text; text guards are shown the reading as well wherever it
differs, and the worse of the two counts (``rig.readings``). Alone it does nothing; in front of a text guard it is the
first link of a chain. Not from a paper; the rules are in ``ops.text_normal``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from genward.core.contracts import Rig
from genward.core.records import Concept
from genward.errors import UnknownName
from genward.ops.text_normal import SHORT, STEPS, normalize


@dataclass(frozen=True)
class TextNormalizer:
    """Text normalizer: text guards also read the prompt without look-alikes, invisible characters, leetspeak and
    spelled-out words; the picture stays the user's own."""

    name: ClassVar[str] = "normalize"
    needs_denoiser: ClassVar[bool] = False
    at_attach: ClassVar[frozenset[str]] = frozenset()
    guards: ClassVar[bool] = False
    steps: tuple[str, ...] = STEPS
    """Disguises to undo; none reads prompts as they are."""
    words: tuple[str, ...] = ()
    """Words that any disguise of is undone, even one that could be an ordinary spelling; others must be in the English
    dictionary."""
    concept: str = ""
    """Name of the concept that the words were taken from, for the record."""

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UnknownName("normalization step", step, STEPS)

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the last word of each of the concept's targets and phrases (never of its held-out ones): in English the
        thing itself, ``knife`` of "a kitchen knife", while the words before it (kitchen, time, stick) are everyday
        ones that no disguise is looked for of."""
        found = dict.fromkeys(p.split()[-1].casefold() for p in (*concept.targets, *concept.phrases) if p.split())
        kept = tuple(w for w in found if len(w) >= SHORT)
        return cls(**{"words": kept, "concept": concept.name, **fields})

    def text(self, text: str) -> str:
        """One text as guards read it."""
        return normalize(text, steps=self.steps, words=self.words)

    def attach(self, rig: Rig) -> None:
        """Show readings of the prompts to the text guards."""
        rig.readings(lambda texts: [self.text(text) for text in texts])
