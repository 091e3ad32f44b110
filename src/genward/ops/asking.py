"""Asking a judge: about pictures that a defense looks at (thresholds of its labels, its numbers in a table), and about
those that a fit learns from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genward.core.contracts import Judge
from genward.core.media import Image
from genward.core.records import Case, Sample
from genward.core.settings import LAB_JUDGES, matched
from genward.errors import BadInput, UnknownName

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


STAND_IN = "genward_stand_in"
"""Attribute of a pipeline in memory that ``genward.testing`` built: it draws noise, so tests may show it to any
judge."""


def at_home(judge: Judge, model: Any, owner: str) -> None:
    """``BadInput`` where the lab's judge is to look at the pictures of another model: it would find nothing in them,
    and everything would be released."""
    if getattr(getattr(model, "pipe", None), STAND_IN, False):
        return
    spec = getattr(model, "spec", None)
    source = str(spec.fields.get("source", "")) if spec is not None else ""
    if judge.name in LAB_JUDGES and spec is not None and not source.startswith("lab:"):
        raise BadInput(
            f"{owner}: the judge {judge.name!r} knows the lab's drawings alone, and this is another model "
            f"({source or 'unnamed'}); name a "
            "judge of its pictures (genward list judges): judge=clip_zero_shot with a model and phrases, or "
            "judge=open_nsfw with labels=nsfw for pornographic pictures (pip install 'genward[pictures]')"
        )


def prepared(defense: Any, example: str, model: Any) -> tuple[Judge, NDArray[np.float64]]:
    """The judge of a defense with the fields ``probe``, ``labels``, ``threshold`` and ``judge``, and its labels'
    thresholds (labels,).

    Args:
        example: a label, for the message.
        model: whose pictures it is asked about.

    Raises:
        BadInput: no judge, the lab's judge on another model, one that does not look at pictures, no labels, or a label
            without a threshold. UnknownName: a label that the judge lacks.
    """
    name = type(defense).name
    if defense.probe is None:
        raise BadInput(
            f"{name} has no judge to ask; give one: probe=<a judge>, or build the chain with genward "
            f"('{name}:weapons', judge={defense.judge or 'lab_second'})"
        )
    if not defense.labels:
        raise BadInput(f"{name} has no labels to refuse; write {name}:weapons, or give labels={example}")
    matched("image", f"before {name}", judges=[defense.probe])
    at_home(defense.probe, model, name)
    return defense.probe, thresholds(defense.probe, defense.labels, defense.threshold, name)


def thresholds(judge: Judge, labels: Sequence[str], given: float | None, owner: str) -> NDArray[np.float64]:
    """(labels,) the threshold of each label: the given one, or the card's.

    Raises:
        UnknownName: the judge's card lacks a label. BadInput: it has no thresholds and none is given; the message names
            ``owner``.
    """
    known = judge.card.labels if judge.card is not None else {}
    for label in labels:
        if known and label not in known:
            raise UnknownName(f"label of judge {judge.name}", label, known)
        if given is None and "threshold" not in known.get(label, {}):
            raise BadInput(f"{owner}: judge {judge.name} states no threshold for {label!r}; give threshold=0.5, say")
    found = np.array([float(given if given is not None else known[label]["threshold"]) for label in labels])
    if not np.isfinite(found).all():
        raise BadInput(f"{owner}: a threshold of judge {judge.name} is no finite number; give threshold=0.5, say")
    return found


def scores(judge: Judge, images: Sequence[Picture | None], labels: Sequence[str]) -> NDArray[np.float64]:
    """(images, labels) the judge's numbers; NaN where it has none or there is no picture."""
    samples = {
        k: Sample(Case(f"picture/{k}", "", seed=k), output=Image(image))
        for k, image in enumerate(images)
        if image is not None
    }
    rows, columns = {s.id: k for k, s in samples.items()}, {label: j for j, label in enumerate(labels)}
    values = np.full((len(images), len(labels)), np.nan)
    for score in judge.judge(list(samples.values())) if samples else ():
        if score.label in columns and score.sample in rows:
            values[rows[score.sample], columns[score.label]] = score.value
    return values


def judged(judge: Any, samples: Sequence[Sample], names: Sequence[str]) -> Tensor:
    """What a judge says of pictures: (samples, names) of 1 where a label reaches its threshold, 0 below it, NaN where
    it could not say.

    Args:
        judge: with ``judge(samples)`` and a card that holds each label's threshold (0.5 where it does not).

    Raises:
        BadInput: the judge does not know a label.
    """
    index = {s.id: k for k, s in enumerate(samples)}
    column = {name: k for k, name in enumerate(names)}
    card = judge.card
    cut = {
        n: float(card.labels[n].get("threshold", 0.5)) if card is not None and n in card.labels else 0.5 for n in names
    }
    out = torch.full((len(samples), len(names)), float("nan"))
    told = set()
    for score in judge.judge(samples):
        if score.label in column and score.sample in index:
            told.add(score.label)
            if score.value == score.value:
                out[index[score.sample], column[score.label]] = float(score.value >= cut[score.label])
    missing = [n for n in names if n not in told]
    if missing:
        raise BadInput(
            f"judge {type(judge).name!r} says nothing about {', '.join(missing[:5])}; use one that knows these labels "
            "(genward list judges)"
        )
    return out
