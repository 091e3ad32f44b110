"""What attacks by gradient read off a target before they begin."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from genward.core.contracts import Target


class Predictions(NamedTuple):
    """How an arm's predictions are asked for and read."""

    guidance: float
    """The attack's, else the sampler's where a defense acts through guidance alone, else 1."""
    alphas: Tensor
    """(T,) signal levels"""
    kind: str
    """``epsilon``, ``v_prediction`` or ``sample``"""
    timesteps: int
    """How many the model was trained on"""


def predictions_of(attack: Any, target: Target) -> Predictions:
    """The guidance, signal levels and kind of predictions that an attack with a field ``guidance`` works with."""
    guidance = attack.guidance
    if guidance is None:
        guidance = target.sampler.guidance if target.needs_guidance else 1.0
    alphas, schedule = target.alphas, target.schedule
    total = min(int(schedule.get("num_train_timesteps", len(alphas))), len(alphas))
    return Predictions(float(guidance), alphas, str(schedule.get("prediction_type", "epsilon")), total)
