"""Unified Concept Editing (Gandikota et al., arXiv 2308.14761): one linear solve re-maps concepts in all
cross-attention K and V maps.

Replace mode maps what K and V see of a concept to what they see of its guide; the edited weight is the old one times
one matrix, shared by all layers (``ops.closed_form``). What differs from the authors' code: the empty text is always
preserved (their 2025 code leaves it out, the 2023 code has it); rows are aligned from the last subject token; guides
come from the concept file. As in both releases, an empty guide has no subject token, so the subject is mapped to its
first row (BOS or CLS)."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from genward.core.contracts import Artifact, FitTools, Rig
from genward.core.records import Concept
from genward.errors import BadArtifact, BadInput
from genward.models.sites import named
from genward.ops import artifacts, phrases
from genward.ops.closed_form import edit_delta, tensor_delta
from genward.ops.finetune import edit_named
from genward.ops.short_texts import own_states, token_counts
from genward.ops.tools import QUIET

ROWS = ("auto", "last", "last-and-later", "all")
MODES = ("replace", "tensor")
KV_MAPS = r"attn2\.to_[kv]\.weight$"
"""The maps that see the text states."""
SHARED = "delta"
"""Name of the one matrix of replace mode; ``tensor`` mode stores one difference a map, by the map's name."""


@dataclass(frozen=True)
class Uce:
    """Unified Concept Editing: a closed-form edit of the cross-attention K and V maps; seconds to fit, free to run."""

    name: ClassVar[str] = "uce"
    fit_nfe: ClassVar[float] = 0.0
    at_attach: ClassVar[frozenset[str]] = frozenset({"artifact", "strength"})
    mode: str = "replace"
    """``replace``: a concept acts as its guide; ``tensor``: its guide less the part along the concept's own output
    (2023 code)."""
    rows: str = "auto"
    """Token rows that are edited: ``last`` (last subject token; 2025 code), ``last-and-later`` (2023 code) or ``all``
    (ours). ``auto`` takes ``all`` for styles, whose words stand before the last token ("in monotone *style*"), else
    ``last``: more rows also change more of what should stay (docs/papers.md has both, measured)."""
    lam: float = 0.5
    """Weight of staying close to the old maps, above 0."""
    alpha: float = 1.0
    """Weight of the concept rows."""
    preserve_scale: float = 1.0
    """Weight of the rows to preserve."""
    templates: tuple[str, ...] = ()
    """Contexts in which phrases are encoded, ``{}`` for the phrase; empty: the phrase alone, for a style also a few
    neutral objects in it."""
    strength: float = 1.0
    """Share of the edit that is applied; 0 leaves the model alone."""
    artifact: Artifact | None = None
    """What was fitted."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise BadInput(f"uce: mode {self.mode!r}; {' or '.join(map(repr, MODES))} are possible")
        if self.rows not in ROWS:
            raise BadInput(f"uce: rows {self.rows!r}; {', '.join(map(repr, ROWS))} are possible")

    def fit(self, model: Any, concept: Concept | Sequence[Concept], tools: FitTools = QUIET) -> Self:
        """Itself with the edit for one or many concepts on a model of the Stable Diffusion family. Seconds, no
        gradients.

        Raises:
            BadInput: a concept without phrases, or weights that give no stable solution.
        """
        began = time.perf_counter()
        concepts = phrases.listed(concept)
        tensors = fit_uce(model, concepts, self)
        captions = [
            *(c for pair in phrases.pairs(concepts, self.templates) for c in pair),
            *phrases.preserved(concepts, self.templates),
        ]
        card = artifacts.fit_card(self, concepts, model, captions, (), time.perf_counter() - began)
        card["rows"] = {c.name: rows_of(c, self.rows) for c in concepts}
        tools.progress(1, 1, float("nan"))
        return replace(self, artifact=artifacts.make(tensors, card))

    def check(self, rig: Rig) -> None:
        """``BadArtifact`` where the model behind the rig is not the one that was fitted on."""
        artifacts.refuse_other(self.artifact, getattr(rig, "model", None), self.name)

    def attach(self, rig: Rig) -> None:
        """Edit the maps. Raises ``BadInput`` without an artifact, ``BadArtifact`` where it was fitted for another
        model."""
        if self.artifact is None:
            raise BadInput(
                "uce has learned nothing yet; fit it first (genward fit uce --concept weapons), or name a concept "
                "(uce:weapons)"
            )
        self.check(rig)
        tensors, strength = dict(self.artifact.tensors), self.strength
        shared = tensors.get(SHARED)
        if shared is not None:
            rig.weights(KV_MAPS, lambda name, weight: apply_shared(weight, shared, strength))
            return
        edit_named(rig, tensors, lambda weight, difference: apply_own(weight, difference, strength), self.name)


def apply_shared(weight: Tensor, delta: Tensor, strength: float) -> Tensor:
    """``weight + strength · weight @ delta`` in float32 or wider; at strength 0 the weight itself."""
    if weight.ndim != 2 or weight.shape[1] != len(delta):
        raise BadArtifact(
            f"uce: the edit is for text states of width {len(delta)}, a map takes {tuple(weight.shape)[-1]}; fit it on "
            "this model"
        )
    if strength == 0:
        return weight
    wide = weight.to(torch.promote_types(weight.dtype, delta.dtype))
    return wide + strength * (wide @ delta.to(wide.device, wide.dtype))


def apply_own(weight: Tensor, difference: Tensor, strength: float) -> Tensor:
    """``weight + strength · difference`` in float32 or wider; at strength 0 the weight itself."""
    if weight.shape != difference.shape:
        raise BadArtifact(
            f"uce: a map has shape {tuple(weight.shape)}, the artifact {tuple(difference.shape)}; fit it on this model"
        )
    if strength == 0:
        return weight
    wide = weight.to(torch.promote_types(weight.dtype, difference.dtype))
    return wide + strength * difference.to(wide.device, wide.dtype)


def uce_rows(concept_last: int, guide_last: int, length: int, rows: str) -> tuple[list[int], list[int]]:
    """Which row of the concept's states is mapped to which row of the guide's.

    Args:
        concept_last, guide_last: index of the last subject token of each (0 for the empty text).
        length: rows of the states, padding included.
        rows: ``last``: those two; ``last-and-later``: from them on, both cut to equal length; ``all``: every row by its
            role: first to first, words counted back from the last one (a longer phrase's surplus to the guide's first
            word), end and padding counted on.

    Returns:
        (rows of the concept, rows of the guide), equally long.
    """
    if rows == "last":
        return [concept_last], [guide_last]
    if rows == "last-and-later":
        count = length - max(concept_last, guide_last)
        return list(range(concept_last, concept_last + count)), list(range(guide_last, guide_last + count))
    first_word = min(1, guide_last)
    before = [0] + [max(first_word, guide_last - (concept_last - k)) for k in range(1, concept_last + 1)]
    after = [min(length - 1, guide_last + (k - concept_last)) for k in range(concept_last + 1, length)]
    return list(range(length)), (before + after)[:length]


def rows_of(concept: Concept, rows: str) -> str:
    """Which rows ``auto`` stands for."""
    return rows if rows != "auto" else "all" if concept.kind == "style" else "last"


def last_subject(tokenizer: Any, texts: Sequence[str]) -> list[int]:
    """Index of the last token before the end mark, for encoders that put one mark in front and one behind; 0 for the
    empty text."""
    return [max(0, count - 2) for count in token_counts(tokenizer, texts)]


def states_of(model: Any, texts: Sequence[str], rows: Iterable[str], chunk: int = 128) -> list[Tensor]:
    """(t, d) float64 states of each text: with its padding where a way of choosing rows reads it."""
    if set(rows) <= {"last"}:
        return own_states(model, texts, chunk)
    with torch.no_grad():
        parts = [model.encode(list(texts[k : k + chunk])).double() for k in range(0, len(texts), chunk)]
    return [state for part in parts for state in part]


def fit_uce(model: Any, concepts: Sequence[Concept], settings: Uce) -> dict[str, Tensor]:
    """Tensors of the edit (float32): ``delta`` (d, d) in replace mode, else one difference (o, d) a map by its
    parameter name."""
    pairs = phrases.pairs(concepts, settings.templates)
    keep = phrases.preserved(concepts, settings.templates)
    how: dict[str, str] = {}
    for concept in concepts:
        mine = phrases.pairs([concept], settings.templates)
        how = {**dict.fromkeys((caption for caption, _ in mine), rows_of(concept, settings.rows)), **how}
    texts = list(dict.fromkeys([text for pair in pairs for text in pair] + keep))
    place = {text: k for k, text in enumerate(texts)}
    states, last = states_of(model, texts, how.values()), last_subject(model.pipe.tokenizer, texts)
    from_rows, to_rows, sizes = [], [], []
    for caption, guide in pairs:
        c, g = place[caption], place[guide]
        here, there = uce_rows(last[c], last[g], len(states[c]), how[caption])
        from_rows.append(states[c][here])
        to_rows.append(states[g][there])
        sizes.append(len(here))
    narrow = set(how.values()) <= {"last"}
    kept = [states[place[t]][[last[place[t]]]] if narrow else states[place[t]] for t in keep]
    weights = {"lam": settings.lam, "alpha": settings.alpha, "preserve_scale": settings.preserve_scale}
    source, guides, preserve = torch.cat(from_rows), torch.cat(to_rows), torch.cat(kept)
    if settings.mode == "replace":
        return {SHARED: edit_delta(source, guides, preserve, **weights).float()}
    out, parameters = {}, dict(model.denoiser.named_parameters())
    for name in named(parameters, KV_MAPS):
        weight = parameters[name].detach()
        delta = tensor_delta(weight, source, guides, preserve, sizes=tuple(sizes), **weights)
        out[name] = (weight.double() @ delta).float()
    return out
