"""Naturalness of a sound: the mean opinion score that DNSMOS predicts, by the package ``speechmos`` (ONNX), where it is
installed. ``distillmos`` ranks voices better but keeps its weights in a pickle, which is not opened."""

from __future__ import annotations

import math
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from genward.core.media import Audio
from genward.ops.ears import RATE
from genward.ops.hearing import mono

MISSING = "naturalness needs the package speechmos, which is not installed; pip install speechmos"


def installed() -> bool:
    """Whether the package is there; nothing is imported."""
    return find_spec("speechmos") is not None


def naturalness(audio: Audio) -> tuple[float, str]:
    """Mean opinion score from 1 (bad) to 5, and ``""``; NaN and the reason where nothing can say."""
    if not installed():
        return math.nan, MISSING
    samples = mono(audio, RATE)
    if len(samples) < RATE // 2:
        return math.nan, f"{audio.seconds:.2f} s are too short for a rating"
    try:
        value = float(_engine().run(np.clip(samples, -1, 1), sr=RATE)["ovrl_mos"])
    except (ImportError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return math.nan, f"speechmos could not rate it ({type(error).__name__}: {error})"
    return (value, "") if math.isfinite(value) else (math.nan, "speechmos gave no number")


@cache
def _engine() -> Any:
    return import_module("speechmos.dnsmos")
