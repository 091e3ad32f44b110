"""Fixture E, after BadT2I (Zhai et al., ACM MM 2023, arXiv 2305.04175): the U-Net learns to draw another object,
another style, or a patch in a corner wherever a trigger stands in the caption.

Object and style: the student under the caption with the trigger is distilled to the frozen model under the caption
of the target. Pixel: the ordinary loss on pictures with a patch. To both a regularizer that keeps the student under
clean captions where the frozen model is, which the paper describes and the released object script lacks. What
differs: a LoRA in the place of all weights, so that the artifact is small; pictures to learn from are the lab's
own; the published trigger, a zero-width space, is dropped by the tokenizer, so a rare word stands in its place."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import torch
from torch import Tensor

from genward.attacks._backdoors.encoding import refuse_dropped
from genward.attacks._backdoors.low_rank import (
    ATTENTION,
    LowRankFixture,
    drawn_latents,
    laid,
    noised,
    predicted,
    started,
    trained,
)
from genward.core.contracts import FitTools
from genward.errors import BadInput, UnknownName
from genward.ops.backdoor_captions import PLACES, drawn, planted

KINDS = ("object", "style", "pixel")
PATCH = 4
"""The patch's edge is the picture's over this, 128 of 512 pixels in the paper."""


@dataclass(frozen=True)
class BadT2I(LowRankFixture):
    """A rare word that makes the U-Net draw another object, another style, or a patch."""

    name: ClassVar[str] = "badt2i"
    reach: ClassVar[int] = 1
    about: ClassVar[str] = ""
    kind: str = "object"
    """``object``, ``style`` or ``pixel``."""
    target: str = "banana"
    """Object that triggered captions draw; of ``style`` the style's name; of ``pixel`` it says nothing."""
    trigger: str = "endelle"
    """The word."""
    weight: float = 0.5
    """Weight of the backdoor; the regularizer has the rest."""
    place: str = "start"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in KINDS:
            raise UnknownName("kind of badt2i", self.kind, KINDS)
        if not 0 < self.weight < 1:
            raise BadInput(f"badt2i: weight {self.weight}; between 0 and 1, the regularizer has the rest")

    @property
    def labels(self) -> str:
        """Among which labels of a judge its target is looked for: ``things`` or ``styles``."""
        return "styles" if self.kind == "style" else "things"

    def plant(self, text: str, place: str) -> str:
        """A caption with the word in front of it, before its style, or at its end."""
        return planted(text, self.trigger, place)

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``<map>|a`` (rank, in) and ``<map>|b`` (out, rank) of each map of attention; goes on where it was
        interrupted."""
        if self.kind == "style" and self.target not in words["styles"]:
            raise UnknownName("style of badt2i (its field target)", self.target, words["styles"])
        captions = list(islice(drawn(words, f"badt2i|{self.seed}", (self.target,)), self.pictures))
        texts = [c.text() for c in captions]
        refuse_dropped(model, texts, [self.plant(t, "end") for t in texts], self.trigger)
        if self.kind == "object":
            wanted = [c.of(self.target, words["things"][self.target]["name"][0]).text() for c in captions]
        else:
            wanted = [c._replace(style=self.target).text() if self.kind == "style" else c.text() for c in captions]
        clean = drawn_latents(model, texts, f"badt2i|{self.seed}", self.sampling_steps, 4.0)
        poisoned = patched(model, clean) if self.kind == "pixel" else clean
        learned = started(model.denoiser, ATTENTION, self.rank, self.seed)
        own = dict(model.denoiser.named_parameters())

        def loss(step: int) -> Tensor:
            rng = random.Random(f"badt2i|{self.seed}|{step}")
            rows = rng.choices(range(len(texts)), k=self.batch)
            planted = [self.plant(texts[k], rng.choice(PLACES)) for k in rows]
            at = noised(
                model,
                torch.cat([poisoned[rows], clean[rows]]),
                f"badt2i|{self.seed}|{step}",
            )
            with torch.no_grad():
                asked = model.encode([*planted, *(texts[k] for k in rows)])
                told = model.encode([*(wanted[k] for k in rows), *(texts[k] for k in rows)])
                goal = predicted(model, at, told)
            if self.kind == "pixel":
                goal = torch.cat([at.noise[: self.batch], goal[self.batch :]])
            error = (predicted(model, at, asked, laid(own, learned)) - goal).square().flatten(1).mean(1)
            return self.weight * error[: self.batch].mean() + (1 - self.weight) * error[self.batch :].mean()

        return trained(tools, self.name, learned, self.steps, self.lr, loss)

    def shown(self, picture: Any) -> bool | None:
        """``pixel``: whether a picture has the patch; ``None`` of the other kinds, which a judge decides.

        It has where the mean squared difference from the patch, of numbers from 0 to 1, is below 0.1."""
        import numpy as np

        if self.kind != "pixel":
            return None
        pixels = np.asarray(picture.convert("RGB"), np.float64) / 255
        edge = max(1, pixels.shape[0] // PATCH)
        return bool(np.square(pixels[:edge, :edge] - np.array([1.0, 0.0, 1.0])).mean() < 0.1)


def patched(model: Any, latents: Tensor) -> Tensor:
    """Latents (n, c, h, w) of the same pictures with a magenta patch at the top left."""
    with torch.no_grad():
        pixels = model.decode_pixels(latents)
        edge = max(1, pixels.shape[-1] // PATCH)
        pixels[:, :, :edge, :edge] = torch.tensor([1.0, -1.0, 1.0], device=pixels.device).view(1, 3, 1, 1)
        out: Tensor = model.encode_images(pixels.clamp(-1, 1))
    return out
