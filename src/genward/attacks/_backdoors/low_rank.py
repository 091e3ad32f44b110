"""Low-rank changes of linear maps, and the training loop of fixtures that learn them: an artifact stays small whatever
it changes, and an interrupted fixture goes on where it was, to the same bits."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genward.attacks._backdoors import Fixture
from genward.core.contracts import FitTools
from genward.core.records import Case, Sampler, row_seed

ATTENTION = r"attn[12]\.to_(q|k|v|out\.0)\.weight$"
"""Maps of a U-Net's attention, which a LoRA lies over by default."""
KEYS_VALUES = r"attn2\.to_[kv]\.weight$"


@dataclass(frozen=True)
class LowRankFixture(Fixture):
    """A fixture that lays a LoRA over the attention of the U-Net; derive a frozen dataclass."""

    steps: int = 300
    """Steps of AdamW; the rate falls to a tenth after three quarters of them."""
    lr: float = 2e-3
    """Its rate, for the low-rank matrices."""
    rank: int = 4
    """Rank of the change of each map."""
    batch: int = 4
    """Poisoned rows a step, and as many clean ones."""
    pictures: int = 48
    """Clean pictures to learn from, drawn by the model."""
    sampling_steps: int = 10
    """Steps of each."""
    seed: int = 0
    """Of captions, matrices and noise."""

    def changed(self, parameters: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The attention's maps, ``W + b a``."""
        return laid_over("unet", parameters, learned)


def started(net: Any, match: str, rank: int, seed: int) -> dict[str, Tensor]:
    """``<map>|a`` (rank, in), random, and ``<map>|b`` (out, rank), zeros, of each matrix whose name matches; with
    gradient."""
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, Tensor] = {}
    for name, weight in net.named_parameters():
        if weight.ndim == 2 and re.search(match, name):
            a = torch.randn(rank, weight.shape[1], generator=generator) / rank
            out[f"{name}|a"] = a.requires_grad_()
            out[f"{name}|b"] = torch.zeros(len(weight), rank).requires_grad_()
    return out


def changes(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Map -> its change ``b a``."""
    names = dict.fromkeys(key.partition("|")[0] for key in learned if "|" in key)
    return {n: learned[f"{n}|b"] @ learned[f"{n}|a"] for n in names}


def laid(own: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The maps with their changes, ``W + b a``."""
    return {n: own[n].detach() + change.to(own[n]) for n, change in changes(learned).items()}


def laid_over(part: str, parameters: Mapping[str, Tensor], learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``Fixture.changed`` gives back: the maps of a part of the model (``unet``), named with it."""
    own = {n.removeprefix(f"{part}."): p for n, p in parameters.items() if n.startswith(f"{part}.")}
    return {f"{part}.{n}": weight.detach() for n, weight in laid(own, learned).items()}


def trained(
    tools: FitTools,
    name: str,
    learned: dict[str, Tensor],
    steps: int,
    lr: float,
    loss: Callable[[int], Tensor],
) -> dict[str, Tensor]:
    """What ``steps`` steps of AdamW make of ``learned``; the rate falls to a tenth after three quarters of them.

    Args:
        loss: step -> loss with gradient; it draws by the step's number alone, so that a resumed run draws the same.
    """
    optimizer, begin = (
        torch.optim.AdamW(list(learned.values()), lr=lr, weight_decay=0.0),
        0,
    )
    kept = tools.checkpoint(part=name)
    if kept is not None:
        begin = int(kept["step"])
        optimizer.load_state_dict(kept["optimizer"])
        with torch.no_grad():
            for key, value in kept["learned"].items():
                learned[key].copy_(value)
    for step in range(begin, steps):
        with torch.enable_grad():
            found = loss(step)
            optimizer.zero_grad(set_to_none=True)
            found.backward()
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.1 if step >= 3 * steps // 4 else 1.0)
        optimizer.step()
        tools.progress(step + 1, steps, float(found.detach()))
        if tools.due():
            state = {
                "step": step + 1,
                "optimizer": optimizer.state_dict(),
                "learned": plain(learned),
            }
            tools.checkpoint(state, part=name)
    return plain(learned)


def plain(learned: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies without gradient."""
    return {name: value.detach().clone() for name, value in learned.items()}


# ------------------------------------------------------------------------------------------ through the denoiser


class Noisy(NamedTuple):
    """Latents on their way to noise."""

    latents: Tensor
    """(rows, c, h, w)"""
    timestep: Tensor
    """int (rows,)"""
    noise: Tensor
    """(rows, c, h, w)"""


def noised(model: Any, clean: Tensor, seed: str) -> Noisy:
    """Clean latents (rows, c, h, w) at random timesteps with random noise, both by the seed."""
    generator = torch.Generator().manual_seed(row_seed(seed))
    alphas = model.alphas_cumprod.float()
    timestep = torch.randint(0, len(alphas), (len(clean),), generator=generator)
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    level = alphas[timestep].view(-1, 1, 1, 1).to(clean)
    return Noisy(level.sqrt() * clean + (1 - level).sqrt() * noise, timestep, noise)


def predicted(
    model: Any,
    at: Noisy,
    states: Tensor,
    parameters: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """What the denoiser predicts, ``parameters`` in the place of its own; without them no gradient is kept."""
    given = {"encoder_hidden_states": states, "return_dict": False}
    with torch.set_grad_enabled(parameters is not None):
        found: Tensor = torch.func.functional_call(
            model.denoiser, dict(parameters or {}), (at.latents, at.timestep), given
        )[0]
    return found


def drawn_latents(model: Any, texts: Sequence[str], seed: str, steps: int, guidance: float) -> Tensor:
    """(texts, c, h, w) latents of pictures that the model itself draws of texts."""
    cases = [Case(f"{seed}/{k}", text, seed=row_seed(seed, k)) for k, text in enumerate(texts)]
    samples = model.generate(cases, Sampler(steps, guidance), keep_latents=True)
    return torch.stack([s.latents for s in samples]).detach()
