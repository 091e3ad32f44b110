"""A safety patch beside a locked U-Net: a trainable clone of its encoder whose outputs, through maps that start at
zero, are added to the features that the decoder is handed (after SafePatch, arXiv 2508.21099).

The clone is diffusers' ``ControlNetModel``, fed with text alone: its picture branch is given nothing and stays at
zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from genward.core.records import Call
from genward.errors import BadArtifact, BadInput, Conflict

HINT = "controlnet_cond_embedding."
"""Parameters of the picture branch, which is not used."""
TEXTS = ("both", "prompt", "instruction")
"""What the clone reads: the prompt's states, an instruction's, or one after the other."""
STORAGES = ("float16", "int8")
"""How weights are kept, see ``weights_of``."""
SCALE = ".scale"
"""What the name of a packed map's scales ends with."""
LOSSES = ("difference", "outcome")
"""Forms of the rectifying loss, see ``rectifying``."""


def clone_of(unet: Any, *, copy: bool = True) -> Any:
    """A ``ControlNetModel`` on the U-Net's encoder and middle block, in float32, its output maps at zero.

    Args:
        copy: whether the U-Net's weights are taken over; else the parameters are on ``meta``.

    Raises:
        Conflict: a U-Net whose encoder diffusers cannot clone.
    """
    from diffusers import ControlNetModel

    try:
        with torch.device("cpu" if copy else "meta"):
            made = ControlNetModel.from_unet(
                unet, conditioning_embedding_out_channels=(16,), load_weights_from_unet=copy
            )
    except (ValueError, RuntimeError, AttributeError, KeyError) as error:
        raise Conflict(
            f"safepatch: diffusers cannot clone this U-Net's encoder ({type(error).__name__}: {str(error)[:120]}); it "
            "takes those of the Stable Diffusion 1 and 2 family"
        ) from error
    return (made.float() if copy else made).eval().requires_grad_(False)


def trainable_clone(unet: Any) -> Any:
    """``clone_of`` whose parameters require gradients, but for the picture branch."""
    net = clone_of(unet)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not name.startswith(HINT))
    return net


def weights_of(net: Any, storage: str = "float16") -> dict[str, Tensor]:
    """What is kept of a clone: its parameters in float16, or ``packed``; the picture branch is left out."""
    found = {n: p.detach() for n, p in net.state_dict().items() if not n.startswith(HINT)}
    return packed(found) if storage == "int8" else {n: p.half() for n, p in found.items()}


def packed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Maps as int8 beside one float32 scale for each output channel (``….scale``), so that no weight is off by more
    than half a step, 1/254 of its channel's largest; vectors in float16."""
    out: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.dim() < 2:
            out[name] = weight.half()
            continue
        rows = weight.float().flatten(1)
        scale = rows.abs().amax(1) / 127
        steps = (rows / torch.where(scale > 0, scale, 1)[:, None]).round().clamp(-127, 127)
        out[name], out[name + SCALE] = steps.to(torch.int8).view_as(weight), scale
    return out


def unpacked(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` with what ``packed`` wrote as float32 weights again.

    Raises:
        BadArtifact: an int8 map without scales of its length, or scales without their map.
    """
    out: dict[str, Tensor] = {}
    scales = {n.removesuffix(SCALE): p for n, p in tensors.items() if n.endswith(SCALE)}
    for name, value in tensors.items():
        if name.endswith(SCALE):
            continue
        scale = scales.pop(name, None)
        if (value.dtype == torch.int8) != (scale is not None) or (scale is not None and scale.shape != value.shape[:1]):
            raise BadArtifact(f"safepatch: {name} and its scales do not belong together; fit the patch again")
        shape = (-1, *[1] * (value.dim() - 1))
        out[name] = value if scale is None else value.float() * scale.float().view(shape)
    if scales:
        raise BadArtifact(f"safepatch: scales of {next(iter(scales))}, which is not there; fit the patch again")
    return out


def with_weights(unet: Any, tensors: Mapping[str, Tensor], device: Any, dtype: torch.dtype) -> Any:
    """A clone that holds kept weights.

    Raises:
        BadArtifact: they are those of another architecture.
    """
    net = clone_of(unet, copy=False)
    known = {n: p for n, p in net.state_dict().items() if not n.startswith(HINT)}
    wrong = sorted(set(known) ^ set(tensors)) or [n for n in known if known[n].shape != tensors[n].shape]
    if wrong:
        raise BadArtifact(
            f"safepatch: {len(wrong)} weights do not fit this model's encoder ({wrong[0]}); a patch fits models of the "
            "shape that it was trained on"
        )
    given = {n: p.to(device, dtype) for n, p in tensors.items()}
    hint = {n: torch.zeros(p.shape, device=device, dtype=dtype) for n, p in net.state_dict().items() if n not in given}
    net.load_state_dict(given | hint, assign=True)
    return net.eval().requires_grad_(False)


def read_text(prompt: Tensor, instruction: Tensor | None, text: str = "both") -> Tensor:
    """States (rows, t, d) that the clone reads: the prompt's, the instruction's (1, t, d), or both along the tokens."""
    if text == "prompt" or instruction is None:
        return prompt
    told = instruction.to(prompt).expand(len(prompt), -1, -1)
    return told if text == "instruction" else torch.cat([prompt, told], 1)


def residuals(net: Any, call: Call, text: Tensor) -> tuple[Tensor, ...]:
    """(rows, c, h, w) each: what is to be added to the skip features, the middle block's last."""
    rows, _, height, width = call.latents.shape
    blank = call.latents.new_zeros(rows, net.config.conditioning_channels, height, width)
    down, middle = net(
        call.latents, call.timestep, encoder_hidden_states=text, controlnet_cond=blank, return_dict=False
    )
    return (*down, middle)


def added(before: Sequence[Tensor] | None, new: Sequence[Tensor], strength: float) -> tuple[Tensor, ...]:
    """Residuals of several patches, or of a ControlNet and a patch, as one: their sum."""
    scaled = [strength * x for x in new]
    return tuple(scaled if before is None else [a + b for a, b in zip(before, scaled, strict=True)])


def energy(parts: Sequence[Tensor]) -> Tensor:
    """float32 (rows,): root of the mean over the outputs of their mean square; what a patch wants changed."""
    return torch.stack([x.float().square().flatten(1).mean(1) for x in parts]).mean(0).sqrt()


def energy_map(parts: Sequence[Tensor]) -> Tensor:
    """float32 (rows, h, w): the same in each cell of the finest output, coarser ones spread over theirs."""
    size = parts[0].shape[-2:]
    cells = [
        torch.nn.functional.interpolate(x.float().square().mean(1, keepdim=True), size, mode="nearest")[:, 0]
        for x in parts
    ]
    return torch.stack(cells).mean(0).sqrt()


def merged_weights(
    base: Mapping[str, Tensor], patches: Sequence[Mapping[str, Tensor]], shares: Sequence[float]
) -> dict[str, Tensor]:
    """``p_0 + sum_i w_i (p_i - p_0)`` in float16, computed in float32 (task arithmetic, digest of section 2.4).

    Raises:
        BadInput: no patch, or not one finite share each. BadArtifact: patches of other shapes.
    """
    if not patches or len(patches) != len(shares) or not all(map(math.isfinite, shares)):
        raise BadInput(
            f"{len(patches)} patches and {len(shares)} shares; give at least one patch, and a share for each"
        )
    out = {}
    for name, start in base.items():
        if any(name not in p or p[name].shape != start.shape for p in patches):
            raise BadArtifact(f"safepatch: {name} has other shapes in these patches; merge those of one architecture")
        origin = start.float()
        out[name] = (origin + sum(w * (p[name].float() - origin) for w, p in zip(shares, patches, strict=True))).half()
    return out


# --------------------------------------------------------------------------------------------------------------- losses


def rectifying(form: str, patched: Tensor, safe: Tensor, noise: Tensor) -> Tensor:
    """The loss on a concept's rows, a scalar.

    Args:
        form: ``difference``: ``|D_patch - sg(e(z, p_safe) - e(z, p_unsafe))|²`` with ``D_patch = e_patch(z, p_unsafe) -
            e(z, p_unsafe)``, which is the distance to the base's prediction for the safe prompt; ``outcome``:
            ``|e_patch(z_safe, p_unsafe) - noise|²`` (both inferred, see docs/papers.md).
        patched: (rows, c, h, w) prediction under the patch. safe: the base's, for the safe prompt. noise: what a
            denoiser should say of these latents.
    """
    return (patched - (safe.detach() if form == "difference" else noise)).square().mean()


def keeping(patched: Tensor, base: Tensor) -> Tensor:
    """``|D_patch|²`` on benign rows: they are to be left as they are."""
    return (patched - base.detach()).square().mean()


def patched_prediction(
    model: Any, net: Any, read: Callable[[Tensor], Tensor]
) -> Callable[[Call], tuple[Tensor, Tensor]]:
    """``call -> (prediction (rows, c, h, w) float32, mean square of the residuals)`` with gradient to the clone; the
    model is locked.

    Args:
        read: the prompt's states -> what the clone reads.
    """

    def predict(call: Call) -> tuple[Tensor, Tensor]:
        parts = residuals(net, call, read(call.text))
        kind = model.dtype
        given = Call(call.latents.to(kind), call.timestep, call.text.to(kind), tuple(p.to(kind) for p in parts))
        size = torch.stack([p.float().square().mean() for p in parts]).mean()
        return model.predict(given).float(), size

    return predict
