"""A guard of several categories on head states: its fit, and its artifact read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from genward.core.contracts import Artifact
from genward.errors import BadArtifact
from genward.ops import deciding, heads, heads_fit
from genward.ops.finetune import Progress
from genward.ops.text_states import encoder_key

FAR = 1e6
"""Thresholds lie nearer to 0: scores are means of z-scored projections."""


class HeadSettings(Protocol):
    """How categories are fitted; see ``defenses.aeiou.Aeiou``."""

    @property
    def method(self) -> str: ...
    @property
    def heads(self) -> int: ...
    @property
    def combine(self) -> str: ...
    @property
    def penalty(self) -> float: ...
    @property
    def prior(self) -> float: ...
    @property
    def fpr(self) -> float: ...
    @property
    def seed(self) -> int: ...


class Guarding(NamedTuple):
    """An artifact, read: what scoring needs."""

    categories: tuple[str, ...]
    weights: dict[str, Tensor]
    """site -> (k, heads · dim); sites without a chosen head are left out"""
    bias: Tensor
    thresholds: Tensor
    centers: dict[str, Tensor]
    """site -> (k, heads): a benign prompt's mean projection, which attenuation leaves"""
    heads: dict[str, int]
    readout: dict[str, str]
    """encoder (first part of a site's name) -> ``last`` | ``mean``"""
    encoders: dict[str, dict[str, str]]
    """encoder -> {name, hash}"""
    passages: int = 0
    """Words of the passages that its thresholds were set with; 0: the whole text alone"""


def fit_categories(
    settings: HeadSettings,
    sample: Mapping[str, Tensor],
    counts: Mapping[str, int],
    place: Mapping[str, int],
    harmful: Mapping[str, Sequence[tuple[str, str]]],
    benign: Sequence[tuple[str, str]],
    progress: Progress | None,
    parts: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> tuple[dict[str, Tensor], dict[str, list[list[Any]]]]:
    """(tensors of the artifact, category -> [[site, head, out-of-fold AUROC], …]).

    A category is fitted against the benign texts; thresholds are those of out-of-fold benign scores at
    ``settings.fpr``, every unit weighing the same. ``parts``: benign text -> its passages, which have a ``place`` too;
    a text's score is then the largest, its passages' lead over the whole text being that of the final fit."""
    table = heads.head_table(sample, counts)
    clean = table[[place[t] for t, _ in benign]]
    every = table[list(dict.fromkeys(place[t] for rows in harmful.values() for t, _ in rows))]
    use_prior = settings.prior > 0 and len(harmful) > 1 and settings.method != "joint"
    pooled = heads.directions(every, clean, settings.method) if use_prior else None
    names = [(site, head) for site, count in counts.items() for head in range(count)]
    weights, biases, limits, chosen = [], [], [], {}
    for step, (category, rows) in enumerate(harmful.items(), 1):
        bad = table[[place[t] for t, _ in rows]]
        units = ([u for _, u in rows], [u for _, u in benign])
        if settings.method == "joint":
            fit = heads_fit.fit_joint(bad, clean, penalty=settings.penalty, seed=settings.seed, units=units)
        else:
            fit = heads_fit.fit_heads(
                bad, clean, method=settings.method, count=settings.heads, combine=settings.combine,
                penalty=settings.penalty, seed=settings.seed, pooled=pooled, prior=settings.prior, units=units,
            )  # fmt: skip
        weights.append(fit.weight)
        biases.append(fit.bias)
        quiet_scores = fit.scores[len(bad) :] + _lead(fit, table, place, [t for t, _ in benign], parts)
        limits.append(heads.threshold_at(quiet_scores, settings.fpr, units[1]))
        chosen[category] = [[*names[h], round(q, 6)] for h, q in zip(fit.chosen, fit.auroc, strict=True)]
        if progress is not None:
            progress(step, len(harmful), float("nan"))
    quiet = {site: sample[site][[place[t] for t, _ in benign]].double().mean(0) for site in counts}
    return packed(torch.stack(weights), biases, limits, counts, quiet), chosen


def _lead(
    fit: heads_fit.HeadFit,
    table: Tensor,
    place: Mapping[str, int],
    texts: Sequence[str],
    parts: Mapping[str, Sequence[str]],
) -> Tensor:
    """(n,) how far a text's highest passage lies above the whole text, at least 0."""
    scores = torch.einsum("nhd,hd->n", table, fit.weight.to(table.dtype))
    whole = scores[[place[t] for t in texts]]
    best = [max((float(scores[place[p]]) for p in parts.get(t, ())), default=float("-inf")) for t in texts]
    return (torch.tensor(best, dtype=whole.dtype) - whole).clamp_min(0.0)


def packed(
    weight: Tensor,
    bias: Sequence[float],
    limits: Sequence[float],
    counts: Mapping[str, int],
    quiet: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """The tensors of an artifact.

    Args:
        weight: (k, heads, dim) of each category over all heads. bias, limits: k numbers.
        counts: site -> heads. quiet: site -> (heads · dim,) mean state of benign prompts.
    """
    by_site = heads.site_weights(weight, counts, {site: len(mean) for site, mean in quiet.items()})
    tensors = {
        "bias": torch.tensor(list(bias), dtype=torch.float64),
        "threshold": torch.tensor(list(limits), dtype=torch.float64),
    }
    for site, own in by_site.items():
        if bool((own != 0).any()):
            apart = own.unflatten(1, (counts[site], -1))
            mean = quiet[site].unflatten(0, (counts[site], -1))
            center = torch.einsum("khd,hd->kh", apart, mean).float()
            tensors |= {f"weight.{site}": own.float(), f"center.{site}": center}
    return tensors


def read_artifact(artifact: Artifact) -> Guarding:
    """What scoring needs, checked. Raises ``BadArtifact`` where tensors or card are not this defense's."""
    card, tensors = artifact.card, artifact.tensors
    try:
        categories = tuple(map(str, card["categories"]))
        weights = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
        counts = {str(s): int(n) for s, n in card["heads"].items()}
        centers = {site: tensors[f"center.{site}"] for site in weights}
        order = [site for site in counts if site in weights]
        guard = Guarding(
            categories, {s: weights[s] for s in order}, tensors["bias"], tensors["threshold"], centers, counts,
            {str(k): str(v) for k, v in card["readout"].items()}, {str(k): {"name": str(v["name"]),
            "hash": str(v["hash"])} for k, v in card["encoders"].items()},
            int(deciding.in_range(card.get("passages", 0), 0, 1000, "aeiou: the passages of its card")),
        )  # fmt: skip
        shapes = {tuple(guard.bias.shape), tuple(guard.thresholds.shape), *((len(w),) for w in weights.values())}
        if (
            shapes != {(len(categories),)}
            or not order
            or not set(map(encoder_key, order)) <= set(guard.readout) & set(guard.encoders)
        ):
            raise ValueError(f"shapes {sorted(shapes)} for {len(categories)} categories")
        deciding.all_in_range(guard.thresholds, -FAR, FAR, "aeiou: its thresholds")
        for site in order:
            if tuple(centers[site].shape) != (len(categories), counts[site]) or weights[site].shape[1] % counts[site]:
                raise ValueError(f"site {site} has weights {tuple(weights[site].shape)}")
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise BadArtifact(
            f"this is no artifact of aeiou, or a damaged one ({type(error).__name__}: {error}); fit it again"
        ) from error
    return guard
