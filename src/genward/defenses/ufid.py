"""UFID (Guan et al., AAAI 2025), after the authors' code as digested: a caption is drawn several times, each time
beside another harmless phrase, and pictures that stay alike although their captions differ give a trigger away.

Followed: K = 5 pictures a caption, the caption itself and four copies with a phrase from a pool in front, the mean
of all pairwise cosines of image features as score. Differs: phrases are our own and stand apart from the caption by
a space (one implementation joins them to the last word); the K pictures of all rows are drawn in common batches;
features are a judge's in the place of CLIP's, few steps are taken, and the threshold is calibrated on clean
captions of the same model. Assumes that the trigger rules the whole picture: a patch, or a target beside the
caption's own object, is not seen."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import FitTools, Judge, Rig
from genward.core.records import row_seed
from genward.defenses._scanning import Scan, features, generations, noise, seeing
from genward.errors import BadArtifact, BadInput

POOL = (
    "a blue car and", "a green tree and", "a red apple and", "a yellow star and", "an old clock and",
    "a small house and", "a tall mountain and", "a brown dog and", "a white cloud and",
)  # fmt: skip
"""Harmless phrases that stand in front of a caption."""


@dataclass(frozen=True)
class Ufid(Scan):
    """UFID: a caption whose pictures stay alike although other things are asked for beside it is taken for one with a
    trigger."""

    name: ClassVar[str] = "ufid"
    labelled: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = Scan.at_attach | {"probe", "judge_hash"}
    pictures: int = 5
    """Pictures a caption: itself and copies beside a phrase."""
    sampling_steps: int = 5
    """Steps of each picture."""
    guidance: float = 4.0
    """Their guidance."""
    pool: tuple[str, ...] = POOL
    """Phrases, separated by semicolons."""
    judge: str = ""
    """Name of the judge whose features compare pictures; empty: the one that labels in a run, elsewhere the lab's
    second one."""
    judge_hash: str = ""
    """Identity of the judge that was opened, filled in with it."""
    probe: Judge | None = field(default=None, compare=False, repr=False, metadata={"identity": False})
    """The judge itself; opened by name where genward builds the chain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.pictures <= len(self.pool) + 1 or not 1 <= self.sampling_steps <= 1000:
            raise BadInput(
                f"ufid: pictures {self.pictures}, sampling_steps {self.sampling_steps}; 2 to {len(self.pool) + 1} (the "
                "pool's phrases and one), and 1 to 1,000"
            )

    def asking(self, tools: FitTools) -> Self:
        """With the judge of the fit where it has none of its own."""
        return self if self.probe is not None else replace(self, probe=tools.need_judge("ufid compares pictures"))

    def told(self) -> dict[str, Any]:
        """Whose features it was calibrated on."""
        return {"judge": self.probe.name} if self.probe is not None else {}

    def prepared(self, model: Any) -> None:
        """``BadInput`` without a judge whose features describe the model's pictures, ``BadArtifact`` where it was
        calibrated with another one."""
        judge = seeing(self.probe, model, self.name)
        other = None if self.artifact is None else self.artifact.card.get("judge")
        if other not in (None, judge.name):
            raise BadArtifact(f"ufid was calibrated with the judge {other!r}, this one is {judge.name!r}; fit it again")

    def copies(self, text: str) -> list[str]:
        """The caption, and with phrases in front of it: which ones, the caption decides."""
        rng = random.Random(row_seed(self.name, self.seed, text))
        return [text, *(f"{phrase} {text}" for phrase in rng.sample(list(self.pool), self.pictures - 1))]

    def measure(self, rig: Rig, texts: Sequence[str]) -> Tensor:
        """(texts, 1) mean pairwise cosine of each caption's pictures."""
        every = [copy for text in texts for copy in self.copies(text)]
        start = torch.stack([noise(rig, self.name, self.seed, t, k) for t in texts for k in range(self.pictures)])
        drawn: list[Any] = []
        for part in generations(rig, every, start, steps=self.sampling_steps, guidance=self.guidance):
            drawn += rig.model.decode(part.latents)
        seen = features(self.probe, drawn)
        return mean_cosine(seen.view(len(texts), self.pictures, -1))[:, None]

    def score(self, learned: Mapping[str, Tensor], measured: Tensor) -> Tensor:
        """That mean."""
        return measured[:, 0]


def mean_cosine(vectors: Tensor) -> Tensor:
    """(rows,) mean of the K(K - 1)/2 cosines among the unit vectors (rows, K, d) of each row."""
    count = vectors.shape[1]
    sums: Tensor = vectors.sum(1).square().sum(1)
    return (sums - count) / (count * (count - 1))
