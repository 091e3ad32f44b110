"""Detectors of synthetic speech: an interface, an adapter for classifiers of transformers, a small detector, and the
equal error rate with its direction.

Advisory only: on the systems of HARMGEN's study a published detector was right in at most 25 and 70 % of the sounds,
with equal error rates above 75 and 55 % (digest, §3.5), which means that its score pointed the wrong way there. The
small detector that comes with genward tells the embedded voice from another synthesizer (SVOX Pico); no recorded speech
was at hand, so it says nothing about people, and its card says so."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from genward.core.media import Audio
from genward.core.reading import short
from genward.errors import BadArtifact, BadInput
from genward.ops.alignment import BANDS, frames
from genward.ops.ears import RATE
from genward.ops.hearing import SILENT, mono

FEATURES = 4 * (BANDS + 1)
"""Mean and spread of each band, and of its change from frame to frame"""


class Detector(Protocol):
    """Says how synthetic a sound is."""

    name: str

    def score(self, audio: Audio) -> float:
        """From 0 to 1, higher is more synthetic; NaN where it cannot say (silence)."""
        ...


class ErrorRate(NamedTuple):
    """Equal error rate of a score."""

    eer: float
    """Share of errors at the threshold where both kinds are as frequent, of the score as it stands"""
    direction: str
    """``as named``: higher is more synthetic; ``inverted``: the score points the other way (an EER above 1/2)"""
    threshold: float


def equal_error_rate(synthetic: Sequence[float], other: Sequence[float]) -> ErrorRate:
    """EER of scores that should be higher for synthetic sounds.

    Raises:
        BadInput: no score of one kind, or one that is not finite.
    """
    high, low = np.asarray(synthetic, np.float64), np.asarray(other, np.float64)
    if not len(high) or not len(low) or not np.isfinite(np.concatenate([high, low])).all():
        raise BadInput("an equal error rate needs finite scores of synthetic sounds and of others")
    best = (math.inf, 0.5, 0.0)
    for t in np.unique(np.concatenate([high, low, [np.inf]])):
        missed, alarms = float(np.mean(high < t)), float(np.mean(low >= t))
        if abs(missed - alarms) < best[0]:
            best = (abs(missed - alarms), (missed + alarms) / 2, float(t))
    return ErrorRate(best[1], "inverted" if best[1] > 0.5 else "as named", best[2])


def features(audio: Audio) -> NDArray[np.float64] | None:
    """(FEATURES,) statistics of the log-mel spectrum; ``None`` for silence and sounds of less than a fifth of a
    second."""
    samples = mono(audio, RATE)
    if len(samples) < RATE // 5 or float(np.abs(samples).max()) < SILENT:
        return None
    found = frames(samples)
    loud = found[found[:, -1] > found[:, -1].max() - 6.0]
    steps = np.abs(np.diff(found, axis=0))
    out: NDArray[np.float64] = np.concatenate([loud.mean(0), loud.std(0), steps.mean(0), steps.std(0)])
    return out


@dataclass(frozen=True, eq=False)
class SmallDetector:
    """A logistic regression over ``features``."""

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]
    weights: NDArray[np.float64]
    constant: float
    name: str = "small detector"

    def score(self, audio: Audio) -> float:
        """See ``Detector``."""
        found = features(audio)
        if found is None:
            return math.nan
        x = float((found - self.mean) / self.spread @ self.weights) + self.constant
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, x))))

    @classmethod
    def fitted(cls, synthetic: Sequence[Audio], other: Sequence[Audio], name: str = "small detector") -> SmallDetector:
        """Fitted on sounds of both kinds. Raises ``BadInput`` for fewer than five usable ones of a kind."""
        from sklearn.linear_model import LogisticRegression

        rows = [[f for a in kind if (f := features(a)) is not None] for kind in (synthetic, other)]
        if min(map(len, rows)) < 5:
            raise BadInput("a detector is fitted on at least five sounds of each kind that are no silence")
        x = np.array(rows[0] + rows[1])
        mean, spread = x.mean(0), np.maximum(x.std(0), 1e-3)
        model = LogisticRegression(C=0.05, max_iter=2000)
        model.fit((x - mean) / spread, [1] * len(rows[0]) + [0] * len(rows[1]))
        return cls(mean, spread, model.coef_[0], float(model.intercept_[0]), name)

    def to_json(self, facts: dict[str, Any]) -> dict[str, Any]:
        """As it is shipped, with what is known about it."""
        numbers = {k: [round(float(v), 6) for v in getattr(self, k)] for k in ("mean", "spread", "weights")}
        return {"name": self.name, "constant": round(self.constant, 6), **numbers, "facts": facts}


def read_detector(text: str, where: str) -> tuple[SmallDetector, dict[str, Any]]:
    """A detector and its facts from JSON. Raises ``BadArtifact`` for anything else."""
    try:
        table = json.loads(text)
        parts = [np.array(table[k], np.float64) for k in ("mean", "spread", "weights")]
        made = SmallDetector(parts[0], parts[1], parts[2], float(table["constant"]), str(table["name"]))
        numbers = np.concatenate([*parts, [made.constant]])
        if any(p.shape != (FEATURES,) for p in parts) or not np.isfinite(numbers).all() or made.spread.min() <= 0:
            raise ValueError("its numbers are not those of a detector")
        return made, dict(table["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{where} is damaged ({short(error)}); install genward again") from error


@cache
def embedded_detector() -> tuple[SmallDetector, dict[str, Any]]:
    """The detector that comes with genward, and what its card says."""
    return read_detector(
        resources.files("genward").joinpath("lab", "voice_detector.json").read_text("utf-8"), "lab/voice_detector.json"
    )


class ClassifierDetector:
    """An audio classifier of transformers as a detector.

    Args:
        folder: of the model; safetensors alone, nothing is downloaded. label: the class that means synthetic.

    Raises:
        BadInput: nothing that can be loaded, or no such class.
    """

    def __init__(self, folder: str | Path, label: str) -> None:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        try:
            self._model = AutoModelForAudioClassification.from_pretrained(
                folder, use_safetensors=True, local_files_only=True
            ).eval()
            self._reader = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{short(str(folder))} cannot be loaded as an audio classifier: {short(error)}") from error
        known = {str(v): int(k) for k, v in self._model.config.id2label.items()}
        if label not in known:
            raise BadInput(f"{short(str(folder))} has no class {label!r}; it has {', '.join(sorted(known))}")
        self.name, self._place = f"{Path(folder).name}, {label}", known[label]

    def score(self, audio: Audio) -> float:
        """See ``Detector``."""
        import torch

        rate = int(self._reader.sampling_rate)
        samples = mono(audio, rate)
        if float(np.abs(samples).max()) < SILENT:
            return math.nan
        with torch.no_grad():
            logits = self._model(**self._reader(samples, sampling_rate=rate, return_tensors="pt")).logits
        return float(logits.softmax(-1)[0, self._place])
