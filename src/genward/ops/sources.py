"""What can be read of a model on its way: sites, the denoiser's inputs, the guidance direction, and at which steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from genward.core.contracts import Rig
from genward.core.records import Call, Frame, row_seed
from genward.errors import BadInput
from genward.ops.guidance import cfg

PARTS = ("latents", "text", "noise")
"""What ``sources`` can read beside sites: x_t before the step, the text states, the direction ``cond - uncond``."""


class Keep(Protocol):
    """What a source is given: whom it asks whether a call is wanted, and hands its states to."""

    def wants(self, frame: Frame) -> bool:
        """Whether the rows of this call are to be kept; a source that asks first spends nothing on the others."""
        ...

    def opens(self, frame: Frame) -> bool:
        """Whether this is the first wanted call of a loop, for what is the same in all of them."""
        ...

    def __call__(self, name: str, state: Tensor, frame: Frame) -> None:
        """Keep states (rows of the frame, …) under a name; those of a call that is not wanted are dropped."""
        ...


class Source(Protocol):
    """Something that reads states through a rig. ``says`` tells recordings apart: what it reads, and how, as JSON."""

    @property
    def says(self) -> Any: ...
    def attach(self, rig: Rig, keep: Keep) -> None: ...


# -------------------------------------------------------------------------------------------------------------- sources


def pooled(tokens: Tensor, edge: int) -> Tensor:
    """Image tokens (rows, n, c) of a square grid averaged to ``edge`` × ``edge``; as they are where ``edge`` is 0 or
    not smaller.

    Raises:
        BadInput: the tokens are no square grid.
    """
    rows, count, channels = tokens.shape
    side = round(count**0.5)
    if not edge or side <= edge:
        return tokens
    if side * side != count:
        raise BadInput(f"{count} image tokens are no square; set pool=0 for pictures that are not square")
    grid = tokens.transpose(1, 2).reshape(rows, channels, side, side)
    small = torch.nn.functional.adaptive_avg_pool2d(grid.float(), edge).to(tokens.dtype)
    return small.flatten(2).transpose(1, 2)


def drawn(tokens: Tensor, count: int, *seed: object) -> Tensor:
    """``count`` of the tokens (rows, n, c) in their order, the same places in all rows; as they are where ``count`` is
    0 or not smaller than n. ``seed`` decides the places, whatever the batch."""
    if not 0 < count < tokens.shape[1]:
        return tokens
    random = torch.Generator().manual_seed(row_seed("tokens", *seed))
    places = torch.randperm(tokens.shape[1], generator=random)[:count].sort().values
    return tokens[:, places.to(tokens.device)]


@dataclass(frozen=True)
class AtSite:
    """The output of a site, float16: (rows, tokens, channels) or (rows, c, h, w)."""

    site: str
    pool: int = 0
    """Edge of the grid that tokens are averaged to; 0 for none."""
    tokens: int = 0
    """Tokens that are kept of each row, other random places at each step; 0 for all."""
    exact: bool = False
    """Keep float32: twice the room, no rounding."""

    def __post_init__(self) -> None:
        if self.pool < 0 or self.tokens < 0 or (self.pool and self.tokens):
            raise BadInput(f"site {self.site}: pool and tokens are at least 0, and only one of them may be given")

    @property
    def says(self) -> Any:
        more = [["tokens", self.tokens]] * bool(self.tokens) + ["exact"] * self.exact
        return ["site", self.site, self.pool, *more]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def fn(x: Tensor, frame: Frame) -> None:
            if not keep.wants(frame):
                return
            if x.ndim == 3:
                x = drawn(pooled(x, self.pool), self.tokens, self.site, frame.step)
            elif self.tokens:
                raise BadInput(f"site {self.site} carries {tuple(x.shape)}, no tokens; leave tokens out there")
            keep(self.site, x.to(torch.float32 if self.exact else torch.float16), frame)

        rig.tap(self.site, fn)


@dataclass(frozen=True)
class AtInput:
    """What the denoiser is given, float16: ``latents`` (rows, c, h, w); ``text`` (rows, tokens, width) at the first
    step that is read, since it is the same at every step; ``clock`` (rows, 1), nothing but the timestep in float32."""

    part: str

    @property
    def says(self) -> Any:
        return ["input", self.part]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def fn(call: Call, frame: Frame) -> Call:
            if self.part == "latents" and keep.wants(frame):
                keep("latents", call.latents.to(torch.float16), frame)
            if self.part == "clock" and keep.wants(frame):
                keep("clock", call.timestep.float().reshape(-1, 1).expand(len(frame.case), 1), frame)
            if self.part == "text" and keep.opens(frame):
                keep("text", call.text.to(torch.float16), frame)
            return call

        rig.inputs(fn)


@dataclass(frozen=True)
class Direction:
    """The guidance direction ``cond - uncond`` (rows, c, h, w) float16, the conditional prediction where there is no
    guidance. It owns the guidance port and applies plain classifier-free guidance."""

    says: ClassVar[Any] = ["direction"]

    def attach(self, rig: Rig, keep: Keep) -> None:
        def fn(uncond: Tensor | None, cond: Tensor, call: Call, frame: Frame) -> Tensor:
            if keep.wants(frame):
                keep("noise", (cond if uncond is None else cond - uncond).to(torch.float16), frame)
            return cond if uncond is None else cfg(uncond, cond, frame.guidance)

        rig.guidance(fn)


def sources(sites: Sequence[str] = (), parts: Sequence[str] = (), pool: int = 0) -> list[Source]:
    """Sources by name.

    Raises:
        BadInput: a part that is not one of ``PARTS``.
    """
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        raise BadInput(f"parts {', '.join(unknown)} are not known; {', '.join(PARTS)} are")
    found: list[Source] = [AtSite(site, pool) for site in sites]
    return found + [Direction() if p == "noise" else AtInput(p) for p in parts]


def stop_step(step: float, steps: int) -> int:
    """0-based step of a loop: a number of at least 1 is that step, a smaller one a share of the loop's denoiser calls.

    ``0.08`` of 50 steps is step 3: four calls are spent. ``0`` is the first step.

    Raises:
        BadInput: the loop has no such step.
    """
    index = int(step) if step >= 1 else max(0, _ceil(step * steps) - 1)
    if not 0 <= index < steps:
        raise BadInput(f"step {step:g} of a loop of {steps}; give a share below 1, or a step from 1 to {steps - 1}")
    return index


def _ceil(x: float) -> int:
    whole = round(x, 6)
    return int(whole) + (whole > int(whole))
