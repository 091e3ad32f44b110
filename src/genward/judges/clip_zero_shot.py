"""Any phrase in any picture, by a CLIP model: how much nearer the picture lies to the phrase than to neutral ones.

CLIP: Radford et al., Learning transferable visual models from natural language supervision, ICML 2021. The two-way
    softmax against neutral
phrases is ours: unlike a softmax over all phrases, the score of one does not change when another is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from genward.core.contracts import Card
from genward.core.records import Sample, Score
from genward.core.spec import digest
from genward.errors import BadArtifact, BadInput
from genward.judges._models import config_of, device_of, hashes, loaded, local_folder, pixels, unusable

Array = NDArray[np.float64]


def against_neutral(images: Array, phrases: Array, neutral: Array, scale: float) -> Array:
    """Probability of each phrase against the neutral ones, (n, p) in [0, 1].

    ``exp(scale·cos(image, phrase))`` divided by itself plus the sum of the same over the neutral phrases.

    Args:
        images: (n, d) embeddings of any length; phrases: (p, d); neutral: (q, d).
        scale: CLIP's ``exp(logit_scale)``, 100 in the published models.
    """
    with np.errstate(invalid="ignore"):  # an embedding without length or without numbers gives NaN
        images, phrases, neutral = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images, phrases, neutral))
        wanted, others = scale * images @ phrases.T, scale * images @ neutral.T
        top = others.max(1, keepdims=True)
        total = top + np.log(np.exp(others - top).sum(1, keepdims=True))
        found: Array = np.exp(-np.logaddexp(0.0, total - wanted))
    return found


class Clip(NamedTuple):
    """A loaded model: its processor, and embeddings of the phrases and the neutral phrases, (p, d) and (q, d)."""

    model: Any
    processor: Any
    device: Any
    phrases: Array
    neutral: Array


@dataclass(frozen=True)
class ClipZeroShot:
    """Any phrase in a picture, by a CLIP model against neutral phrases; features are image embeddings."""

    name: ClassVar[str] = "clip_zero_shot"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    model: str = ""
    """Folder of a CLIP model, or a hub id that is on this machine."""
    phrases: tuple[str, ...] = ()
    """What to look for: "a church", or "church=a photo of a church" to give the label another name; phrases under one
    label count as one."""
    neutral: tuple[str, ...] = ("a photo", "a picture of something", "a drawing", "a landscape")
    """Phrases that say nothing, which each phrase is held against."""
    threshold: float = 0.5
    """A label is seen from this probability on."""
    download: bool = False
    """Whether a hub id that is not on this machine may be fetched."""
    device: str = ""
    """cpu, cuda, ...; empty: CUDA where there is one."""
    batch: int = 32
    """Pictures a forward pass."""

    def __post_init__(self) -> None:
        if not self.neutral or not all(x.strip() for x in self.neutral):
            raise BadInput("clip_zero_shot needs at least one neutral phrase, none of them empty")
        for label, phrase in self._pairs:
            if not label or not phrase:
                raise BadInput(
                    f"clip_zero_shot: phrase {phrase!r} under label {label!r}; write 'a church' or 'church=a photo of "
                    "a church'"
                )
        if not 0 < self.threshold < 1:
            raise BadInput(f"clip_zero_shot threshold {self.threshold}; between 0 and 1 is possible")
        if self.batch < 1:
            raise BadInput(f"clip_zero_shot batch {self.batch}; at least 1 is possible")

    @property
    def _pairs(self) -> tuple[tuple[str, str], ...]:
        """(label, phrase) of each phrase."""
        cut = (
            (head, tail) if sign else (head, head)
            for head, sign, tail in (text.partition("=") for text in self.phrases)
        )
        return tuple((label.strip(), phrase.strip()) for label, phrase in cut)

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for label, _ in self._pairs))

    @cached_property
    def card(self) -> Card:
        """Thresholds and the identity of the model's files; error rates were not measured, so no rate is corrected."""
        folder = local_folder(self.model, download=self.download, judge=self.name)
        facts = {
            "model": folder.name if self.model.startswith((".", "/")) else self.model,
            "phrases": list(self.phrases),
            "neutral": list(self.neutral),
        }
        levels = {label: {"threshold": self.threshold} for label in self.labels}
        return Card(
            self.name,
            "Phrases by CLIP against neutral ones; error rates not measured",
            levels,
            {**facts, "files": hashes(folder)},
        )

    @property
    def hash(self) -> str:
        """Identity: phrases, threshold and the content of the model's files; not where they lie, nor device or
        batch."""
        return digest(
            {
                "judge": self.name,
                "levels": self.card.labels,
                **{k: v for k, v in self.card.facts.items() if k != "model"},
            }
        )

    @cached_property
    def _clip(self) -> Clip:
        if not self.phrases:
            raise BadInput(
                "clip_zero_shot was not told what to look for; set its field `phrases`, say 'church=a photo of a "
                "church'"
            )
        import torch
        from transformers import CLIPModel, CLIPProcessor

        folder = local_folder(self.model, download=self.download, judge=self.name)
        kind = config_of(folder).get("model_type")
        if kind != "clip":
            raise BadArtifact(
                f"{folder} holds a model of type {kind!r}; clip_zero_shot runs CLIP models (model_type 'clip')"
            )

        def load() -> tuple[tuple[Any, Any], Any]:
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            processor = CLIPProcessor.from_pretrained(
                str(folder), backend="pil", **options
            )  # the other backend needs torchvision
            model, info = CLIPModel.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            return (model, processor), info

        model, processor = loaded(folder, load)
        device = device_of(self.device)
        model = model.eval().to(device)
        texts = [*(phrase for _, phrase in self._pairs), *self.neutral]
        table = _texts(model, processor, texts, device)
        return Clip(model, processor, device, table[: len(self._pairs)], table[len(self._pairs) :])

    @cached_property
    def _last(self) -> list[tuple[list[Any], Any]]:
        """Pictures and embeddings of the latest call: judging and features are asked for one after the other on the
        same pictures."""
        return []

    def _embeddings(self, samples: Sequence[Sample]) -> tuple[list[int], NDArray[np.float32]]:
        """Rows that can be judged, and their image embeddings (rows, d)."""
        import torch

        clip = self._clip
        rows = [k for k, s in enumerate(samples) if not unusable(s)]
        pictures = [samples[k].image for k in rows]
        for seen, found in self._last:
            if len(seen) == len(pictures) and all(a is b for a, b in zip(seen, pictures, strict=True)):
                return rows, found
        parts = [np.zeros((0, clip.model.config.projection_dim), np.float32)]
        for start in range(0, len(pictures), self.batch):
            x = pixels(
                clip.processor.image_processor, [p for p in pictures[start : start + self.batch] if p is not None]
            )
            with torch.no_grad():
                parts.append(
                    clip.model.get_image_features(pixel_values=x.to(clip.device)).pooler_output.float().cpu().numpy()
                )
        found = np.concatenate(parts)
        self._last[:] = [(pictures, found)]
        return rows, found

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        """One ``Score`` a label and sample: the best probability of its phrases; NaN with a reason where there is no
        picture or no number.

        Raises:
            BadInput, BadArtifact: no phrases, or no model that can be trusted.
        """
        rows, found = self._embeddings(samples)
        clip = self._clip
        scale = float(clip.model.logit_scale.detach().exp())
        table = against_neutral(found.astype(np.float64), clip.phrases, clip.neutral, scale)
        place = {k: j for j, k in enumerate(rows)}
        out = []
        for k, sample in enumerate(samples):
            for label in self.labels:
                columns = [j for j, (name, _) in enumerate(self._pairs) if name == label]
                value = float(table[place[k], columns].max()) if k in place else math.nan
                out.append(
                    Score(
                        sample.id,
                        label,
                        value,
                        "" if math.isfinite(value) else unusable(sample) or "CLIP returned no number",
                    )
                )
        return out

    def features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """(n, d) float32 image embeddings, not normalized; NaN rows where there is no picture."""
        rows, found = self._embeddings(samples)
        out = np.full((len(samples), found.shape[1]), np.nan, np.float32)
        out[rows] = found
        return out


def _texts(model: Any, processor: Any, texts: Sequence[str], device: Any) -> Array:
    """Text embeddings (n, d); ``BadInput`` for a text that does not fit the model."""
    import torch

    tokens = processor.tokenizer(list(texts), padding=True, return_tensors="pt")
    limit = model.config.text_config.max_position_embeddings
    for text, mask in zip(texts, tokens["attention_mask"], strict=True):
        if int(mask.sum()) > limit:
            raise BadInput(f"phrase {text[:60]!r} has {int(mask.sum())} tokens, the model reads {limit}; shorten it")
    with torch.no_grad():
        found = model.get_text_features(**{k: tokens[k].to(device) for k in ("input_ids", "attention_mask")})
    table: Array = found.pooler_output.double().cpu().numpy()
    return table
