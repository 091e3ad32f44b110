"""Safe Latent Diffusion (arXiv 2211.05105): one guidance step as a pure function, and the four published presets."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from genward.ops.guidance import cfg


class SldSettings(NamedTuple):
    """Hyperparameters of one preset; ``warmup`` counts steps of a 50-step loop."""

    warmup: int
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float


PRESETS: dict[str, SldSettings] = {
    "weak": SldSettings(15, 200.0, 0.0, 0.0, 0.0),
    "medium": SldSettings(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": SldSettings(7, 2000.0, 0.025, 0.5, 0.7),
    "max": SldSettings(0, 5000.0, 1.0, 0.5, 0.7),
}
"""The authors' presets. For ``weak`` their card says scale 200, diffusers' copy 20."""

PRESET_STEPS = 50
"""Length of the loop that the presets' warm-up is counted in."""


def warmup_steps(warmup: int, steps: int) -> int:
    """First guided step of a loop of ``steps``: ``warmup`` of 50 steps, scaled and rounded to the nearest (halves
    up)."""
    return int(warmup * steps / PRESET_STEPS + 0.5)


def sld_step(
    uncond: Tensor,
    cond: Tensor,
    safety: Tensor,
    velocity: Tensor,
    step: int,
    *,
    guidance: float,
    warmup: int,
    scale: float,
    threshold: float,
    momentum_scale: float,
    momentum_beta: float,
) -> tuple[Tensor, Tensor]:
    """One step of safety guidance. Everything is per element, so rows do not influence each other.

    ``d = cond - safety``; ``mu = min(1, scale·|d|)`` where ``d < threshold`` (signed), else 0; ``g = mu·(safety -
    uncond) + momentum_scale·velocity``; ``velocity' = beta·velocity + (1 - beta)·g``; the noise is ``uncond +
    guidance·(cond - uncond - g)``. In warm-up ``g`` and the velocity run, only the subtraction waits.

    Args:
        uncond, cond, safety: predictions for the negative, the prompt and the safety text (rows, c, h, w).
        velocity: momentum so far, same shape, zeros before the first step.
        step: step of the loop from 0.
        guidance: classifier-free guidance scale.
        warmup: first step that is guided, in steps of this loop (see ``warmup_steps``).
        scale, threshold, momentum_scale, momentum_beta: as in ``PRESETS``.

    Returns:
        (noise, new velocity), each (rows, c, h, w).

    Source: the authors' ``sld_pipeline.py`` and diffusers' ``stable_diffusion_safe`` (equal on this rule).
    """
    distance = cond - safety
    mask = torch.where(distance >= threshold, torch.zeros_like(distance), (distance.abs() * scale).clamp(max=1.0))
    pull = mask * (safety - uncond) + momentum_scale * velocity
    velocity = momentum_beta * velocity + (1 - momentum_beta) * pull
    if step < warmup:
        return cfg(uncond, cond, guidance), velocity
    return uncond + guidance * (cond - uncond - pull), velocity
