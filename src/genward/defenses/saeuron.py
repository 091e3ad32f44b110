"""SAeUron (Cywiński and Deja, arXiv 2501.18052): latents of a sparse autoencoder that a concept's pictures activate are
pushed below zero while sampling.

As the authors' code does it: scores by latent and timestep, a percentile at each timestep, tokens where a chosen latent
exceeds its class-balanced mean, the product ``z · multiplier · mean`` in its place, both halves of guidance. Ours:
statistics are keyed by the scheduler's timestep and not by a counter of calls; the edit enters as a sparse difference,
so the reconstruction error keeps its sign (``error="paper"`` gives the released one, which leaves an unedited token as
``2 x̂ - x``) and other tokens keep their bits."""

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
from genward.sae.edit import attach_edit, check_edit, check_fields
from genward.sae.fit import refuse_site, shared_sae
from genward.sae.strength import with_strength


@dataclass(frozen=True)
class Saeuron:
    """SAeUron: turns the concept's latents of a sparse autoencoder below zero, in the tokens that they fire in."""

    name: ClassVar[str] = "saeuron"
    labelled: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength", "multiplier", "rule", "branch", "during"})
    site: str = "up_blocks.1.attentions.1"
    """Where; the authors' site for objects."""
    percentile: float = 99.95
    """Percentile of the scores above which a latent is chosen, at each timestep for itself. Of n latents about
    ``n · (1 - percentile / 100)``, at least one: the authors' 99.999 to 99.99 are one to three of 20,480."""
    multiplier: float | None = None
    """What a chosen latent is multiplied with (and with its mean, see ``rule``); empty: what the fit found best of the
    authors' seven, -1 to -30, on wordings of its own (``sae.strength``)."""
    rule: str = "product"
    """``product``: ``z · multiplier · mean`` (the authors' code); ``scale``: ``z · multiplier``, whatever the unit of
    the states."""
    error: str = "kept"
    """``kept``: the reconstruction error stays as it was; ``paper``: it enters with the sign of the released code."""
    branch: str = "both"
    """Rows that are edited: ``both`` halves of guidance (the authors), or ``conditional`` ones."""
    during: Window = (0.0, 1.0)
    """Part of the loop in which latents are turned."""
    strength: float = 1.0
    """Share of the edit; 0 leaves the model alone."""
    expansion: int = 16
    """Latents of the autoencoder for each channel of the site."""
    k: int = 32
    """Latents of a token that are not zero."""
    sae_images: int = 300
    """Pictures that the autoencoder is trained on; one of equal settings is shared (``genward fit sae``)."""
    sae_epochs: int = 8
    """Times that it sees every state."""
    images: int = 12
    """Pictures of each target, for the statistics (authors: 80)."""
    others: int = 3
    """Pictures of each caption that must stay."""
    sampling_steps: int = 20
    """Steps of their sampling; statistics are taken at each of its timesteps (authors: 100)."""
    guidance: float = 4.0
    """Guidance of their sampling (authors: 9)."""
    seed: int = 0
    """Of these pictures."""
    control: bool = field(default=False, metadata={"identity": "where set"})
    """Take as many random latents that fire in the concept's pictures: a control, no defense."""
    artifact: Artifact | None = None
    """What was learned: the autoencoder, the chosen latents and their statistics."""

    def __post_init__(self) -> None:
        check_fields(self.name, self)
        check_edit(self.name, self)
        if not 0 < self.percentile < 100:
            raise BadInput(f"saeuron: percentile {self.percentile}; a number between 0 and 100 is wanted")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the latents of one or many concepts; the model is not changed.

        Costs the autoencoder, where none of these settings is kept, and a picture for each row of the statistics.
        Interrupted, it goes on where it was.

        Raises:
            BadInput: a concept without phrases or without anything to keep, or a site without image tokens.
        """
        concepts = phrases.listed(concept)
        refuse_site(model, self.site)
        base = shared_sae(model, concepts, sae_settings(self), tools)
        sae = sae_of(base.tensors, self.k)
        began = time.perf_counter()
        means, pictures = measured(model, concepts, self, sae, tools)
        found = scored_latents(means, pictures.targets, self.percentile, sae)
        if self.control:
            found = random_latents(means, found, pictures.targets, self.seed)
        card = card_of(self, concepts, model, base, (means, pictures), time.perf_counter() - began)
        card["latents"] = found.latents.tolist()
        tensors = found.tensors(whole=self.error == "paper")
        return replace(self, artifact=with_strength(self, tensors, card, model, concepts, tools))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Edit the site's output. Raises ``BadInput`` without an artifact, ``BadArtifact`` for another model's."""
        found = latents_of(self.artifact, self.name)
        self.check(rig)
        attach_edit(rig, self, found, self.name)
