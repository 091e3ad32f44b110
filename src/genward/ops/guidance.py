"""Classifier-free guidance as a function."""

from __future__ import annotations

from torch import Tensor


def cfg(uncond: Tensor, cond: Tensor, scale: float | Tensor) -> Tensor:
    """``uncond + scale · (cond - uncond)``, in the order of operations that diffusers uses, so that results are
    bit-equal to its own.

    Args:
        uncond, cond: noise predictions (rows, c, h, w).
        scale: guidance scale; 1 gives ``cond`` up to rounding, 0 gives ``uncond``.

    Source: Ho and Salimans, arXiv 2207.12598, in the parametrization of Imagen (2205.11487, eq. 2).
    """
    return uncond + scale * (cond - uncond)
