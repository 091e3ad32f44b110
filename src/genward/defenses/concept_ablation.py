"""Concept Ablation (Kumari et al., arXiv 2303.13516): make the concept's prompt predict what its anchor's prompt
predicts.

Model-based: ``|e(x_t, c*) - sg e(x_t, c)|²`` on noised pictures of the anchor c. Noise-based: ``|eps - e(x_t, c*)|²``
on the same. Anchor pictures are sampled from the model itself. Defaults are the authors' (K and V maps of
cross-attention, 100 steps of 8 at 1.6e-5, live teacher), but for 200 pictures instead of 1,000. Gradients of the K and
V rows of the first token (BOS or CLS) are blocked, as in their code."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Case, Concept, Sample, Sampler, row_seed
from genward.errors import BadInput, GenwardError, UnknownName
from genward.ops import artifacts, phrases
from genward.ops.finetune import (
    Denoise,
    add_noise,
    apply_delta,
    changed,
    edit_named,
    frozen_of,
    optimize,
    student_of,
    training_target,
)
from genward.ops.tools import QUIET

PARAMETERS = {"kv": r"attn2\.to_[kv]\.", "cross": r"attn2\.", "attention": r"attn[12]\.", "full": r""}
"""Choice -> pattern of the U-Net parameters that are trained."""
LOSSES = ("model", "noise")
TEACHERS = ("live", "frozen")


@dataclass(frozen=True)
class ConceptAblation:
    """Concept Ablation: fine-tunes cross-attention until the concept's prompt acts as its anchor's; free to run."""

    name: ClassVar[str] = "concept_ablation"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength"})
    loss: str = "model"
    """``model``: match the anchor's prediction; ``noise``: predict the anchor picture's noise."""
    parameters: str = "kv"
    """Weights that are trained: ``kv`` (K and V maps of cross-attention), ``cross`` (all of it), ``attention``
    (self-attention too) or ``full``."""
    steps: int = 100
    """Optimizer steps."""
    batch: int = 8
    """Pictures a step."""
    lr: float = 1.6e-5
    """Learning rate of Adam."""
    teacher: str = "live"
    """Whose prediction of the anchor is matched: ``live`` (the model in training, without gradient) or ``frozen``."""
    regularizer: float = 0.0
    """Weight of the plain diffusion loss on anchor pictures and prompts (authors: 0.2, optional)."""
    block_bos: bool = True
    """Block the gradients of the first token's K and V."""
    images: int = 200
    """Anchor pictures to sample first."""
    sampling_steps: int = 20
    """Steps of that sampling."""
    guidance: float = 4.0
    """Guidance of that sampling."""
    templates: tuple[str, ...] = ()
    """Contexts of the phrases, ``{}`` for the phrase; empty: the phrase alone, for a style also a few neutral objects
    in it."""
    anchor: str = field(default="", metadata={"identity": "where set"})
    """Anchor of every phrase, as ``an animal`` for a cat (the authors take the superclass); empty: those of the
    concept's file."""
    seed: int = 0
    """Of pictures, noise and timesteps."""
    strength: float = 1.0
    """Share of the weight difference that is applied; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was fitted: weight differences in float16."""

    def __post_init__(self) -> None:
        if self.parameters not in PARAMETERS:
            raise UnknownName("concept_ablation parameter set", self.parameters, PARAMETERS)
        for name, value, known in (("loss", self.loss, LOSSES), ("teacher", self.teacher, TEACHERS)):
            if value not in known:
                raise BadInput(f"concept_ablation: {name} {value!r}; {' or '.join(map(repr, known))} are possible")
        if min(self.steps, self.batch, self.images) < 1 or not self.lr > 0 or self.regularizer < 0:
            raise BadInput(
                "concept_ablation: steps, batch and images must be at least 1, lr above 0, regularizer at least 0"
            )

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the weight differences for one or many concepts; the model is not changed.

        Progress counts pictures (loss NaN) and optimizer steps together. Interrupted, it goes on with the anchor
        pictures that were made, or at the last checkpoint of the optimizer.

        Raises:
            BadInput: a concept without phrases. GenwardError: no anchor picture could be made, or the loss is not
                finite.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        if self.anchor:
            concepts = tuple(replace(c, anchors=(), anchor=self.anchor) for c in concepts)
        pairs = phrases.pairs(concepts, self.templates)
        cases = anchor_cases(pairs, self)
        tensors = fit_concept_ablation(model, pairs, self, tools)
        captions = [text for pair in pairs for text in pair]
        card = artifacts.fit_card(self, concepts, model, captions, [c.seed for c in cases], time.perf_counter() - began)
        return replace(self, artifact=artifacts.make(tensors, card))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Add the differences to the weights. Raises ``BadInput`` without an artifact, ``BadArtifact`` for one of
        another model."""
        if self.artifact is None:
            raise BadInput(
                "concept_ablation has learned nothing yet; fit it first (genward fit concept_ablation --concept cat), "
                "or name a concept"
            )
        self.check(rig)
        edit_named(
            rig, self.artifact.tensors, lambda weight, delta: apply_delta(weight, delta, self.strength), self.name
        )


def anchor_cases(pairs: Sequence[tuple[str, str]], settings: ConceptAblation) -> list[Case]:
    """One case an anchor picture: pair after pair, round and round, seeds apart from those of evaluation."""
    return [
        Case(f"anchor-{k}", pairs[k % len(pairs)][1], seed=row_seed("fit", "concept_ablation", settings.seed, k))
        for k in range(settings.images)
    ]


def ablation_loss(
    student: Denoise, teacher: Denoise, latents: Tensor, timestep: Tensor, concept: Tensor, anchor: Tensor
) -> Tensor:
    """Model-based loss, ``mean((student(x_t, c*) - sg teacher(x_t, c))²)``.

    Args:
        latents: noised anchor pictures (rows, c, h, w). timestep: (rows,). concept, anchor: text states (rows, t, d).
    """
    with torch.no_grad():
        target = teacher(latents, timestep, anchor)
    return (student(latents, timestep, concept) - target).square().mean()


def block_first_row(unet: Any) -> None:
    """On a private copy: the first token's rows of every cross-attention K and V map pass on no gradient. Names and
    values stay."""

    class FirstRowDetached(torch.nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            out = super().forward(states)
            return torch.cat([out[:, :1].detach(), out[:, 1:]], dim=1)

    for name, module in list(unet.named_modules()):
        if re.search(r"attn2\.to_[kv]$", name):
            parent, _, leaf = name.rpartition(".")
            blocked = FirstRowDetached(module.in_features, module.out_features, module.bias is not None, device="meta")
            blocked.weight, blocked.bias = module.weight, module.bias
            setattr(unet.get_submodule(parent), leaf, blocked)


def anchor_latents(
    model: Any, pairs: Sequence[tuple[str, str]], settings: ConceptAblation, tools: FitTools
) -> tuple[Tensor, Tensor]:
    """(final latents (n, c, h, w) float32, index of the pair of each) of anchor pictures sampled from the model; those
    of an interrupted fit are taken up."""
    total = settings.images + settings.steps
    failures: list[str] = []

    def final(samples: list[Sample]) -> dict[str, Tensor]:
        failures.extend(s.why for s in samples if s.latents is None or s.status != "ok")
        made = [s.latents.float() for s in samples if s.status == "ok" and s.latents is not None]
        lost = torch.full_like(made[0], float("nan")) if made else torch.full((1,), float("nan"))
        kept = iter(made)
        return {
            "final": torch.stack([next(kept) if s.status == "ok" and s.latents is not None else lost for s in samples])
        }

    found = tools.record(
        model,
        anchor_cases(pairs, settings),
        Sampler(steps=settings.sampling_steps, guidance=settings.guidance),
        [],
        name="anchors",
        about=final,
        keep_latents=True,
        progress=lambda done, _: tools.progress(done, total, float("nan")),
    )
    latents: Tensor = found.about("final")
    rows = torch.isfinite(latents).flatten(1).all(1).nonzero().flatten()
    if not len(rows) or latents.ndim < 4:
        raise GenwardError(
            f"concept_ablation: none of {settings.images} anchor pictures could be made "
            f"({failures[0] if failures else 'their latents are not finite'}); look at the model or its guidance"
        )
    return latents[rows].to(model.device), rows % len(pairs)


def ablation_step(
    model: Any,
    unet: Any,
    pairs: Sequence[tuple[str, str]],
    anchors_of: tuple[Tensor, Tensor],
    settings: ConceptAblation,
    random: torch.Generator,
) -> Callable[[int], Tensor]:
    """The loss of one optimizer step as a function of its number; random numbers come from ``random`` alone.

    Args:
        anchors_of: from ``anchor_latents``.
    """
    latents, which = anchors_of
    with torch.no_grad():
        concepts, anchors = (model.encode([p[side] for p in pairs]).float() for side in (0, 1))
    alphas, prediction = model.alphas_cumprod, model.pipe.scheduler.config.prediction_type
    student = student_of(unet)
    teacher = student if settings.teacher == "live" else frozen_of(model)

    def loss(step: int) -> Tensor:
        pick = torch.randint(len(latents), (settings.batch,), generator=random)
        t = torch.randint(len(alphas), (settings.batch,), generator=random).to(latents.device)
        clean, pair = latents[pick], which[pick]
        noise = torch.randn(clean.shape, generator=random).to(clean.device)
        noised = add_noise(clean, noise, t, alphas)
        if settings.loss == "model":
            value = ablation_loss(student, teacher, noised, t, concepts[pair], anchors[pair])
        else:
            value = (
                (student(noised, t, concepts[pair]) - training_target(clean, noise, t, alphas, prediction))
                .square()
                .mean()
            )
        if settings.regularizer:
            plain = (
                (student(noised, t, anchors[pair]) - training_target(clean, noise, t, alphas, prediction))
                .square()
                .mean()
            )
            value = value + settings.regularizer * plain
        return value

    return loss


def fit_concept_ablation(
    model: Any, pairs: Sequence[tuple[str, str]], settings: ConceptAblation, tools: FitTools = QUIET
) -> dict[str, Tensor]:
    """Weight differences (float16, see ``ops.finetune.DELTA_SCALE``) by parameter name, of the parameters that
    moved."""
    anchors = anchor_latents(model, pairs, settings, tools)
    unet = model.trainable(PARAMETERS[settings.parameters])
    if settings.block_bos:
        block_first_row(unet)
    random = torch.Generator().manual_seed(row_seed("fit", "concept_ablation", settings.seed))
    loss = ablation_step(model, unet, pairs, anchors, settings, random)
    optimize(
        unet.parameters(), loss, steps=settings.steps, lr=settings.lr, who="concept_ablation", random=random,
        tools=tools, before=settings.images,
    )  # fmt: skip
    return changed(unet, model.denoiser)
