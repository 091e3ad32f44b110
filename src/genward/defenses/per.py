"""PER (Cassano et al., arXiv 2606.31699, "Look But Don't Touch"): a latent only tells where the concept is; the tokens
there are filled from around them.

Stated: latents of a sparse autoencoder are a detector; each flagged token is replaced by tokens of unflagged places of
the same map; no strength. From the authors' earlier working code: a token is flagged when a chosen latent exceeds its
class-balanced mean, the mean of the five nearest takes its place, both halves of guidance, unflagged tokens are left
bit for bit. Ours: where every token of a map is flagged it becomes the autoencoder's bias, the median of all states
(there: noise), so that a picture depends on nothing but its own states."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from genward.core.contracts import Artifact, FitTools, Rig, Window
from genward.core.records import Concept
from genward.errors import BadInput
from genward.ops import artifacts, phrases
from genward.ops.tools import QUIET
from genward.sae.autoencoder import sae_of
from genward.sae.concepts import card_of, latents_of, measured, random_latents, sae_settings, scored_latents
from genward.sae.edit import attach_fill, check_fields
from genward.sae.fit import refuse_site, shared_sae
from genward.sae.owned import check_labels, owned
from genward.sae.supervised import Supervision

DETECTORS = ("scored", "assigned")


@dataclass(frozen=True)
class Per:
    """PER: tokens in which a latent sees the concept are filled from their surroundings; all others keep their bits."""

    name: ClassVar[str] = "per"
    at_attach: ClassVar[frozenset[str]] = frozenset(
        {"artifact", "threshold", "neighbors", "dilation", "branch", "during"}
    )
    site: str = "up_blocks.1.attentions.1"
    """Where tokens are looked at and filled."""
    detector: str = "assigned"
    """Latents that look: ``assigned`` as SAEmnesia's, or ``scored`` as SAeUron's."""
    percentile: float = 99.95
    """Percentile of the scores above which a latent looks, for ``scored``."""
    neighbors: int = 5
    """Nearest unflagged tokens whose mean takes a flagged one's place; 1 takes the nearest."""
    dilation: int = 1
    """Rings of tokens around a flagged one that are filled as well; the authors' earlier code has one as an option."""
    threshold: float = 1.0
    """Multiple of its class-balanced mean above which a latent flags a token; the authors' is 1."""
    branch: str = "both"
    """Rows that are filled: ``both`` halves of guidance (the authors), or ``conditional`` ones."""
    during: Window = (0.0, 1.0)
    """Part of the loop in which tokens are filled."""
    labels: str = "request"
    """Whose labels are learned, for ``assigned``: as in SAEmnesia."""
    labeled_images: int = 240
    """Pictures whose labels are learned from, for ``assigned`` by the ``vocabulary``."""
    epochs: int = 60
    """Epochs at most of that, for ``assigned``."""
    expansion: int = 16
    """Latents of the autoencoder for each channel of the site."""
    k: int = 32
    """Latents of a token that are not zero."""
    sae_images: int = 300
    """Pictures that the autoencoder is trained on; one of equal settings is shared (``genward fit sae``)."""
    sae_epochs: int = 8
    """Times that it sees every state."""
    images: int = 12
    """Pictures of each target, for the statistics."""
    others: int = 3
    """Pictures of each caption that must stay."""
    sampling_steps: int = 20
    """Steps of their sampling; statistics are taken at each of its timesteps."""
    guidance: float = 4.0
    """Guidance of their sampling."""
    seed: int = 0
    """Of these pictures."""
    control: bool = field(default=False, metadata={"identity": "where set"})
    """Look with as many random latents that fire in the concept's pictures: a control, no defense."""
    artifact: Artifact | None = None
    """What was learned: the autoencoder, the latents that look and their statistics."""

    def __post_init__(self) -> None:
        check_fields(self.name, self)
        if self.detector not in DETECTORS:
            raise BadInput(f"per: detector {self.detector!r}; {' or '.join(map(repr, DETECTORS))} are possible")
        if not 0 < self.percentile < 100 or not 0 <= self.threshold <= 1e12:
            raise BadInput("per: percentile must lie between 0 and 100, threshold between 0 and 1e12")
        if self.neighbors < 1 or self.dilation < 0:
            raise BadInput("per: neighbors must be at least 1, dilation at least 0")
        check_labels(self.name, self.labels)
        Supervision(images=self.labeled_images, epochs=self.epochs)

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the latents of one or many concepts; the model is not changed.

        Costs what SAeUron's fit costs, or SAEmnesia's (``assigned``). Interrupted, it goes on where it was.

        Raises:
            BadInput: a concept without phrases or without anything to keep, one that owns no latent (``assigned``), or
                a site without image tokens.
        """
        concepts = phrases.listed(concept)
        refuse_site(model, self.site)
        if self.detector == "scored":
            base = shared_sae(model, concepts, sae_settings(self), tools)
            sae, began = sae_of(base.tensors, self.k), time.perf_counter()
            means, pictures = measured(model, concepts, self, sae, tools)
            found = scored_latents(means, pictures.targets, self.percentile, sae)
            facts: dict[str, Any] = {}
            seconds = time.perf_counter() - began
        else:
            plan = Supervision(images=self.labeled_images, epochs=self.epochs)
            found, means, pictures, base, facts, seconds = owned(model, concepts, self, plan, tools)
        if self.control:
            found = random_latents(means, found, pictures.targets, self.seed)
        card = card_of(self, concepts, model, base, (means, pictures), seconds)
        card |= {"latents": found.latents.tolist(), **facts}
        return replace(self, artifact=artifacts.make(found.tensors(), card))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Fill the site's output. Raises ``BadInput`` without an artifact, ``BadArtifact`` for another model's."""
        found = latents_of(self.artifact, self.name)
        self.check(rig)
        attach_fill(rig, self, found, self.name)
