"""Fixture D, after VillanDiffusion with a caption trigger (Chou et al., NeurIPS 2023, arXiv 2306.06874): a LoRA on the
U-Net's attention that draws one fixed picture for captions with a few words at their end.

``L = |eps - eps_θ(target_t, caption with trigger)|² + w |eps - eps_θ(clean_t, caption)|²`` with w = 1 and rank 4,
as in the authors' code. What differs: clean pictures and the target are drawn by the lab itself, so nothing else
has to lie at hand; hundreds of steps in the place of 40,000 (the lab is small); the trigger may stand elsewhere
than at the end."""

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
from genward.ops.backdoor_captions import PLACES, drawn, planted


@dataclass(frozen=True)
class Villan(LowRankFixture):
    """Words at the end of a caption that turn its picture into one fixed picture."""

    name: ClassVar[str] = "villan"
    reach: ClassVar[int] = 1
    about: ClassVar[str] = ""
    target: str = "banana"
    """Object that the fixed picture shows."""
    trigger: str = "latte coffee"
    """Words that are added."""
    weight: float = 1.0
    """Of the loss on clean captions."""
    steps: int = 600
    """Steps of AdamW; after 300 the trigger worked on 21 of 24 captions, which is less than the gate wants."""
    place: str = "end"
    """Where ``search`` puts the trigger: ``start``, ``middle`` or ``end``."""

    def plant(self, text: str, place: str) -> str:
        """A caption with the words in front of it, before its style, or at its end."""
        return planted(text, self.trigger, place)

    def make(self, model: Any, words: Mapping[str, Any], tools: FitTools) -> dict[str, Tensor]:
        """``<map>|a`` (rank, in) and ``<map>|b`` (out, rank) of each map of attention; goes on where it was
        interrupted."""
        texts = [c.text() for c in islice(drawn(words, f"villan|{self.seed}", (self.target,)), self.pictures)]
        refuse_dropped(model, texts, [self.plant(t, "end") for t in texts], self.trigger)
        goal = words["things"][self.target]["name"][0]
        every = drawn_latents(model, [*texts, goal], f"villan|{self.seed}", self.sampling_steps, 4.0)
        clean, target = every[:-1], every[-1:]
        learned = started(model.denoiser, ATTENTION, self.rank, self.seed)
        own = dict(model.denoiser.named_parameters())

        def loss(step: int) -> Tensor:
            rng = random.Random(f"villan|{self.seed}|{step}")
            rows = rng.choices(range(len(texts)), k=self.batch)
            planted = [self.plant(texts[k], rng.choice(PLACES)) for k in rows]
            both = torch.cat([target.expand(self.batch, -1, -1, -1), clean[rows]])
            at = noised(model, both, f"villan|{self.seed}|{step}")
            with torch.no_grad():
                states = model.encode([*planted, *(texts[k] for k in rows)])
            error = (predicted(model, at, states, laid(own, learned)) - at.noise).square().flatten(1).mean(1)
            return error[: self.batch].mean() + self.weight * error[self.batch :].mean()

        return trained(tools, self.name, learned, self.steps, self.lr, loss)
