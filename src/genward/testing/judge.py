"""A judge whose answers are known: brightness of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from genward.core.contracts import Card
from genward.core.records import Sample, Score


@dataclass(frozen=True)
class FakeJudge:
    """Scores every label with the picture's mean brightness in [0, 1]; a sample without a picture is NaN with a
    reason."""

    name: ClassVar[str] = "fake"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    labels: tuple[str, ...] = ("bright",)
    threshold: float = 0.5

    @property
    def card(self) -> Card:
        one = {
            "sensitivity": 0.95,
            "specificity": 0.98,
            "positives": 500.0,
            "negatives": 500.0,
            "threshold": self.threshold,
        }
        return Card("fake", "mean brightness", {label: dict(one) for label in self.labels})

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        out = []
        for sample in samples:
            value = (
                float(np.asarray(sample.image.convert("L")).mean() / 255) if sample.image is not None else float("nan")
            )
            out += [
                Score(sample.id, label, value, "" if sample.image is not None else f"no picture: {sample.status}")
                for label in self.labels
            ]
        return out

    def features(self, samples: Sequence[Sample]) -> Any:
        """(n, 12) float32: channel means of the picture's four quarters; NaN rows where there is no picture."""
        rows = []
        for sample in samples:
            if sample.image is None:
                rows.append(np.full(12, np.nan, np.float32))
                continue
            pixels = np.asarray(sample.image.convert("RGB"), np.float32) / 255
            h, w = pixels.shape[0] // 2, pixels.shape[1] // 2
            rows.append(
                np.concatenate(
                    [pixels[i * h : (i + 1) * h, j * w : (j + 1) * w].mean((0, 1)) for i in (0, 1) for j in (0, 1)]
                )
            )
        return np.stack(rows).astype(np.float32)
