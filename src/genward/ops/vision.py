"""Shapes of the lab's two judges: small convolutional networks of different architecture, pixels in, label logits out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two 3×3 convolutions with batch normalization around a skip connection."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outside), nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 or inside != outside else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.first(x)))
        return F.silu(self.norm2(self.second(y)) + self.skip(x))


class Residuals(nn.Module):
    """First judge: stride-2 stem and three residual stages, 0.7 M parameters.

    ``forward`` takes pixels (n, 3, 64, 64) in [-1, 1] and returns logits (n, labels); ``features`` the 160 numbers before the head.
    The head reads the mean and the maximum over places, so that a half-size object in a scene counts as much as a full-size one.
    """

    def __init__(self, labels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 32, 5, 2, 2, bias=False), nn.BatchNorm2d(32), nn.SiLU())
        self.body = nn.Sequential(Residual(32, 48, 2), Residual(48, 96, 2), Residual(96, 160, 1))
        self.head = nn.Linear(320, labels)

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(self.stem(x))
        return y.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        logits: Tensor = self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))
        return logits


class Separable(nn.Module):
    """Second judge: patch embedding and depthwise-separable mixing with layer normalization, 0.6 M parameters; used as independent truth."""

    def __init__(self, labels: int, width: int = 128, depth: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 4, 4)
        self.spatial = nn.ModuleList(nn.Conv2d(width, width, 7, padding=3, groups=width) for _ in range(depth))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(depth))
        self.up = nn.ModuleList(nn.Conv2d(width, 3 * width, 1) for _ in range(depth))
        self.down = nn.ModuleList(nn.Conv2d(3 * width, width, 1) for _ in range(depth))
        self.head = nn.Linear(2 * width, labels)

    def body(self, x: Tensor) -> Tensor:
        y: Tensor = self.stem(x)
        for spatial, norm, up, down in zip(self.spatial, self.norms, self.up, self.down, strict=True):
            y = y + down(F.gelu(up(norm(spatial(y)))))
        return y

    def features(self, x: Tensor) -> Tensor:
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        logits: Tensor = self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))
        return logits


SHAPES: dict[str, type[nn.Module]] = {"residuals": Residuals, "separable": Separable}
"""Network name on a judge's card -> class."""
