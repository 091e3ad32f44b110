"""Negative prompt: classifier-free guidance pushes away from the concept's words instead of from the empty text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call, Concept, Frame, Prompt
from genward.ops.phrases import HARM_WORDS, joined, windows


@dataclass(frozen=True)
class NegativePrompt:
    """Guide away from the concept's words: ``n + w(p - n)`` with n predicted for them. No extra cost; no effect at
    guidance 1."""

    name: ClassVar[str] = "negative_prompt"
    needs_guidance: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = frozenset()
    text: str = HARM_WORDS
    """The negative prompt, phrases separated by commas; it takes the place of a row's own and may be longer than the
    encoder reads at once. Empty: rows keep theirs."""
    concept: str = ""
    """Name of the concept that the text was made from, for the record."""

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the concept's phrases, comma-separated, the names of all targets first."""
        return cls(**{"text": joined(concept), "concept": concept.name, **fields})

    def attach(self, rig: Rig) -> None:
        """Replace every row's negative prompt; one that the encoder would cut goes to the denoiser in several encodings
        side by side."""
        parts = windows(self.text, rig.fits)
        if len(parts) > 1:
            rig.inputs(_in_parts(rig, parts))
            return

        def fn(prompts: list[Prompt]) -> list[Prompt]:
            return [p._replace(negative=self.text) for p in prompts] if self.text else prompts

        rig.prompts(fn)


def _in_parts(rig: Rig, parts: Sequence[str]) -> Callable[[Call, Frame], Call]:
    """Unconditional rows see the parts' states (parts · t, c), the others their own as many times: cross-attention over
    keys that are all repeated equally often gives what it gave over each once, so their prediction stays."""
    kept: dict[str, Tensor] = {}

    def fn(call: Call, frame: Frame) -> Call:
        if "text" not in kept:
            kept["text"] = rig.encode(parts).detach().flatten(0, 1)
        rows = ~frame.conditional.to(call.text.device)
        text = call.text.repeat(1, len(parts), 1)
        return call._replace(text=torch.where(rows[:, None, None], kept["text"].to(text), text))

    return fn
