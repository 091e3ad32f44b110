"""Safe Latent Diffusion (Schramowski et al., arXiv 2211.05105): steer sampling away from a safety text; weights stay.

Follows the authors' code; what differs: warm-up is given for 50 steps and scaled to the loop; at guidance 1, where the
authors' code silently does nothing, generation is refused; the safety text is encoded as the model encodes prompts
(with its mask, if it uses one), once per guard, and a text that is longer than the encoder reads in several encodings
side by side, where the authors' code would cut it; in warm-up the third prediction is left out where the momentum scale
is 0 (elsewhere momentum gathers there)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call, Concept, Frame
from genward.errors import BadInput, Inapplicable, UnknownName
from genward.ops.guidance import cfg
from genward.ops.phrases import HARM_WORDS, joined, windows
from genward.ops.sld import PRESETS, SldSettings, sld_step, warmup_steps


@dataclass(frozen=True)
class SafeLatentDiffusion:
    """Safe Latent Diffusion: guide away from a safety text, element by element, with warm-up and momentum. One more
    prediction a step."""

    name: ClassVar[str] = "sld"
    needs_guidance: ClassVar[bool] = True
    extra_nfe: ClassVar[float] = 1.0
    at_attach: ClassVar[frozenset[str]] = frozenset()
    preset: str = "medium"
    """``weak``, ``medium``, ``strong`` or ``max``; the fields below override it where they are given."""
    text: str = HARM_WORDS
    """The safety text, phrases separated by commas; it may be longer than the encoder reads at once."""
    warmup: int | None = None
    """Unguided steps at the start, of a loop of 50; scaled to the loop's length."""
    scale: float | None = None
    """Safety guidance scale; 0 switches the defense off."""
    threshold: float | None = None
    """Elements are guided where prompt and safety prediction differ by less than this (signed)."""
    momentum_scale: float | None = None
    """Share of the momentum in the guidance."""
    momentum_beta: float | None = None
    """How much momentum stays from step to step, below 1."""
    concept: str = ""
    """Name of the concept that the text was made from, for the record."""

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UnknownName("sld preset", self.preset, PRESETS)
        s = self.settings
        if (
            not all(math.isfinite(x) for x in s)
            or s.warmup < 0
            or s.scale < 0
            or not 0 <= s.momentum_beta < 1
            or s.momentum_scale < 0
        ):
            raise BadInput(f"sld: {s._asdict()}; scales and warm-up must be at least 0 and momentum_beta in [0, 1)")
        if not self.text.strip():
            raise BadInput(
                "sld: the safety text is empty; name what to steer away from (sld:weapons takes a concept's words)"
            )

    @property
    def settings(self) -> SldSettings:
        """The preset with the given fields in place of its own."""
        given = {k: v for k in SldSettings._fields if (v := vars(self)[k]) is not None}
        return PRESETS[self.preset]._replace(**given)

    @classmethod
    def for_concept(cls, concept: Concept, **fields: Any) -> Self:
        """With the concept's phrases as safety text, the names of all targets first."""
        return cls(**{"text": joined(concept), "concept": concept.name, **fields})

    def attach(self, rig: Rig) -> None:
        """Own the guidance port. Momentum is kept for each row, and starts at zero with each batch."""
        rig.guidance(_guide(rig, self.text, self.settings))


def _guide(rig: Rig, text: str, settings: SldSettings) -> Callable[[Tensor | None, Tensor, Call, Frame], Tensor]:
    state: dict[str, Tensor] = {}

    def fn(uncond: Tensor | None, cond: Tensor, call: Call, frame: Frame) -> Tensor:
        if uncond is None:
            raise Inapplicable("sld acts through classifier-free guidance; use guidance above 1 or leave it out")
        warmup, sampling = warmup_steps(settings.warmup, frame.steps), frame.step >= 0
        step = (
            frame.step if sampling else warmup
        )  # one prediction alone, as attacks ask for, is guided and has no momentum yet
        if settings.scale == 0 or (step < warmup and settings.momentum_scale == 0):
            return cfg(uncond, cond, frame.guidance)
        if "text" not in state:
            state["text"] = rig.encode(windows(text, rig.fits)).detach().flatten(0, 1)[None]
        rows = frame.case.to(cond.device)
        if not sampling or frame.step == 0 or "velocity" not in state:
            state["velocity"] = cond.new_zeros((int(rows.max()) + 1, *cond.shape[1:]))
        safe = state["text"].to(call.text.device, call.text.dtype).expand(len(cond), -1, -1)
        third = rig.predict(call._replace(text=safe)).noise
        noise, velocity = sld_step(
            uncond,
            cond,
            third,
            state["velocity"][rows],
            step,
            guidance=frame.guidance,
            **{**settings._asdict(), "warmup": warmup},
        )
        state["velocity"] = torch.index_copy(state["velocity"], 0, rows, velocity).detach()
        return noise

    return fn
