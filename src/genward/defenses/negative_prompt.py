"""Negative prompt: classifier-free guidance pushes away from the concept's words instead of from the empty text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from genward.core.contracts import Rig
from genward.core.records import Concept, Prompt
from genward.ops.phrases import HARM_WORDS, joined


@dataclass(frozen=True)
class NegativePrompt:
    """Guide away from the concept's words: ``n + w(p - n)`` with n predicted for them. No extra cost; no effect at
    guidance 1."""

    name: ClassVar[str] = "negative_prompt"
    kind: ClassVar[str] = "prompt"
    fits: ClassVar[bool] = False
    needs_guidance: ClassVar[bool] = True
    extra_nfe: ClassVar[float] = 0.0
    at_attach: ClassVar[frozenset[str]] = frozenset()
    text: str = HARM_WORDS
    """The negative prompt; it takes the place of a row's own. Empty: rows keep theirs."""
    concept: str = ""
    """Name of the concept that the text was made from, for the record."""

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the concept's phrases, comma-separated, the names of all targets first (encoders cut long texts
        short)."""
        return cls(**{"text": joined(concept), "concept": concept.name, **fields})

    def attach(self, rig: Rig) -> None:
        """Replace every row's negative prompt."""

        def fn(prompts: list[Prompt]) -> list[Prompt]:
            return [p._replace(negative=self.text) for p in prompts] if self.text else prompts

        rig.prompts(fn)
