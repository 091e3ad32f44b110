"""Stage ``autoencoder`` of the lab's recipe: a small KL autoencoder, 64×64×3 pixels <-> 16×16×4 latents.

The class is diffusers' stock ``AutoencoderKL``. After training, the latent channels' means and deviations are folded
into ``quant_conv`` and ``post_quant_conv``, so that latents are centered with unit variance and ``scaling_factor`` is 1
(a stock Stable Diffusion pipeline knows only a scale, no shift)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from genward.lab.data import place


def build() -> Any:
    """The untrained autoencoder (0.7 M parameters)."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        scaling_factor=1.0,
    )


def to_tensor(pictures: Sequence[Image.Image]) -> Tensor:
    """RGB pictures -> float tensor (n, 3, 64, 64) in [-1, 1]."""
    return (
        torch.from_numpy(np.stack([np.asarray(p, np.uint8) for p in pictures])).permute(0, 3, 1, 2).float() / 127.5 - 1
    )


def batch(singles: Sequence[Image.Image], others: Sequence[Image.Image], rng: random.Random, size: int) -> Tensor:
    """A training batch: half lab sprites alone, a quarter two-object scenes, a quarter icons from outside the lab's
    vocabulary."""
    rows = []
    for _ in range(size):
        draw = rng.random()
        if draw < 0.5:
            parts = [rng.choice(singles)]
        elif draw < 0.75:
            parts = [rng.choice(singles), rng.choice(singles)]
        else:
            parts = [rng.choice(others)]
        rows.append(place(parts, rng))
    return to_tensor(rows)


def loss(model: Any, x: Tensor, kl_weight: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Reconstruction loss and mean squared error: L1 + L1 of image gradients + squared error + L1 of 8×8 means (the
    color term) + light KL."""
    posterior = model.encode(x).latent_dist
    y = model.decode(posterior.sample()).sample.float()
    gradients = (y.diff(dim=-1) - x.diff(dim=-1)).abs().mean() + (y.diff(dim=-2) - x.diff(dim=-2)).abs().mean()
    color = (F.avg_pool2d(y, 8) - F.avg_pool2d(x, 8)).abs().mean()
    mse = (y - x).pow(2).mean()
    total = (y - x).abs().mean() + 0.5 * gradients + color + 2 * mse + kl_weight * posterior.kl().mean()
    return total, mse.detach()


@torch.no_grad()
def fold(model: Any, x: Tensor) -> None:
    """Fold the latent channels' mean and deviation over ``x`` into ``quant_conv``/``post_quant_conv``; decoded pictures
    do not change.

    ``quant_conv`` yields (mean, log-variance), 2×4 channels: the means become (mean - m) / s, the log-variances lose 2
    log s; ``post_quant_conv`` first undoes the map."""
    z = torch.cat([model.encode(part).latent_dist.mean for part in x.split(64)]).float()
    m, s = z.mean((0, 2, 3)), z.std((0, 2, 3))
    q, p = model.quant_conv, model.post_quant_conv
    c = m.numel()
    q.weight[:c] /= s[:, None, None, None]
    q.bias[:c] = (q.bias[:c] - m) / s
    q.bias[c:] -= 2 * s.log()
    p.bias += (p.weight[:, :, 0, 0] * m).sum(1)
    p.weight *= s[None, :, None, None]
    model.register_to_config(scaling_factor=1.0)


def psnr(model: Any, x: Tensor) -> float:
    """Mean peak signal-to-noise ratio in dB of round trips (posterior mean) of pictures in [-1, 1]."""
    with torch.no_grad():
        y = torch.cat([model.decode(model.encode(p).latent_dist.mean).sample.clamp(-1, 1) for p in x.split(64)])
    mse = (y - x).pow(2).mean((1, 2, 3)).clamp_min(1e-10)
    return float((10 * torch.log10(4 / mse)).mean())
