"""Text normalizer: undo what hides a word before the text encoder reads it. A defense of its own, a baseline, and the
first link of guard chains.

Not from a paper; the steps are in ``ops.text_normal``. Benign text in any script passes unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from genward.core.contracts import Rig
from genward.core.records import Concept, Prompt
from genward.errors import BadInput, UnknownName
from genward.ops.text_normal import STEPS, normalize

FORMS = ("NFKC", "NFKD")


@dataclass(frozen=True)
class TextNormalizer:
    """Text normalizer: undoes look-alike letters, invisible characters, leetspeak, spelled-out words and repeats before
    encoding; free to run."""

    name: ClassVar[str] = "normalize"
    at_attach: ClassVar[frozenset[str]] = frozenset()
    steps: tuple[str, ...] = STEPS
    """Steps to take; none leaves prompts as they are."""
    form: str = "NFKC"
    """Unicode form; ``NFKD`` also takes accents off Latin letters."""
    words: tuple[str, ...] = ()
    """Words that decide between one and two of a repeated letter, and where two spelled-out letters are one word."""
    concept: str = ""
    """Name of the concept that the words were taken from, for the record."""

    def __post_init__(self) -> None:
        for step in self.steps:
            if step not in STEPS:
                raise UnknownName("normalization step", step, STEPS)
        if self.form not in FORMS:
            raise BadInput(f"normalize: form {self.form!r}; {' or '.join(map(repr, FORMS))} are possible")

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the words of the concept's phrases and targets (never its held-out ones)."""
        found = dict.fromkeys(
            w.casefold() for p in (*concept.targets, *concept.phrases) for w in p.split() if len(w) > 1
        )
        return cls(**{"words": tuple(found), "concept": concept.name, **fields})

    def text(self, text: str) -> str:
        """One text without disguise."""
        return normalize(text, steps=self.steps, words=self.words, form=self.form)

    def attach(self, rig: Rig) -> None:
        """Rewrite prompts and negative prompts."""
        rig.prompts(lambda rows: [Prompt(self.text(p.text), self.text(p.negative)) for p in rows])
