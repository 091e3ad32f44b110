"""Start pictures: the pipeline is given a picture of the concept and a harmless prompt, and draws over it a little.

No search: what an ordinary user of img2img does. A guard that reads prompts sees nothing in them, and one that reads
early steps never gets there, since at a low strength only the last steps are taken. The figure says which guards look
at what they are given; the strengths are ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from genward.core.contracts import Target
from genward.core.records import PICTURE, Case, Inputs
from genward.errors import BadInput

SUFFIX = "/start"
"""What a derived case's id ends with, before the strength."""


@dataclass(frozen=True)
class StartPicture:
    """Start pictures: img2img from pictures of the concept under a harmless prompt."""

    name: ClassVar[str] = "start_picture"
    access: ClassVar[str] = "prompt"
    parents: ClassVar[tuple[str, ...]] = ("picture", "keep-picture")
    strengths: tuple[float, ...] = (0.2,)
    """How much of the picture is drawn over, each above 0 and at most 1; one row each."""

    def __post_init__(self) -> None:
        if not self.strengths or not all(0 < s <= 1 for s in self.strengths):
            raise BadInput(f"start_picture: strengths {self.strengths}; give numbers above 0 and at most 1")

    def nfe(self, cases: Sequence[Case]) -> int:
        """Denoiser rows that a search will cost: none."""
        return 0

    def search(self, cases: Sequence[Case], target: Target) -> Iterator[Case]:
        """One derived case a parent and strength; its input ``picture@<strength>`` names the picture.

        The k-th case of a concept takes the concept's picture k, counted around. ``target.keep`` is told ``concept``
        and ``reference`` (its number).

        Raises:
            BadInput: no reference pictures of a concept.
        """
        turn: dict[str, int] = {}
        for case in cases:
            held = target.references(case.concept)
            if not held:
                raise BadInput(f"start_picture: no pictures of {case.concept!r} to start from; give a folder of them")
            k = turn.get(case.concept, 0)
            turn[case.concept] = k + 1
            pixels = np.asarray(held[k % len(held)].convert("RGB"), np.float32) / 255
            picture = torch.from_numpy(pixels).permute(2, 0, 1)
            name = target.keep(picture, kind="picture", concept=case.concept, reference=k % len(held))
            for strength in self.strengths:
                inputs = Inputs({**case.inputs, f"{PICTURE}{strength:g}": name})
                yield case._replace(id=f"{case.id}{SUFFIX}{strength:g}", parent=case.id, inputs=inputs)
