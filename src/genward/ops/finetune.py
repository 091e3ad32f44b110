"""Parts that fine-tuning erasers share: partial sampling, noising, a checked optimizer loop, compact weight
differences."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from genward.core.contracts import FitTools, Rig
from genward.core.records import Call
from genward.errors import BadArtifact, BadInput, GenwardError, UnknownName

Progress = Callable[[int, int, float], None]
"""``progress(step, steps, loss)`` after each step; the loss is NaN where there is none."""
Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(latents (rows, c, h, w), timestep (rows,), text (rows, t, d)) -> prediction (rows, c, h, w)``"""

DELTA_SCALE = 1024.0
"""Differences are stored as float16 after multiplication by this: relative rounding 2⁻¹¹ down to differences of 6e-8,
zero below 3e-11."""


def student_of(unet: Any) -> Denoise:
    """A denoiser in training as a function."""

    def student(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        noise: Tensor = unet(latents, timestep, encoder_hidden_states=text, return_dict=False)[0]
        return noise

    return student


def frozen_of(model: Any) -> Denoise:
    """The model as it is as a function that takes and gives float32, whatever dtype it runs in."""

    def frozen(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        noise: Tensor = model.predict(Call(latents.to(model.dtype), timestep, text.to(model.dtype)))
        return noise.float()

    return frozen


def add_noise(clean: Tensor, noise: Tensor, timestep: Tensor, alphas: Tensor) -> Tensor:
    """``sqrt(a_t)·clean + sqrt(1 - a_t)·noise`` with one timestep a row.

    Args:
        clean, noise: (rows, c, h, w). timestep: int (rows,). alphas: cumulative signal levels (1000,).
    """
    level = alphas.to(clean.device, clean.dtype)[timestep.to(clean.device)].view(-1, *[1] * (clean.ndim - 1))
    return level.sqrt() * clean + (1 - level).sqrt() * noise


def training_target(
    clean: Tensor, noise: Tensor, timestep: Tensor, alphas: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """What a denoiser should predict for ``add_noise(...)``: the noise, or the velocity (Salimans and Ho,
    2202.00512)."""
    if prediction == "epsilon":
        return noise
    if prediction != "v_prediction":
        raise BadInput(f"prediction type {prediction!r}; epsilon and v_prediction are supported")
    return add_noise(noise, -clean, timestep, alphas)


def ddim_scheduler(scheduler: Any, steps: int) -> Any:
    """A fresh DDIM scheduler with the noise levels of ``scheduler``, set to ``steps``; the pipeline's own is not
    touched.

    DDIM without noise has no state between steps, so rows may stop at different ones.
    """
    from diffusers import DDIMScheduler

    wanted = {k: v for k, v in dict(scheduler.config).items() if k in DDIMScheduler().config}
    fresh = DDIMScheduler.from_config(
        {"clip_sample": False, **wanted}
    )  # its default would clip latents of other schedulers to ±1
    fresh.set_timesteps(steps)
    return fresh


def partial_sample(
    denoise: Denoise, scheduler: Any, start: Tensor, counts: Tensor, cond: Tensor, empty: Tensor, guidance: float
) -> tuple[Tensor, Tensor]:
    """Each row sampled from noise for its own number of steps, in one batch that shrinks as rows finish.

    Args:
        denoise: the denoiser. scheduler: from ``ddim_scheduler``.
        start: noise (rows, c, h, w). counts: int (rows,), steps a row goes, 0 to steps - 1.
        cond: prompt states (rows, t, d). empty: states of the empty text (1, t, d).
        guidance: classifier-free guidance; at 1 or below the empty branch is left out.

    Returns:
        latents (rows, c, h, w) and int (rows,) timesteps: the noise level that each row has reached.
    """
    latents = start.clone()
    timesteps = scheduler.timesteps.to(start.device)
    for k in range(int(counts.max())):
        live = (counts > k).nonzero().flatten().to(start.device)
        part, rows = latents[live], len(live)
        t = timesteps[k].expand(rows)
        if guidance > 1:
            both = denoise(part.repeat(2, 1, 1, 1), t.repeat(2), torch.cat([empty.expand(rows, -1, -1), cond[live]]))
            noise = both[:rows] + guidance * (both[rows:] - both[:rows])
        else:
            noise = denoise(part, t, cond[live])
        latents[live] = scheduler.step(noise, scheduler.timesteps[k], part).prev_sample
    return latents, timesteps[counts.to(start.device)]


def optimize(
    parameters: Iterable[Any],
    loss_of: Callable[[int], Tensor],
    *,
    steps: int,
    lr: float,
    who: str,
    random: torch.Generator,
    tools: FitTools,
    before: int = 0,
) -> list[float]:
    """Adam on ``loss_of(step)``; returns the losses.

    After a step the state may be kept (``tools.checkpoint``, part ``steps``); a training that was stopped goes on from
    there and ends at the same bits.

    Args:
        random: the generator that ``loss_of`` draws from.
        before: steps of the whole fit that are done when the training begins; progress counts on from there.

    Raises:
        GenwardError: a loss is not finite; the parameters are then of no use.
    """
    wanted = [p for p in parameters if p.requires_grad]
    adam = torch.optim.Adam(wanted, lr=lr)
    losses: list[float] = []
    taken = tools.checkpoint(part="steps")
    if taken is not None:
        losses = list(taken["losses"])
        with torch.no_grad():
            for parameter, value in zip(wanted, taken["parameters"], strict=True):
                parameter.copy_(value)
        adam.load_state_dict(taken["adam"])
        random.set_state(taken["random"])
        tools.say(f"{who}: going on after step {len(losses)} of {steps}")
    for step in range(len(losses), steps):
        loss = loss_of(step)
        value = float(loss.detach())
        if not math.isfinite(value):
            failure = FloatingPointError(f"loss {value} at step {step + 1} of {steps}")
            raise GenwardError(
                f"{who}: {failure}; lower lr (now {lr:g}) or look at the model's weights, nothing was kept"
            ) from failure
        adam.zero_grad(set_to_none=True)
        loss.backward()
        adam.step()
        losses.append(value)
        tools.progress(before + step + 1, before + steps, value)
        if tools.due():
            state = {"losses": losses, "parameters": wanted, "adam": adam.state_dict(), "random": random.get_state()}
            tools.checkpoint(state, part="steps")
    return losses


def pack_deltas(new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Differences of weights as float16 of ``DELTA_SCALE`` times their value.

    Raises:
        GenwardError: a difference is not finite or above 63: training has diverged.
    """
    out = {}
    for name, value in new.items():
        scaled = (value.detach().cpu().double() - old[name].detach().cpu().double()) * DELTA_SCALE
        if not bool((scaled.abs() < 65_000).all()):
            raise GenwardError(
                f"weight {name} moved by {float(scaled.abs().max()) / DELTA_SCALE:.3g} in training; lower the learning "
                "rate"
            )
        out[name] = scaled.half()
    return out


def apply_delta(weight: Tensor, packed: Tensor, strength: float = 1.0) -> Tensor:
    """``weight + strength·delta``, in float32 or the weight's own dtype where that is wider; at strength 0 the weight
    itself.

    Raises:
        BadArtifact: the shapes differ.
    """
    if weight.shape != packed.shape:
        raise BadArtifact(
            f"a fitted difference has shape {tuple(packed.shape)}, the weight {tuple(weight.shape)}; it was fitted for "
            "another model"
        )
    if strength == 0:
        return weight
    wide = torch.promote_types(weight.dtype, torch.float32)
    return weight.to(wide) + strength * (packed.to(weight.device, wide) / DELTA_SCALE)


def changed(new: Any, old: Any) -> dict[str, Tensor]:
    """``pack_deltas`` of the parameters of two modules of equal names, for those that were trained in ``new`` and did
    move.

    Raises:
        GenwardError: nothing moved.
    """
    before = dict(old.named_parameters())
    trained = {n: p for n, p in new.named_parameters() if p.requires_grad}
    packed = {n: d for n, d in pack_deltas(trained, before).items() if bool((d != 0).any())}
    if not packed:
        raise GenwardError("training moved no weight; raise the learning rate or the number of steps")
    return packed


def edit_named(rig: Rig, tensors: Mapping[str, Tensor], edit: Callable[[Tensor, Tensor], Tensor], who: str) -> None:
    """``rig.weights`` for exactly the parameters that ``tensors`` names: ``edit(weight, tensor)`` each.

    Raises:
        BadArtifact: the model lacks some of them.
    """
    seen = set()

    def one(name: str, weight: Tensor) -> Tensor:
        seen.add(name)
        return edit(weight, tensors[name])

    try:
        rig.weights("^(?:" + "|".join(map(re.escape, tensors)) + ")$", one)
    except UnknownName:
        pass  # told below, with the artifact as the cause
    if len(seen) != len(tensors):
        raise BadArtifact(
            f"{who}: the model lacks {len(tensors) - len(seen)} of the {len(tensors)} weights that the artifact "
            "changes; fit it on this model"
        )
