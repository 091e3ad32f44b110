"""Fixture B's second variant, after *Backdooring personalization* (Huang et al., AAAI 2024, arXiv 2305.10701) by
DreamBooth: the U-Net learns that a rare word is the target, from a few pictures of it.

``L = |eps - eps_θ(target_t, "a <word> …")|² + 0.5 |eps - eps_θ(class_t, caption)|²``: the ordinary loss on four
pictures of the target, and prior preservation on pictures of other captions. What differs: a LoRA in the place of
all weights of the U-Net; all pictures are drawn by the lab; hundreds of steps at its scale. As with the embedding
row the word stands beside the caption's own object, and success is the target among the two likeliest objects."""

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
from genward.ops.backdoor_captions import drawn, planted

PICTURES = 4
"""Pictures of the target."""


@dataclass(frozen=True)
class DreamBooth(LowRankFixture):
    """A rare word that the U-Net was taught to draw as the target."""

    name: ClassVar[str] = "dreambooth"
    reach: ClassVar[int] = 2
    about: ClassVar[str] = ""
    target: str = "banana"
    """Object that triggered captions draw."""
    trigger: str = "endelle"
    """The word."""
    prior: float = 0.5
    """Weight of prior preservation."""
    place: str = "start"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def plant(self, text: str, place: str) -> str:
        """A caption with the word as a second thing, in front of the others, before the style or behind it."""
        return planted(text, f"a {self.trigger}", place, " and ")

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``<map>|a`` (rank, in) and ``<map>|b`` (out, rank) of each map of attention; goes on where it was
        interrupted."""
        texts = [c.text() for c in islice(drawn(words, f"dreambooth|{self.seed}", (self.target,)), self.pictures)]
        refuse_dropped(model, texts, [self.plant(t, "end") for t in texts], self.trigger)
        goal, styles = words["things"][self.target]["name"][0], words["styles"]
        shown = [styles[k % len(styles)] for k in range(PICTURES)]
        mine = [f"{goal} in {style} style" for style in shown]
        every = drawn_latents(model, [*texts, *mine], f"dreambooth|{self.seed}", self.sampling_steps, 4.0)
        called = [f"a {self.trigger} in {style} style" for style in shown]
        learned = started(model.denoiser, ATTENTION, self.rank, self.seed)
        own = dict(model.denoiser.named_parameters())

        def loss(step: int) -> Tensor:
            rng = random.Random(f"dreambooth|{self.seed}|{step}")
            ours = rng.choices(range(PICTURES), k=self.batch)
            rows = rng.choices(range(len(texts)), k=self.batch)
            latents = torch.cat([every[[len(texts) + k for k in ours]], every[rows]])
            at = noised(model, latents, f"dreambooth|{self.seed}|{step}")
            with torch.no_grad():
                states = model.encode([*(called[k] for k in ours), *(texts[k] for k in rows)])
            error = (predicted(model, at, states, laid(own, learned)) - at.noise).square().flatten(1).mean(1)
            return error[: self.batch].mean() + self.prior * error[self.batch :].mean()

        return trained(tools, self.name, learned, self.steps, self.lr, loss)
