"""The decision of diffusers' ``StableDiffusionSafetyChecker`` as a few array operations, without its loop over rows and
concepts.

Equal to the loop of diffusers 0.42 (``pipelines/stable_diffusion/safety_checker.py``) for finite numbers, its order of
operations, its float32 and
its rounding to three decimals included: a picture close to a special-care vector lowers every threshold that is looked
at after it by 0.01, those of the later special-care vectors and of all concepts. What differs: a cosine that is not
finite counts as a hit (the loop lets such a picture pass), and pictures are left alone (the loop paints them black).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F

STRICTER = np.float32(0.01)
"""What a special-care hit takes off the thresholds that follow."""


class SafetyDecision(NamedTuple):
    """What the checker thinks of ``n`` pictures."""

    flagged: NDArray[np.bool_]
    """(n,)"""
    concepts: NDArray[np.float32]
    """(n, concepts) cosine minus threshold, rounded to three decimals; above 0 is a hit"""
    special: NDArray[np.float32]
    """(n, special-care vectors) likewise"""

    @property
    def score(self) -> NDArray[np.float32]:
        """(n,) the nearest concept's score."""
        best: NDArray[np.float32] = self.concepts.max(axis=1)
        return best


def decide(
    special: ArrayLike, concepts: ArrayLike, special_thresholds: ArrayLike, concept_thresholds: ArrayLike
) -> SafetyDecision:
    """The checker's decision from cosines.

    Args:
        special: (n, s) cosines to the special-care vectors. concepts: (n, c) cosines to the concept vectors.
        special_thresholds: (s,). concept_thresholds: (c,).
    """
    near, thresholds = np.asarray(special, np.float32), np.asarray(special_thresholds, np.float32)
    plain = np.round(near - thresholds, 3)
    hit = ~(plain <= 0)
    earlier = (
        np.cumsum(hit, axis=1) - hit > 0
    )  # the first hit of a row lowers the thresholds after it; later hits change nothing more
    scores = np.round((near - thresholds) + np.where(earlier, STRICTER, np.float32(0)), 3)
    adjustment = np.where(hit.any(axis=1, keepdims=True), STRICTER, np.float32(0))
    found = np.round((np.asarray(concepts, np.float32) - np.asarray(concept_thresholds, np.float32)) + adjustment, 3)
    broken = ~np.isfinite(scores).all(axis=1) | ~np.isfinite(found).all(axis=1)
    flagged: NDArray[np.bool_] = np.logical_or((found > 0).any(axis=1), broken)
    return SafetyDecision(flagged, found, scores)


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(n, d), (m, d) -> (n, m) cosines, as the checker computes them."""
    return F.normalize(a) @ F.normalize(b).t()


def like_diffusers(checker: Any) -> bool:
    """Whether a checker has the parts of ``StableDiffusionSafetyChecker`` that ``check`` reads."""
    parts = (
        "vision_model",
        "visual_projection",
        "concept_embeds",
        "special_care_embeds",
        "concept_embeds_weights",
        "special_care_embeds_weights",
    )
    return all(hasattr(checker, part) for part in parts)


def check(checker: Any, clip_input: Tensor) -> SafetyDecision:
    """Run a ``StableDiffusionSafetyChecker``'s network on pixels of its feature extractor (n, 3, h, w), and decide."""
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(clip_input)[1])
        near = [
            cosines(embeds, vectors).cpu().float().numpy()
            for vectors in (checker.special_care_embeds, checker.concept_embeds)
        ]
        thresholds = [
            weights.detach().cpu().float().numpy()
            for weights in (checker.special_care_embeds_weights, checker.concept_embeds_weights)
        ]
    return decide(*near, *thresholds)
