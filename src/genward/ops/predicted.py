"""The noise that a denoiser predicts in mid-loop, read through the rig at no denoiser row of its own, and the picture
that it points to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call, Frame
from genward.errors import BadInput, GuardError, Inapplicable
from genward.ops.activations import Keep
from genward.ops.guidance import cfg

PARTS = ("direction", "noise", "latents")
"""What can be read of a step: ``cond - uncond`` (only under guidance), the conditional prediction, the latents that it
was made from."""
KINDS = ("epsilon", "v_prediction", "sample")
"""What a denoiser predicts, by the scheduler's ``prediction_type``."""


class Seen(NamedTuple):
    """One denoiser call as read; rows are the conditional ones, with gradient where the loop has one."""

    latents: Tensor
    """(rows, c, h, w) as the denoiser got them"""
    cond: Tensor
    """(rows, c, h, w) the prediction for the prompt"""
    uncond: Tensor | None
    """The same without the prompt, ``None`` where there is no guidance"""
    frame: Frame

    @property
    def guided(self) -> Tensor:
        """(rows, c, h, w) what the sampler gets where no defense owns the guidance port: classifier-free guidance,
        unrescaled."""
        return self.cond if self.uncond is None else cfg(self.uncond, self.cond, self.frame.guidance)

    def part(self, name: str) -> Tensor:
        """One of ``PARTS``. Raises ``Inapplicable`` for the direction of a loop without guidance."""
        if name == "latents":
            return self.latents
        if name == "noise":
            return self.cond
        if self.uncond is None:
            raise Inapplicable(
                "the direction cond - uncond exists only under classifier-free guidance; use guidance above 1, or read "
                "noise instead"
            )
        return self.cond - self.uncond


def watch(rig: Rig, wanted: Callable[[Frame], bool], act: Callable[[Seen], None]) -> None:
    """Call ``act`` with what the denoiser predicts in the calls whose frame is ``wanted``; nothing is changed and no
    denoiser row is spent.

    The U-Net's last block is tapped and its output layers (norm, activation, convolution) are run once more on it,
    which gives the U-Net's own output bit for bit: ``guidance`` has one owner, and ``rig.predict`` would cost a call.
    Taps that other defenses set on that block later are not seen.

    Raises:
        GuardError: a rig without a model behind it.
    """
    if not isinstance(rig, Rig):
        raise GuardError("the predicted noise is read off the model's own layers, and this rig has no model")
    model: Any = rig.model
    unet, held = model.denoiser, dict[str, Tensor]()
    last = max(
        (n for n in model.sites if n.startswith("up_blocks.") and n.count(".") == 1), key=lambda n: int(n.split(".")[1])
    )

    def keep(call: Call, frame: Frame) -> Call:
        held.clear()
        if wanted(frame):
            held["latents"] = call.latents
        return call

    def read(x: Tensor, frame: Frame) -> None:
        if not wanted(frame):
            return
        noise, latents = output_layers(unet, x), held.pop("latents")
        rows = frame.conditional
        pick = rows.to(noise.device)
        times = None if frame.timestep is None else frame.timestep[rows.to(frame.timestep.device)]
        inner = frame._replace(conditional=rows[rows], case=frame.case[rows.to(frame.case.device)], timestep=times)
        act(Seen(latents[pick], noise[pick], None if bool(rows.all()) else noise[~pick], inner))

    rig.inputs(keep)
    rig.tap(last, read)


def output_layers(unet: Any, x: Tensor) -> Tensor:
    """(rows, c, h, w) what a ``UNet2DConditionModel`` makes of the output of its last block."""
    if unet.conv_norm_out is not None:
        x = unet.conv_act(unet.conv_norm_out(x))
    out: Tensor = unet.conv_out(x)
    return out


def clean_latents(noisy: Tensor, predicted: Tensor, alpha: Tensor, kind: str = "epsilon") -> Tensor:
    """x0 (rows, c, h, w) float32 that a prediction points to: ``(z - sqrt(1 - a) eps) / sqrt(a)``.

    Args:
        noisy, predicted: (rows, c, h, w). alpha: (rows,) signal level ``alphas_cumprod[t]`` in (0, 1]. kind: one of
            ``KINDS``.

    Raises:
        BadInput: another kind of prediction.

    Source: Ho et al., arXiv 2006.11239, eq. 15; for ``v_prediction`` Salimans and Ho, arXiv 2202.00512, appendix D.
    """
    if kind not in KINDS:
        raise BadInput(f"prediction type {kind!r}; {', '.join(KINDS)} can be turned into a picture")
    a = alpha.to(noisy.device, torch.float32).view(-1, 1, 1, 1)
    z, out = noisy.float(), predicted.float()
    if kind == "sample":
        return out
    if kind == "v_prediction":
        return a.sqrt() * z - (1 - a).sqrt() * out
    return (z - (1 - a).sqrt() * out) / a.sqrt()


def levels(model: Any, timestep: Tensor) -> Tensor:
    """(rows,) float32 signal levels of the model's schedule at timesteps; fractional ones (Euler's) are rounded."""
    alphas: Tensor = model.alphas_cumprod
    index = timestep.float().round().long().clamp(0, len(alphas) - 1)
    return alphas.float()[index.to(alphas.device)]


def pooled(x: Tensor, edge: int) -> Tensor:
    """(rows, numbers) float32: (rows, c, h, w) averaged to a grid of ``edge`` × ``edge`` and flattened; as it is where
    ``edge`` is 0 or not smaller."""
    if edge and max(x.shape[-2:]) > edge:
        x = torch.nn.functional.adaptive_avg_pool2d(x.float(), edge)
    return x.float().flatten(1)


def features(seen: Seen, parts: Sequence[str], edge: int) -> Tensor:
    """(rows, numbers) float32: the pooled parts side by side."""
    return torch.cat([pooled(seen.part(p), edge) for p in parts], 1)


@dataclass(frozen=True)
class Features:
    """A source for ``ops.activations``: the features of a call under the name ``features``, float32. With ``stop`` the
    rows end there, where their pictures are not wanted."""

    parts: Sequence[str]
    edge: int
    stop: bool = False

    @property
    def says(self) -> Any:
        return ["predicted", list(self.parts), self.edge, self.stop]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def act(seen: Seen) -> None:
            keep("features", features(seen, self.parts, self.edge), seen.frame)
            if self.stop:
                rig.block(seen.frame, seen.frame.conditional, "its features are read")

        watch(rig, keep.wants, act)
