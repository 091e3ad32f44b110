"""Shapes of the lab's two judges: small convolutional networks of different architecture, pixels in, label logits
out."""

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
        self.skip = (
            nn.Conv2d(inside, outside, 1, stride, bias=False) if stride > 1 or inside != outside else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.norm1(self.first(x)))
        return F.silu(self.norm2(self.second(y)) + self.skip(x))


class Residuals(nn.Module):
    """First judge: stride-2 stem and three residual stages, 0.7 M parameters.

    ``forward`` takes pixels (n, 3, 64, 64) in [-1, 1] and returns logits (n, labels); ``features`` the 160 numbers
    before the head. The head reads the mean and the maximum over places, so that a half-size object in a scene counts
    as much as a full-size one."""

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


class Plain(nn.Module):
    """Second judge: convolutions and maximum pooling without skips, 0.4 M parameters; used as independent truth."""

    def __init__(self, labels: int) -> None:
        super().__init__()

        def stage(inside: int, outside: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]

        self.body = nn.Sequential(
            *stage(3, 32, 2),
            *stage(32, 48),
            nn.MaxPool2d(2),
            *stage(48, 80),
            *stage(80, 80),
            nn.MaxPool2d(2),
            *stage(80, 128),
            *stage(128, 128),
        )
        self.head = nn.Sequential(nn.Linear(256, 192), nn.ReLU(), nn.Linear(192, labels))

    def features(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return y.mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        logits: Tensor = self.head(torch.cat([y.mean((2, 3)), y.amax((2, 3))], 1))
        return logits


SHAPES: dict[str, type[nn.Module]] = {"residuals": Residuals, "plain": Plain}
"""Network name on a judge's card -> class."""
