"""Where in a picture a concept is, and whether it is there at all, from cross-attention; and how to perturb that place.
Pure functions.

After IRECE (arXiv 2512.22877), whose public text states only: cross-attention of an un-erased backbone localizes the
concept, and the latents there are perturbed. All formulas here are ours. A softmax map always has a peak, so nothing is
normalized to its own picture: a score is measured against what benign pictures give, ``0`` is their mean and ``1``
their spread."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from genward.errors import BadInput

FLOOR = 1e-6
"""Smallest attention probability that is told apart from zero."""
FORMS = ("renoise", "noise", "blank")
TOP = 8
"""Plain attention's gate is the mean of the highest 1/TOP of the cells."""


def grid(cells: int, height: int, width: int) -> tuple[int, int]:
    """(h, w) of a map of ``cells`` cells over latents of height × width: both halved, rounded up, until they fit.

    Raises:
        BadInput: no such halving has that many cells.
    """
    h, w = height, width
    while h * w > cells and (h > 1 or w > 1):
        h, w = (h + 1) // 2, (w + 1) // 2
    if h * w != cells:
        raise BadInput(f"a map of {cells} cells is no halving of {height}×{width} latents; choose other layers")
    return h, w


def resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(rows, k, h, w) -> (rows, k, *size), bilinear between cell centers, edges continued; itself where the size is
    right."""
    return (
        maps if maps.shape[-2:] == torch.Size(size) else F.interpolate(maps, size, mode="bilinear", align_corners=False)
    )


def word_maps(
    layers: Mapping[str, Tensor], words: Sequence[Sequence[int]], latent: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Log attention on each word: (rows, groups, words, *size), one group a layer and head, in the order given.

    Args:
        layers: name -> probabilities (localizers · rows, heads, cells, tokens), localizer by localizer.
        words: of each localizer the token positions that name the concept.
        latent: (height, width) of the latents. size: (h, w) of the maps wanted.
    """
    out = []
    for probs in layers.values():
        h, w = grid(probs.shape[2], *latent)
        parts = probs.float().chunk(len(words))
        picked = (
            torch.cat([part[..., list(at)] for part, at in zip(parts, words, strict=True)], dim=-1)
            .clamp_min(FLOOR)
            .log()
        )
        rows, heads, _, count = picked.shape
        flat = picked.transpose(2, 3).reshape(rows, heads * count, h, w)
        out.append(resize(flat, size).unflatten(1, (heads, count)))
    return torch.cat(out, dim=1)


def mass_contrast(maps: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """How much more a cell attends to its best concept word than cells of benign pictures do, in their standard
    deviations.

    Args:
        maps: (rows, groups, words, h, w) from ``word_maps``. mean, std: (groups,) of benign cells' best word.

    Returns:
        (rows, h, w), the mean over groups; 0 is a benign cell.
    """
    best = maps.amax(2)
    return ((best - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)).mean(1)


def read_out(features: Tensor, mean: Tensor, weight: Tensor) -> Tensor:
    """``(features - mean) · weight`` over the last axis: (…, k) -> (…)."""
    return (features - mean) @ weight


def discriminant(positive: Tensor, negative: Tensor, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Fisher's linear discriminant with a covariance shrunk towards the identity, on features scaled by the negatives.

    Args:
        positive, negative: (n, k) and (m, k). shrinkage: 0 keeps the pooled covariance, 1 leaves the identity.

    Returns:
        (mean, weight), each (k,) float64: score ``(x - mean) · weight``, 0 on average on negatives.
    """
    positive, negative = positive.double(), negative.double()
    mean, std = negative.mean(0), negative.std(0).clamp_min(1e-3)
    a, b = (positive - mean) / std, (negative - mean) / std
    within = torch.cat([a - a.mean(0), b - b.mean(0)])
    covariance = within.T @ within / max(1, len(within) - 2)
    level = covariance.diagonal().mean().clamp_min(1e-9)
    shrunk = (1 - shrinkage) * covariance + (shrinkage * level + 1e-9) * torch.eye(
        len(mean), dtype=torch.float64, device=mean.device
    )
    return mean, torch.linalg.solve(shrunk, a.mean(0) - b.mean(0)) / std


def log_odds(score: Tensor, mean: float | Tensor, std: float | Tensor, effect: float | Tensor) -> Tensor:
    """A score as log-likelihood ratio of two normal laws of equal spread: ``effect · (score - mean)/std - effect²/2``.

    ``mean`` and ``std`` are the benign law's, ``effect`` is the distance of the other one in ``std``. Steps at which
    nothing can be told apart (effect 0) thus say 0, whatever their scores."""
    return effect * (score - mean) / std - effect**2 / 2


def plain_gate(contrast: Tensor) -> Tensor:
    """Presence by attention mass alone: mean of the highest 1/TOP of the cells of (rows, h, w)."""
    flat = contrast.flatten(1)
    return flat.topk(max(1, flat.shape[1] // TOP), dim=1).values.mean(1)


def limit(benign: Tensor, rate: float) -> float:
    """The threshold that a new benign statistic exceeds with probability at most ``rate``: the ⌈(n+1)(1-rate)⌉-th
    smallest of n (split conformal).

    Raises:
        BadInput: fewer than ``1/rate - 1`` benign statistics.
    """
    if not 0 < rate < 1:
        raise BadInput(f"a false-positive rate of {rate}; it must lie between 0 and 1")
    rank = math.ceil((len(benign) + 1) * (1 - rate) - 1e-9)
    if rank > len(benign):
        raise BadInput(
            f"{len(benign)} benign rows cannot show a false-positive rate of {rate:g}; use at least "
            f"{math.ceil(1 / rate) - 1}, or a higher rate"
        )
    return float(benign.double().sort().values[max(rank, 1) - 1])


def dilate(mask: Tensor, radius: int) -> Tensor:
    """A bool mask (rows, h, w) grown by ``radius`` cells in every direction, corners included."""
    if radius == 0:
        return mask
    return F.max_pool2d(mask.float()[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0.5


def masks(contrast: Tensor, size: tuple[int, int], threshold: float, dilation: int) -> Tensor:
    """Bool masks (rows, *size) from contrast maps (rows, h, w): resized, cut at an absolute threshold, grown."""
    return dilate(resize(contrast[:, None], size)[:, 0] > threshold, dilation)


def elsewhere(mask: Tensor, shift: tuple[int, int], flip: tuple[bool, bool]) -> Tensor:
    """One mask (h, w) of the same area and shape at another place: flipped, then rolled around the edges."""
    dims = [k for k in (0, 1) if flip[k]]
    return torch.roll(mask.flip(dims) if dims else mask, shift, dims=(0, 1))


def perturb(
    latents: Tensor,
    mask: Tensor,
    strength: float,
    noise: Tensor,
    form: str = "renoise",
    *,
    blank: Tensor | None = None,
    alpha: float | Tensor = 1.0,
) -> Tensor:
    """Latents changed inside the mask, bit-equal outside it and everywhere at strength 0.

    - ``renoise``: ``sqrt(1-l)·z + sqrt(l)·s·noise``, s the row's own standard deviation, so the variance stays.
    - ``noise``: ``z + l·s·noise``; the variance grows.
    - ``blank``: ``(1-l)·z + l·sqrt(a)·blank + sqrt(1-(1-l)²)·sqrt(1-a)·noise``: at 1 the blank picture, noised to this
      step on its own; in between the noise level stays that of the step.

    Args:
        latents: (rows, c, h, w). mask: bool (rows, h, w). strength: l in [0, 1]. noise: standard normal, like the
            latents.
        blank: clean latents of a blank picture (c, h, w). alpha: the step's cumulative signal level a.
    """
    if form not in FORMS:
        raise BadInput(f"perturbation {form!r}; {', '.join(map(repr, FORMS))} are possible")
    if strength == 0:
        return latents
    noise = noise.to(latents)
    spread = latents.detach().float().std(dim=(1, 2, 3), keepdim=True).to(latents)
    if form == "renoise":
        new = math.sqrt(1 - strength) * latents + math.sqrt(strength) * spread * noise
    elif form == "noise":
        new = latents + strength * spread * noise
    else:
        if blank is None:
            raise BadInput("perturbation 'blank' needs the latents of a blank picture")
        level = torch.as_tensor(alpha, dtype=torch.float64)
        fresh = math.sqrt(1 - (1 - strength) ** 2) * float((1 - level).clamp_min(0).sqrt())
        new = (1 - strength) * latents + strength * float(level.sqrt()) * blank.to(latents) + fresh * noise
    return torch.where(mask[:, None].to(latents.device), new, latents)
