"""Pictures back to noise and words from pictures: deterministic DDIM steps both ways, and the loss of a learned token.

DDIM without noise is a map between two signal levels (Song et al., arXiv 2010.02502, eq. 12 at eta 0), so inversion is
the same map with the levels interchanged; it is exact only where the prediction at both ends agrees. Fixed-point
refinement (ReNoise, arXiv 2403.14602) asks the denoiser again at the point just found, since that is where sampling
will ask it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops.finetune import training_target

Level = float | Tensor
"""A signal level (``alphas_cumprod``): a number or a tensor without dimensions."""
Predict = Callable[[Tensor, int], Tensor]
"""``(latents (rows, c, h, w), timestep) -> prediction (rows, c, h, w)``"""
PREDICTIONS = ("epsilon", "v_prediction")


class Step(NamedTuple):
    """One step of the way from picture to noise: the timestep that the denoiser is told, and the signal levels on both
    sides."""

    timestep: int
    alpha_from: float
    """Nearer to the picture"""
    alpha_to: float
    """Nearer to noise; the level of ``timestep``"""


def inverse_timesteps(schedule: Mapping[str, Any], steps: int, alphas: Tensor) -> list[Step]:
    """The steps from picture to noise as ``DDIMInverseScheduler.from_config(schedule)`` takes them: those of DDIM
    sampling, backwards.

    Args:
        schedule: a scheduler's configuration: ``num_train_timesteps``, ``timestep_spacing`` (``leading`` |
            ``trailing``), ``steps_offset``, ``set_alpha_to_one``, or ``final_alpha`` for the level beyond the first
            timestep.
        steps: how many.
        alphas: signal levels (num_train_timesteps,).

    Raises:
        BadInput: more steps than timesteps, a spacing that has no inverse there, or a scheduler that clips (which
            cannot be undone).
    """
    total, spacing = int(schedule.get("num_train_timesteps", len(alphas))), schedule.get("timestep_spacing", "leading")
    if not 1 <= steps <= total:
        raise BadInput(f"{steps} inversion steps; between 1 and {total} are possible")
    if schedule.get("clip_sample") or schedule.get("thresholding"):
        raise BadInput(
            "the sampler clips its predictions, which no inversion can undo; set clip_sample and thresholding of its "
            "scheduler to false"
        )
    stride = total // steps
    if spacing == "leading":
        times = [k * stride + int(schedule.get("steps_offset", 0)) for k in range(steps)]
    elif spacing == "trailing":
        times = [round(total - k * (total / steps)) - 1 for k in reversed(range(steps))]
    else:
        raise BadInput(f"timestep spacing {spacing!r} has no inversion; leading and trailing have")
    if times[-1] >= len(alphas):
        raise BadInput(
            f"{steps} steps with offset {schedule.get('steps_offset')} reach timestep {times[-1]}, the schedule ends "
            f"at {len(alphas) - 1}; take fewer"
        )
    last = schedule.get("final_alpha")
    beyond = float(last) if last is not None else 1.0 if schedule.get("set_alpha_to_one", True) else float(alphas[0])
    return [Step(t, float(alphas[t - stride]) if t >= stride else beyond, float(alphas[t])) for t in times]


def to_noise(z: Tensor, prediction: Tensor, alpha: Level, kind: str = "epsilon") -> Tensor:
    """The noise that a prediction at ``z`` of signal level ``alpha`` stands for: itself, or from a velocity
    (2202.00512)."""
    if kind == "epsilon":
        return prediction
    if kind != "v_prediction":
        raise BadInput(f"prediction type {kind!r}; {' and '.join(PREDICTIONS)} are supported")
    a = torch.as_tensor(alpha, dtype=z.dtype, device=z.device)
    return a.sqrt() * prediction + (1 - a).sqrt() * z


def ddim_step(z: Tensor, noise: Tensor, alpha_from: Level, alpha_to: Level, prediction: str = "epsilon") -> Tensor:
    """One DDIM step without noise from level ``alpha_from`` to ``alpha_to``: toward the picture where the latter is
    larger.

    Args:
        z, noise: latents and the denoiser's prediction for them (rows, c, h, w).
        alpha_from, alpha_to: signal levels.
        prediction: ``epsilon`` or ``v_prediction``.
    """
    a, b = (torch.as_tensor(x, dtype=z.dtype, device=z.device) for x in (alpha_from, alpha_to))
    if prediction == "v_prediction":
        clean, epsilon = a.sqrt() * z - (1 - a).sqrt() * noise, to_noise(z, noise, a, prediction)
    else:
        epsilon = to_noise(z, noise, a, prediction)
        clean = (z - (1 - a).sqrt() * epsilon) / a.sqrt()
    return b.sqrt() * clean + (1 - b).sqrt() * epsilon


def ddim_inverse_step(
    z: Tensor, noise: Tensor, alpha_from: Level, alpha_to: Level, prediction: str = "epsilon"
) -> Tensor:
    """One inversion step, toward noise (``alpha_to`` below ``alpha_from``): ``ddim_step`` the other way, as diffusers'
    ``DDIMInverseScheduler``.

    ``noise`` is the prediction for ``z`` told the timestep of ``alpha_to``.
    """
    return ddim_step(z, noise, alpha_from, alpha_to, prediction)


def refined_step(
    predict: Predict, z: Tensor, step: Step, prediction: str = "epsilon", refine: int = 0, average: int = 1
) -> Tensor:
    """One inversion step with fixed-point refinement (ReNoise, arXiv 2403.14602, without its noise regularization and
    correction).

    The first prediction is made at ``z``, each further one at the point that the last one led to; ``refine`` 0 is
    ``ddim_inverse_step``.

    Args:
        predict: the denoiser. z: latents (rows, c, h, w).
        refine: further predictions.
        average: how many of the last predictions are averaged for the step that is returned.
    """
    noises: list[Tensor] = []
    point, level = z, step.alpha_from
    for _ in range(refine + 1):
        noises.append(to_noise(point, predict(point, step.timestep), level, prediction))
        point, level = ddim_step(z, noises[-1], step.alpha_from, step.alpha_to), step.alpha_to
    if average <= 1:
        return point
    return ddim_step(z, torch.stack(noises[-average:]).mean(0), step.alpha_from, step.alpha_to)


def invert(
    predict: Predict, z: Tensor, plan: Sequence[Step], prediction: str = "epsilon", refine: int = 0, average: int = 1
) -> Tensor:
    """Latents of pictures (rows, c, h, w) -> the noise from which deterministic sampling returns to them. Rows do not
    see each other."""
    for step in plan:
        z = refined_step(predict, z, step, prediction, refine, average)
    return z


def regenerate(predict: Predict, z: Tensor, plan: Sequence[Step], prediction: str = "epsilon") -> Tensor:
    """Noise (rows, c, h, w) -> latents of pictures, by DDIM without noise over the steps of ``plan`` backwards."""
    for step in reversed(plan):
        z = ddim_step(z, predict(z, step.timestep), step.alpha_to, step.alpha_from, prediction)
    return z


def relative_error(found: Tensor, wanted: Tensor) -> Tensor:
    """(rows,) length of the difference over the length of what was wanted."""
    error: Tensor = (found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
    return error


def denoising_loss(
    prediction: Tensor, clean: Tensor, noise: Tensor, timestep: Tensor, alphas: Tensor, kind: str = "epsilon"
) -> Tensor:
    """(rows,) mean squared error of predictions for ``add_noise(clean, noise, timestep)``; each row its own (arXiv
    2208.01618, eq. 2).

    Args:
        prediction, clean, noise: (rows, c, h, w). timestep: int (rows,). alphas: signal levels (1000,).
        kind: what is predicted, ``epsilon`` or ``v_prediction``.
    """
    return (prediction - training_target(clean, noise, timestep, alphas, kind)).square().flatten(1).mean(1)


def stratified_timesteps(rows: int, total: int, generator: torch.Generator) -> Tensor:
    """int (rows,) timesteps below ``total``, one from each of ``rows`` equal parts: uniform on the whole, with less
    scatter in a mean over them."""
    return (
        ((torch.arange(rows) + torch.rand(rows, generator=generator, dtype=torch.float64)) * (total / rows))
        .long()
        .clamp(max=total - 1)
    )


def adam_step(
    value: Tensor, gradient: Tensor, first: Tensor, second: Tensor, step: int, rate: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One step of Adam (arXiv 1412.6980, betas 0.9 and 0.999, epsilon 1e-8), element by element; the state is all there
    is to keep.

    Args:
        value, gradient: of one shape. first, second: running moments, zeros at the start. step: from 1.

    Returns:
        new value, first and second moments.
    """
    first, second = first.lerp(gradient, 0.1), 0.999 * second + 0.001 * gradient.square()
    return value - rate * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8), first, second


def with_lengths(vectors: Tensor, lengths: Tensor) -> Tensor:
    """Vectors (k, width) scaled to the given lengths (k,)."""
    scaled: Tensor = vectors * (lengths / vectors.norm(dim=1))[:, None]
    return scaled


def shares(total: int, count: int) -> list[int]:
    """``total`` split into ``count`` whole numbers that differ by at most one."""
    return [total // count + (k < total % count) for k in range(count)]
