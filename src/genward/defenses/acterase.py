"""ActErase (Sun et al., arXiv 2601.00267): exchange the feed-forward activations in which a concept lives for those of
its safe twin, at every step.

Learned from pairs of captions without gradients, undone with the guard; no weight changes. What the paper leaves open
is a field, with the reading that its cost section and the work it builds on suggest as default: a share of the
activations instead of an absolute threshold, a mask over tokens and channels of the outputs, the union of a pair's
masks over the steps, the majority over the pairs, the conditional half of guidance. Ours: pairs come from the concept
file's phrases and anchors, in contexts, where the paper asks a language model; and a policy's targets count as several
concepts, since no place is marked by the majority of pairs of different things."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Case, Concept, Frame, Sampler, row_seed
from genward.defenses import _acterase as parts
from genward.errors import BadArtifact, BadInput, Inapplicable
from genward.ops import artifacts, phrases
from genward.ops.prompt_pairs import EACH, prompt_pairs
from genward.ops.tools import QUIET

CHOICES: Mapping[str, tuple[str, ...]] = {
    "site": ("output", "hidden"),
    "form": ("fraction", "absolute"),
    "within": ("layer", "token"),
    "axis": ("tokens", "channels"),
    "masks": ("union", "timestep", "last"),
    "average": ("all", "timestep"),
    "halves": ("conditional", "both"),
    "each": EACH,
}
"""Field -> what it may be."""


@dataclass(frozen=True)
class ActErase:
    """ActErase: exchanges the feed-forward activations that carry the concept for safe ones; no weight changes."""

    name: ClassVar[str] = "acterase"
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength", "halves"})
    tau: float = 0.01
    """Threshold of the safe activation's score: as ``fraction`` the share of the largest ones (paper: 0.01 or 0.02)."""
    form: str = "fraction"
    """``fraction``: tau is a share; ``absolute``: a number that scores are compared with."""
    within: str = "layer"
    """What the fraction is of: all activations of a ``layer``, or those of each ``token``."""
    site: str = "output"
    """Which activations: the feed-forward network's ``output``, or its ``hidden`` ones behind the gate (four times as
    many)."""
    axis: str = "tokens"
    """``tokens``: masks have places and channels; ``channels``: channels alone, means over the picture, for any size of
    picture."""
    masks: str = "union"
    """Over timesteps: ``union`` of the masks, each ``timestep`` its own, or the ``last`` one (as the pseudo-code
    overwrites it)."""
    average: str = "all"
    """Safe activations: the mean over ``all`` steps, or each ``timestep`` its own."""
    agree: float = 0.5
    """Share of the pairs that must mark a place, above 0, at most 1."""
    halves: str = "conditional"
    """Rows of a guided step that are patched: ``conditional`` ones, or ``both``."""
    each: str = "target"
    """What pairs are made and agree for: each ``target`` of a concept, or the ``concept`` as a whole; several are
    aggregated as the paper does concepts."""
    layers: str = ""
    """Pattern of the feed-forward sites by name; empty: all."""
    pairs: int = 10
    """Pairs of captions for each target (or concept), a start of their own each."""
    templates: tuple[str, ...] = ()
    """Contexts of the pairs, ``{}`` for the phrase; empty: the phrase alone, then in the model's styles or in everyday
    contexts."""
    sampling_steps: int = 20
    """Steps of the safe captions' sampling (paper: 50, or 30 in its appendix)."""
    guidance: float = 4.0
    """Guidance of that sampling (paper: 7.5)."""
    batch: int = 10
    """Pairs at once; memory grows with it."""
    seed: int = 0
    """Of the starts."""
    strength: float = 1.0
    """How far a marked activation goes to the safe one, 0 to 1; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was fitted: marked places of each site and the safe activations there, in float16."""

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise BadInput(
                    f"acterase: {name} {getattr(self, name)!r}; {' or '.join(map(repr, known))} are possible"
                )
        if not math.isfinite(self.tau) or self.tau < 0 or (self.form == "fraction" and not 0 < self.tau <= 1):
            raise BadInput(f"acterase: tau {self.tau}; a fraction lies in (0, 1], an absolute threshold is at least 0")
        if not (0 < self.agree <= 1 and 0 <= self.strength <= 1):
            raise BadInput("acterase: agree must lie in (0, 1], strength in [0, 1]")
        if min(self.pairs, self.sampling_steps, self.batch) < 1:
            raise BadInput("acterase: pairs, sampling_steps and batch must be at least 1")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with masks and safe activations for one or many concepts; the model is not changed, no gradients.

        Costs one denoiser row a step more than sampling the safe captions. Progress is in pairs; interrupted, it goes
        on at the batch where it was. Memory: ``batch`` rows of all sites' activations, twice.

        Raises:
            BadInput: a concept without phrases, no site of this pattern, or no place that the pairs agree on.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        sites = self.sites(model)
        pairs = prompt_pairs(concepts, tools.words, self.pairs, self.templates, self.each)
        cases = [
            Case(f"pair-{k}", pair.concept, seed=row_seed("fit", "acterase", self.seed, pair.concept))
            for k, pair in enumerate(pairs)
        ]
        source = parts.Pairs(
            {p.concept: p.safe for p in pairs}, tuple(sites), self.site, self.tau, self.form, self.within, self.axis,
            self.masks, self.average,
        )  # fmt: skip
        found = tools.record(
            model, cases, Sampler(steps=self.sampling_steps, guidance=self.guidance), [source],
            name="pairs", batch=self.batch, progress=lambda done, total: tools.progress(done, total, float("nan")),
        )  # fmt: skip
        tensors, density = self._learned(found, sites, torch.tensor([p.group for p in pairs]))
        captions = [text for p in pairs for text in (p.concept, p.safe)]
        card = artifacts.fit_card(self, concepts, model, captions, [c.seed for c in cases], time.perf_counter() - began)
        return replace(self, artifact=artifacts.make(tensors, {**card, "density": density, "pairs": len(pairs)}))

    def _learned(self, found: Any, sites: Sequence[str], groups: Tensor) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Tensors of the artifact, and the share of marked activations of each site."""
        tensors: dict[str, Tensor] = {}
        density: dict[str, float] = {}
        for name in sites:
            times, mask, safe = parts.learned(found, name, groups, self.agree)
            tensors |= parts.packed(name, times, mask, safe, torch.float16)
            density[name] = round(float(mask.double().mean()), 6)
        if not any(bool(tensors[f"{name}.counts"].any()) for name in sites):
            raise BadInput(
                f"acterase: no activation is marked by {self.agree:g} of the pairs at tau {self.tau:g}; raise a "
                "fraction (lower an absolute tau), or lower agree"
            )
        return tensors, density

    def sites(self, model: Any) -> list[str]:
        """Names of the feed-forward sites that are meant. Raises ``BadInput`` where there is none."""
        every = [name for name in model.sites if name.endswith(".ff")]
        try:
            found = [name for name in every if re.search(self.layers, name)]
        except re.error as error:
            raise BadInput(f"acterase: layers {self.layers!r} is no pattern ({error})") from error
        if not found:
            raise BadInput(f"acterase: layers {self.layers!r} finds none of {', '.join(every) or 'no site at all'}")
        return found

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Patch the sites at every step.

        Raises:
            BadInput: nothing was learned. BadArtifact: it was fitted for another model, or its tensors do not go
                together.
        """
        if self.artifact is None:
            raise BadInput(
                "acterase has learned nothing yet; fit it first (genward fit acterase --concept weapons), or name a "
                "concept (acterase:weapons)"
            )
        self.check(rig)
        names = parts.names_of(self.artifact.tensors)
        if not names:
            raise BadArtifact("acterase: the artifact names no site; fit it again")
        for name in names:
            patch = parts.unpacked(self.artifact.tensors, name)
            place = parts.hidden_of(name) if self.site == "hidden" else name
            known = rig.model.sites.get(place)
            if known is None or known.channels != patch.mask.shape[-1]:
                raise BadArtifact(
                    f"acterase: the model has {'no site ' + place if known is None else f'{known.channels} channels'} "
                    f"where {patch.mask.shape[-1]} channels of {place} were learned; fit it on this model"
                )
            rig.tap(place, self._patcher(patch, place))

    def _patcher(self, patch: parts.Patch, place: str) -> Callable[[Tensor, Frame], Tensor | None]:
        kept: dict[tuple[torch.device, torch.dtype], parts.Patch] = {}
        empty = not bool(patch.mask.any())
        tokens = patch.mask.shape[1]

        def act(x: Tensor, frame: Frame) -> Tensor | None:
            if self.strength == 0 or empty:
                return None
            if tokens not in (1, x.shape[1]):
                raise Inapplicable(
                    f"acterase: {place} has {x.shape[1]} places here and had {tokens} in the fit; make pictures of "
                    "that size, or fit it with axis=channels"
                )
            if (x.device, x.dtype) not in kept:
                kept[x.device, x.dtype] = patch.to(x)
            mask, safe = kept[x.device, x.dtype].at(frame.timestep)
            rows = torch.ones_like(frame.conditional) if self.halves == "both" else frame.conditional
            return parts.patched(x, mask, safe, rows, self.strength)

        return act
