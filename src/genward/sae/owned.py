"""Latents that concepts own, learned with labels: of the whole vocabulary, or of a request alone.

SAEmnesia (arXiv 2509.21379) trains one autoencoder with the labels of all objects and styles, from thousands of
pictures each. Where pictures are few, those of the request serve better: its targets, many of each, and what must stay,
the same pictures that the statistics are taken on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from genward.core.contracts import Artifact, FitTools
from genward.core.records import Concept
from genward.errors import BadInput
from genward.sae.autoencoder import Sae, sae_of
from genward.sae.concepts import Latents, Means, Pictures, assigned_latents, means_of, pictured, sae_settings
from genward.sae.fit import classes_of, shared_sae
from genward.sae.supervised import Supervision, assigned_to, learned, shared_supervised

LABELS = ("request", "vocabulary")


class Owned(NamedTuple):
    """A request's latents, and what they were learned from."""

    latents: Latents
    means: Means
    pictures: Pictures
    base: Artifact
    """The autoencoder that was trained on, or the supervised one of the vocabulary"""
    facts: dict[str, Any]
    """For the card"""
    seconds: float
    """Without the base's"""


def check_labels(who: str, labels: str) -> None:
    """``BadInput`` for anything else than ``LABELS``."""
    if labels not in LABELS:
        raise BadInput(f"{who}: labels {labels!r}; {' or '.join(map(repr, LABELS))} are possible")


def owned(model: Any, concepts: Sequence[Concept], method: Any, plan: Supervision, tools: FitTools) -> Owned:
    """One latent for each target of a request.

    Args:
        method: its fields ``labels``, ``k`` and ``site``, those of ``sae_settings`` and of ``pictured``.

    Raises:
        BadInput: a target that owns no latent (``vocabulary``), or nothing to set the request apart from.
    """
    settings = sae_settings(method)
    if method.labels == "vocabulary":
        base = shared_supervised(model, concepts, settings, plan, tools)
        mine, sae = assigned_to(base, list(classes_of(concepts))), sae_of(base.tensors, method.k)
        facts: dict[str, Any] = {"peak": base.card["peak"]}
    else:
        base = shared_sae(model, concepts, settings, tools)
    began = time.perf_counter()
    found, pictures = pictured(model, concepts, method, tools)
    if method.labels == "request":
        mine, sae, facts = _of_request(found, pictures, sae_of(base.tensors, method.k), method.site, plan, tools)
    means = means_of(found, method.site, sae, pictures.labels, pictures.names)
    return Owned(assigned_latents(means, mine, sae), means, pictures, base, facts, time.perf_counter() - began)


def _of_request(
    found: Any, pictures: Pictures, base: Sae, site: str, plan: Supervision, tools: FitTools
) -> tuple[list[int], Sae, dict[str, Any]]:
    present = torch.nn.functional.one_hot(pictures.labels, len(pictures.names)).bool()
    made = learned(found, base, present, torch.zeros(len(pictures.names), dtype=torch.bool), site, plan, tools)
    return made.assigned[: pictures.targets], sae_of(made.tensors, base.k), made.facts
