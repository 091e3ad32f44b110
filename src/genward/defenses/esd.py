"""Erased Stable Diffusion (Gandikota et al., arXiv 2303.07345): fine-tune the denoiser so that the concept's prompt
leads away from itself.

The edited model learns ``e(x_t, c) = e*(x_t, '') - eta·(e*(x_t, c) - e*(x_t, ''))`` with e* the frozen model and x_t
from its own partial sampling
under c. What differs from the 2023 code: x_t and the timestep fed belong together (there, x_t is 40 to 58 timesteps
cleaner); timesteps are those of the sampling grid; phrases are trained in batches, the learning rate scaled with the
batch and the number of iterations divided by it (250 × 4 at 4e-5 for 1,000 × 1 at 1e-5); 20 sampling steps instead of
50. ``eta`` is the paper's; the 2025 code's is larger by one (``ec - eta·(ec - e0)``)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Concept, row_seed
from genward.errors import BadInput, UnknownName
from genward.ops import artifacts, phrases
from genward.ops.finetune import (
    Denoise,
    apply_delta,
    changed,
    ddim_scheduler,
    edit_named,
    frozen_of,
    optimize,
    partial_sample,
    student_of,
)
from genward.ops.tools import QUIET

VARIANTS = {
    "x": r"attn2\.",
    "x-strict": r"attn2\.to_[kv]\.",
    "u": r"^(?!time_embedding\.|conv_norm_out\.|conv_out\.)(?!.*attn2\.)",
    "self": r"attn1\.",
    "full": r"",
}
"""Variant -> pattern of the U-Net parameters that are trained."""
ALIASES = {"xattn": "x", "xattn-strict": "x-strict", "noxattn": "u", "selfattn": "self", "esd-x": "x", "esd-u": "u"}
"""Names of the authors' code -> ours."""
TRAJECTORIES = ("edited", "frozen")


@dataclass(frozen=True)
class Esd:
    """Erased Stable Diffusion: fine-tunes cross-attention (ESD-x, for styles) or the rest (ESD-u, for objects); free to
    run."""

    name: ClassVar[str] = "esd"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength"})
    variant: str = "x"
    """Weights that are trained: ``x`` (cross-attention), ``x-strict`` (its K and V maps), ``u`` (all but
    cross-attention, time embedding and output), ``self`` or ``full``."""
    iterations: int = 250
    """Optimizer steps."""
    batch: int = 4
    """Prompts a step."""
    lr: float = 4e-5
    """Learning rate of Adam."""
    eta: float = 1.0
    """Strength of the negative guidance that is learned."""
    start_guidance: float = 3.0
    """Guidance of the partial sampling that x_t comes from."""
    sampling_steps: int = 20
    """DDIM steps of the sampling grid."""
    trajectory: str = "edited"
    """Model that x_t is sampled from: ``edited`` (paper) or ``frozen`` (2025 code)."""
    templates: tuple[str, ...] = ()
    """Contexts of the phrases, ``{}`` for the phrase; empty: the phrase alone, for a style also a few neutral objects
    in it."""
    seed: int = 0
    """Of prompts, noise and numbers of steps."""
    strength: float = 1.0
    """Share of the weight difference that is applied; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was fitted: weight differences in float16."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "variant", ALIASES.get(self.variant, self.variant))
        if self.variant not in VARIANTS:
            raise UnknownName("esd variant", self.variant, [*VARIANTS, *ALIASES])
        if self.trajectory not in TRAJECTORIES:
            raise BadInput(f"esd: trajectory {self.trajectory!r}; {' or '.join(map(repr, TRAJECTORIES))} are possible")
        if min(self.iterations, self.batch, self.sampling_steps) < 1 or self.sampling_steps > 1000 or not self.lr > 0:
            raise BadInput("esd: iterations, batch, sampling_steps (at most 1000) must be at least 1 and lr above 0")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the weight differences for one or many concepts; the model is not changed.

        Costs about ``iterations · batch · (sampling_steps + 5)`` denoiser rows. Interrupted, it goes on at the
        last checkpoint.

        Raises:
            BadInput: a concept without phrases. GenwardError: the loss is not finite, or weights ran away.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        captions = list(dict.fromkeys(c for c, _ in phrases.pairs(concepts, self.templates)))
        tensors = fit_esd(model, captions, self, tools)
        card = artifacts.fit_card(self, concepts, model, captions, (fit_seed(self),), time.perf_counter() - began)
        return replace(self, artifact=artifacts.make(tensors, card))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Add the differences to the weights. Raises ``BadInput`` without an artifact, ``BadArtifact`` for one of
        another model."""
        if self.artifact is None:
            raise BadInput(
                "esd has learned nothing yet; fit it first (genward fit esd --concept weapons), or name a concept "
                "(esd:weapons)"
            )
        self.check(rig)
        edit_named(
            rig, self.artifact.tensors, lambda weight, delta: apply_delta(weight, delta, self.strength), self.name
        )


def fit_seed(settings: Esd) -> int:
    """Seed of the random numbers, apart from those of evaluation."""
    return row_seed("fit", "esd", settings.seed)


def esd_target(uncond: Tensor, cond: Tensor, eta: float) -> Tensor:
    """``uncond - eta·(cond - uncond)`` from the frozen model's predictions; also right for velocities, which are affine
    in the noise at equal x_t."""
    return uncond - eta * (cond - uncond)


def esd_loss(
    edited: Denoise, frozen: Denoise, latents: Tensor, timestep: Tensor, cond: Tensor, empty: Tensor, eta: float
) -> Tensor:
    """Mean squared error of the edited model to the target. While both models are equal it is ``(1 + eta)² · mean((ec -
    e0)²)``.

    Args:
        edited, frozen: denoisers. latents: (rows, c, h, w). timestep: (rows,). cond: (rows, t, d). empty: (1, t, d).
    """
    rows = len(latents)
    with torch.no_grad():
        both = frozen(latents.repeat(2, 1, 1, 1), timestep.repeat(2), torch.cat([empty.expand(rows, -1, -1), cond]))
        target = esd_target(both[:rows], both[rows:], eta)
    return (edited(latents, timestep, cond) - target).square().mean()


def esd_step(
    model: Any, unet: Any, captions: Sequence[str], settings: Esd, random: torch.Generator
) -> Callable[[int], Tensor]:
    """The loss of one optimizer step as a function of its number; random numbers come from ``random`` alone."""
    edited, frozen = student_of(unet), frozen_of(model)
    scheduler = ddim_scheduler(model.pipe.scheduler, settings.sampling_steps)
    with torch.no_grad():
        texts, empty = model.encode(list(captions)).float(), model.encode([""]).float()
    edge, channels = unet.config.sample_size, unet.config.in_channels
    walker = edited if settings.trajectory == "edited" else frozen

    def loss(step: int) -> Tensor:
        cond = texts[torch.randint(len(texts), (settings.batch,), generator=random)]
        counts = torch.randint(len(scheduler.timesteps), (settings.batch,), generator=random)
        start = torch.randn(settings.batch, channels, edge, edge, generator=random).to(texts.device)
        with torch.no_grad():
            latents, timestep = partial_sample(walker, scheduler, start, counts, cond, empty, settings.start_guidance)
        return esd_loss(edited, frozen, latents, timestep, cond, empty, settings.eta)

    return loss


def fit_esd(model: Any, captions: Sequence[str], settings: Esd, tools: FitTools = QUIET) -> dict[str, Tensor]:
    """Weight differences (float16, see ``ops.finetune.DELTA_SCALE``) by parameter name, of the parameters that
    moved."""
    unet, random = model.trainable(VARIANTS[settings.variant]), torch.Generator().manual_seed(fit_seed(settings))
    loss = esd_step(model, unet, captions, settings, random)
    optimize(unet.parameters(), loss, steps=settings.iterations, lr=settings.lr, who="esd", random=random, tools=tools)
    return changed(unet, model.denoiser)
