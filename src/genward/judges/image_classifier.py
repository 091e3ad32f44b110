"""Any Hugging Face image classification model as a judge: ImageNet's, WikiArt's, one of your own.

The field judges erased objects by the first answer of an ImageNet network and erased artists by the first or the first
three of a WikiArt one
(UnlearnDiffAtk, Zhang et al., ECCV 2024, arXiv 2310.11868): that is ``top=1`` and ``top=3`` here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from genward.core.contracts import Card
from genward.core.records import Sample, Score
from genward.core.spec import digest
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.judges._models import config_of, device_of, hashes, loaded, local_folder, pixels, unusable

Array = NDArray[np.float64]


def concept_values(logits: Array, classes: Sequence[Sequence[int]], *, top: int = 0, several: bool = False) -> Array:
    """Value of each concept, (n, concepts) in [0, 1].

    Args:
        logits: (n, classes of the model).
        classes: the classes of each concept.
        top: 0 gives probabilities; k gives 1 where one of the concept's classes is among the k likeliest, else 0. Of
            equals, the lower class counts.
        several: whether a picture may have several classes (sigmoid, the best one counts) or has exactly one (softmax,
            they add up).
    """
    if top:
        first = np.argsort(-logits, axis=1, kind="stable")[:, :top]
        lost = np.isnan(logits).any(1)
        return np.stack([np.where(lost, np.nan, np.isin(first, ids).any(1)) for ids in classes], 1)
    with np.errstate(invalid="ignore", over="ignore"):  # of logits that are no numbers nothing but NaN comes out
        shifted = np.exp(logits - logits.max(1, keepdims=True))
        values = np.exp(-np.logaddexp(0.0, -logits)) if several else shifted / shifted.sum(1, keepdims=True)
    columns = [values[:, list(ids)] for ids in classes]
    return np.stack([c.max(1) if several else np.minimum(c.sum(1), 1.0) for c in columns], 1)


def class_ids(wanted: str, names: Mapping[int, str], model: str) -> int:
    """The class that a number or a name means; a name may be one of several that a class has ("tench" of "tench, Tinca
    tinca").

    Raises:
        UnknownName: no such class, with the nearest names; BadInput: a name of several classes.
    """
    text = wanted.strip().casefold()
    if text.isdecimal():
        if int(text) in names:
            return int(text)
        raise BadInput(
            f"class {wanted!r} of {model}: its classes are numbered 0 to {len(names) - 1}; give one of these or a name"
        )
    whole = [k for k, name in names.items() if name.casefold() == text]
    found = whole or [k for k, name in names.items() if text in (part.strip() for part in name.casefold().split(","))]
    if not found:
        raise UnknownName(
            f"class of {model}", wanted, {part.strip() for name in names.values() for part in (name, *name.split(","))}
        )
    if len(found) > 1:
        raise BadInput(
            f"class {wanted!r} of {model} is the name of {len(found)} classes ({', '.join(map(str, found[:4]))}); give "
            "the number of one"
        )
    return found[0]


@dataclass(frozen=True)
class ImageClassifier:
    """Concepts in a picture by the classes of any Hugging Face image classification model."""

    name: ClassVar[str] = "image_classifier"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    model: str = ""
    """Folder of an image classification model, or a hub id that is on this machine."""
    labels: tuple[str, ...] = ()
    """Concepts: "church", a class by name or number, or "fish=tench|goldfish|2"; a table {concept: classes} does too.
    Empty: every class."""
    top: int = 0
    """0 scores probabilities; k scores 1 where the concept is among the k likeliest classes, else 0."""
    threshold: float = 0.5
    """A concept is seen from this score on."""
    download: bool = False
    """Whether a hub id that is not on this machine may be fetched."""
    device: str = ""
    """cpu, cuda, ...; empty: CUDA where there is one."""
    batch: int = 32
    """Pictures a forward pass."""

    def __post_init__(self) -> None:
        given: Any = self.labels
        if isinstance(given, Mapping):
            lines = ((k, (v,) if isinstance(v, (str, int)) else tuple(v)) for k, v in given.items())
            object.__setattr__(self, "labels", tuple(f"{k}={'|'.join(map(str, v))}" for k, v in lines))
        if self.top < 0 or self.batch < 1 or not 0 < self.threshold <= 1:
            raise BadInput(
                f"image_classifier: top {self.top}, threshold {self.threshold}, batch {self.batch}; at least 0, "
                "between 0 and 1, at least 1"
            )
        names = [label for label, _ in self._wanted]
        if len(set(names)) < len(names) or not all(label and all(classes) for label, classes in self._wanted):
            raise BadInput(
                f"image_classifier labels {self.labels}: each needs a name of its own and classes; write 'church' or "
                "'fish=tench|goldfish'"
            )

    @property
    def _wanted(self) -> tuple[tuple[str, tuple[str, ...]], ...]:
        """(concept, classes as written) of each line of ``labels``."""
        cut = ((head, tail if sign else head) for head, sign, tail in (text.partition("=") for text in self.labels))
        return tuple((head.strip(), tuple(x.strip() for x in tail.split("|"))) for head, tail in cut)

    @cached_property
    def _names(self) -> dict[int, str]:
        """Class number -> name, from the model's configuration."""
        folder = local_folder(self.model, download=self.download, judge=self.name)
        raw = config_of(folder)
        try:
            names = {int(k): str(v) for k, v in (raw.get("id2label") or {}).items()}
        except (TypeError, ValueError, AttributeError):
            names = {}
        names = names or {
            k: f"LABEL_{k}" for k in range(int(raw.get("num_labels") or 2))
        }  # transformers leaves out the default of two
        if sorted(names) != list(range(len(names))):
            raise BadArtifact(
                f"{folder / 'config.json'} numbers its classes {sorted(names)[:4]} …, not from 0 on; get the model anew"
            )
        return names

    @cached_property
    def concepts(self) -> dict[str, tuple[int, ...]]:
        """Concept -> numbers of its classes.

        Raises:
            UnknownName: a class that the model does not have, with the nearest names.
        """
        model = self.model.rstrip("/").rpartition("/")[2]
        if self.labels:
            return {
                label: tuple(dict.fromkeys(class_ids(c, self._names, model) for c in classes))
                for label, classes in self._wanted
            }
        names = list(self._names.values())
        return {name if names.count(name) == 1 else f"{name} ({k})": (k,) for k, name in self._names.items()}

    @cached_property
    def card(self) -> Card:
        """Thresholds and the identity of the model's files; error rates were not measured, so no rate is corrected."""
        folder = local_folder(self.model, download=self.download, judge=self.name)
        source = folder.name if self.model.startswith((".", "/")) else self.model
        levels = {label: {"threshold": self.threshold} for label in self.concepts}
        facts: dict[str, Any] = {
            "model": source,
            "top": self.top,
            "classes": {k: list(v) for k, v in self.concepts.items()} if self.labels else "all",
        }
        return Card(
            self.name,
            "Classes of an image classification model; error rates not measured",
            levels,
            {**facts, "files": hashes(folder)},
        )

    @property
    def hash(self) -> str:
        """Identity: concepts, threshold and the content of the model's files; not where they lie, nor device or
        batch."""
        return digest(
            {
                "judge": self.name,
                "levels": self.card.labels,
                **{k: v for k, v in self.card.facts.items() if k != "model"},
            }
        )

    @cached_property
    def _loaded(self) -> tuple[Any, Any, Any]:
        """(model, image processor, device)."""
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        folder = local_folder(self.model, download=self.download, judge=self.name)

        def load() -> tuple[tuple[Any, Any], Any]:
            options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
            processor = AutoImageProcessor.from_pretrained(
                str(folder), backend="pil", **options
            )  # the other backend needs torchvision
            kind = AutoModelForImageClassification
            model, info = kind.from_pretrained(
                str(folder), use_safetensors=True, dtype=torch.float32, output_loading_info=True, **options
            )
            return (model, processor), info

        model, processor = loaded(folder, load)
        device = device_of(self.device)
        return model.eval().to(device), processor, device

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        """One ``Score`` a concept and sample in [0, 1]; NaN with a reason where there is no picture or no number.

        Raises:
            UnknownName, BadInput, BadArtifact: a class that the model does not have, or no model that can be trusted.
        """
        import torch

        concepts = self.concepts
        model, processor, device = self._loaded
        if self.top > len(self._names):
            raise BadInput(f"image_classifier top {self.top}; the model has {len(self._names)} classes")
        rows = [k for k, s in enumerate(samples) if not unusable(s)]
        parts = [np.zeros((0, len(self._names)))]
        for start in range(0, len(rows), self.batch):
            pictures = [samples[k].image for k in rows[start : start + self.batch]]
            with torch.no_grad():
                parts.append(
                    model(pixels(processor, [p for p in pictures if p is not None]).to(device))
                    .logits.double()
                    .cpu()
                    .numpy()
                )
        several = getattr(model.config, "problem_type", None) == "multi_label_classification"
        table = concept_values(np.concatenate(parts), list(concepts.values()), top=self.top, several=several)
        place = {k: j for j, k in enumerate(rows)}
        out = []
        for k, sample in enumerate(samples):
            values = table[place[k]] if k in place else np.full(len(concepts), math.nan)
            why = "" if k in place else unusable(sample)
            out += [
                Score(sample.id, x, float(v), why or ("" if math.isfinite(v) else "the model returned no number"))
                for x, v in zip(concepts, values, strict=True)
            ]
        return out
