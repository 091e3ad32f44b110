"""SAEmnesia (Cassano et al., arXiv 2509.21379): one latent a concept, and erasing is one number.

A sparse autoencoder is trained on with the vocabulary's labels until each object and style owns a latent
(``sae.supervised``); erasing a concept turns its latent below zero where it fires, as SAeUron does. What the paper
leaves open is a field; see docs/papers.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from genward.core.contracts import Artifact, FitTools, Rig, Window
from genward.core.records import Concept
from genward.ops import artifacts, phrases
from genward.ops.tools import QUIET
from genward.sae.concepts import card_of, latents_of, random_latents
from genward.sae.edit import attach_edit, check_edit, check_fields
from genward.sae.fit import refuse_site
from genward.sae.owned import check_labels, owned
from genward.sae.strength import with_strength
from genward.sae.supervised import Supervision


def supervision(method: Any) -> Supervision:
    """How the labels are learned, by a method's fields."""
    return Supervision(
        loss=method.loss, pool=method.pool, assign=method.assign, images=method.labeled_images, epochs=method.epochs,
        maps=method.maps, tokens=method.tokens, lr=method.lr,
    )  # fmt: skip


@dataclass(frozen=True)
class Saemnesia:
    """SAEmnesia: turns the one latent that a concept owns in a supervised sparse autoencoder below zero."""

    name: ClassVar[str] = "saemnesia"
    labelled: ClassVar[bool] = True
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength", "multiplier", "rule", "branch", "during"})
    site: str = "up_blocks.1.attentions.1"
    """Where; one autoencoder holds objects and styles."""
    multiplier: float | None = None
    """What the latent is multiplied with (and with its mean, see ``rule``); empty: what the fit found best of the
    authors' seven, -1 to -30, on wordings of its own (``sae.strength``)."""
    rule: str = "product"
    """``product``: ``z · multiplier · mean`` (the authors' code); ``scale``: ``z · multiplier``."""
    error: str = "kept"
    """``kept``: the reconstruction error stays as it was; ``paper``: it enters with the sign of the released code."""
    branch: str = "both"
    """Rows that are edited: ``both`` halves of guidance (the authors), or ``conditional`` ones."""
    during: Window = (0.0, 1.0)
    """Part of the loop in which the latent is turned."""
    strength: float = 1.0
    """Share of the edit; 0 leaves the model alone."""
    loss: str = "balanced"
    """Concept alignment: ``balanced``, cross-entropy on plain inner products, what is there weighing as much as what is
    not; ``negatives``, its plain mean; ``positives``, the paper's formula on rectified means."""
    pool: str = "top"
    """What of a map the labels look at: ``top``, the largest eighth of the tokens; ``mean`` of all (authors)."""
    assign: str = "hungarian"
    """Which latent a concept gets: ``hungarian``, the largest sum of scores; ``greedy``, objects first, then by score.
    """
    labels: str = "request"
    """Whose labels are learned: of the ``request``, its targets and what must stay, from the statistics' pictures, many
    of each target; or of the whole ``vocabulary`` (authors), in one autoencoder for all requests."""
    labeled_images: int = 240
    """Pictures for ``vocabulary``. Of either kind one in five decides when to stop."""
    epochs: int = 60
    """Epochs at most, five without progress end it (authors: 150)."""
    maps: int = 32
    """Maps of a step (authors: 128)."""
    tokens: int = 8
    """Tokens of each map that a step reconstructs; 0: all (authors)."""
    lr: float = 1e-3
    """Rate of Adam (authors: 5e-6)."""
    expansion: int = 16
    """Latents of the autoencoder for each channel of the site."""
    k: int = 32
    """Latents of a token that are not zero."""
    sae_images: int = 300
    """Pictures that the autoencoder is trained on before; one of equal settings is shared (``genward fit sae``)."""
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
    """What was learned: the autoencoder, the concept's latents and their statistics."""

    def __post_init__(self) -> None:
        check_fields(self.name, self)
        check_edit(self.name, self)
        supervision(self)
        check_labels(self.name, self.labels)

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the latents of one or many concepts; the model is not changed.

        Costs the autoencoder and its supervised training, where none of these settings is kept, and a picture for each
        row of the statistics. Interrupted, it goes on where it was.

        Raises:
            BadInput: a concept that owns no latent, without phrases or anything to keep; a site without image tokens.
        """
        concepts = phrases.listed(concept)
        refuse_site(model, self.site)
        found = owned(model, concepts, self, supervision(self), tools)
        chosen = found.latents
        if self.control:
            chosen = random_latents(found.means, chosen, found.pictures.targets, self.seed)
        card = card_of(self, concepts, model, found.base, (found.means, found.pictures), found.seconds)
        card |= {"latents": chosen.latents.tolist(), **found.facts}
        kept = chosen.tensors(whole=self.error == "paper")
        return replace(self, artifact=with_strength(self, kept, card, model, concepts, tools))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Edit the site's output. Raises ``BadInput`` without an artifact, ``BadArtifact`` for another model's."""
        found = latents_of(self.artifact, self.name)
        self.check(rig)
        attach_edit(rig, self, found, self.name)
