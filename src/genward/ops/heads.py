"""Per-head states of a text encoder: read-out, directions, head selection, linear scores, attribution, attenuation.

AEIOU (Wang et al., arXiv 2412.18123) finds that harmful and harmless prompts lie apart along one direction a (layer,
head). Everything here ends
in **one matrix a layer**: a head's z-scored projection is linear in its state, so is any weighted sum of heads and any
read-out, and a guard with many categories costs one small product a layer on states that the encoder computed anyway.

States are the input of a layer's output projection, ``(rows, t, heads · dim)``; "sample" tables are read out, ``(n,
heads, dim)``."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genward.errors import BadInput

READOUTS = ("last", "mean")
"""``last``: the last token that is no padding (CLIP: the end mark, which sees every token); ``mean``: the mean over
such tokens (BERT, T5)."""
METHODS = ("lda", "mean")
COMBINE = ("mean", "logistic")
FOLDS = 5
FLOOR = 1e-8
"""Least deviation that is divided by."""

Floats = NDArray[np.float64]


class HeadStates(NamedTuple):
    """What an encoder computed for some texts: site -> (n, t, heads · dim), and which tokens are no padding (n, t)."""

    states: Mapping[str, Tensor]
    mask: Tensor


# ------------------------------------------------------------------------------------------------------------- read-out


def read_out(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """(n, t, c) states -> (n, c), by ``last`` or ``mean`` of the tokens that the mask (n, t) marks.

    CLIP is causal, so its end mark has seen the whole prompt. The *last* marked token is the first end mark unless a
    prompt spells one out itself; reading at that early one would let a prompt hide everything behind it.

    Raises:
        BadInput: shapes that do not belong together, a row without tokens, another read-out.
    """
    if states.ndim != 3 or mask.shape != states.shape[:2]:
        raise BadInput(
            f"head states {tuple(states.shape)} with a mask of {tuple(mask.shape)}; (n, t, c) and (n, t) are wanted"
        )
    mask = mask.to(states.device, torch.bool)
    if not bool(mask.any(1).all()):
        raise BadInput("a text has no token to read out; every row needs one that is not padding")
    if how == "last":
        place = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        return states[torch.arange(len(states), device=states.device), place]
    if how == "mean":
        share = mask.to(states.dtype)
        return (share[:, None] @ states)[:, 0] / share.sum(1, keepdim=True)
    raise BadInput(f"read-out {how!r}; {' or '.join(map(repr, READOUTS))} are possible")


def head_table(sample: Mapping[str, Tensor], heads: Mapping[str, int]) -> Tensor:
    """Read-out states (n, heads · dim) of all sites side by side as (n, sum of heads, dim), float64, in the order of
    ``heads`` (site -> head count).

    Heads narrower than the widest (several encoders at once) are filled up with zeros, in which no direction can point.
    """
    parts = [sample[site].double().unflatten(-1, (count, -1)) for site, count in heads.items()]
    wide = max(p.shape[-1] for p in parts)
    return torch.cat([torch.nn.functional.pad(p, (0, wide - p.shape[-1])) for p in parts], dim=1)


def site_weights(weight: Tensor, heads: Mapping[str, int], widths: Mapping[str, int]) -> dict[str, Tensor]:
    """The inverse of ``head_table`` for a weight (k, sum of heads, dim): site -> (k, heads · dim); ``widths`` are the
    sites' channels."""
    out, start = {}, 0
    for site, count in heads.items():
        out[site] = weight[:, start : start + count, : widths[site] // count].flatten(1)
        start += count
    return out


_HASHES: WeakKeyDictionary[Any, tuple[Any, str]] = WeakKeyDictionary()


def encoder_hash(encoder: Any) -> str:
    """16 hex digits over names, dtypes, shapes and bytes of an encoder's parameters; made again only where a parameter
    was replaced or written to."""
    values = sorted(encoder.named_parameters())
    state = tuple((p.data_ptr(), p._version) for _, p in values)
    kept = _HASHES.get(encoder)
    if kept is not None and kept[0] == state:
        return kept[1]
    total = hashlib.sha256()
    for name, value in values:
        total.update(f"{name}|{value.dtype}|{list(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    _HASHES[encoder] = (state, total.hexdigest()[:16])
    return _HASHES[encoder][1]


def encoder_name(encoder: Any) -> str:
    """``BertModel 6×384`` and the first digits of its hash: what messages call an encoder."""
    config = encoder.config
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "num_layers", "?")
    width = getattr(config, "hidden_size", None) or getattr(config, "d_model", "?")
    return f"{type(encoder).__name__} {layers}×{width} ({encoder_hash(encoder)[:8]})"


def heads_of(encoder: Any) -> int:
    """Attention heads a layer."""
    return int(getattr(encoder.config, "num_attention_heads", None) or encoder.config.num_heads)


def natural_readout(encoder: Any) -> str:
    """``last`` for CLIP, which is causal and read at its end mark; ``mean`` for BERT and T5."""
    return "last" if "clip" in str(encoder.config.model_type) else "mean"


# ----------------------------------------------------------------------------------------------------------- directions


def mean_difference(harmful: Tensor, benign: Tensor) -> Tensor:
    """Unit vectors (heads, dim) from the benign to the harmful mean; (n, heads, dim) each."""
    gap = harmful.mean(0) - benign.mean(0)
    return unit(gap)


def unit(vectors: Tensor) -> Tensor:
    """Vectors at length 1 along the last axis; a vector of zeros stays one."""
    found: Tensor = vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(FLOOR)
    return found


def ledoit_wolf(centered: Tensor) -> Tensor:
    """Shrunk covariance (heads, d, d) of rows centered already, (n, heads, d): ``(1-s)·S + s·(tr S/d)·I`` (Ledoit and
    Wolf, JMVA 2004).

    The shrinkage is scikit-learn's estimator with ``assume_centered``, for all heads at once.
    """
    n, _, d = centered.shape
    s = torch.einsum("nha,nhb->hab", centered, centered) / n
    mu = s.diagonal(dim1=-2, dim2=-1).sum(-1) / d
    squares = centered.square()
    beta = (torch.einsum("nha,nhb->h", squares, squares) / n - s.square().sum((-2, -1))) / (n * d)
    delta = (s.square().sum((-2, -1)) - 2 * mu * s.diagonal(dim1=-2, dim2=-1).sum(-1) + d * mu.square()) / d
    shrink = torch.where(delta > 0, torch.minimum(beta.clamp_min(0.0), delta) / delta.clamp_min(1e-300), 0.0)
    eye = torch.eye(d, dtype=centered.dtype, device=centered.device)
    return (1 - shrink)[:, None, None] * s + (shrink * mu)[:, None, None] * eye


def lda(harmful: Tensor, benign: Tensor) -> Tensor:
    """Unit vectors (heads, dim) of linear discriminant analysis, ``S_w⁻¹(μ₁-μ₀)`` with a Ledoit-Wolf within-class
    covariance."""
    gap = harmful.mean(0) - benign.mean(0)
    within = ledoit_wolf(torch.cat([harmful - harmful.mean(0), benign - benign.mean(0)]))
    scale = within.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(FLOOR)
    ridge = FLOOR * scale[:, None, None] * torch.eye(within.shape[-1], dtype=within.dtype, device=within.device)
    return unit(torch.linalg.solve(within + ridge, gap))


def directions(harmful: Tensor, benign: Tensor, method: str) -> Tensor:
    """(heads, dim) unit directions by ``lda`` or ``mean`` difference."""
    if method not in METHODS:
        raise BadInput(f"method {method!r}; {' or '.join(map(repr, METHODS))} are possible")
    return lda(harmful, benign) if method == "lda" else mean_difference(harmful, benign)


def drawn_to(own: Tensor, pooled: Tensor, shots: int, prior: float) -> Tensor:
    """Unit directions drawn to those of all categories together with weight ``prior / (prior + shots)``: the few-shot
    form."""
    share = prior / (prior + shots) if prior > 0 else 0.0
    return unit((1 - share) * own + share * pooled)


# -------------------------------------------------------------------------------------------------------------- fitting


def standardized(samples: Tensor, direction: Tensor, harmful: Tensor, benign: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z-scored projections (n, heads), center (heads,), scale (heads,)): 0 midway between the class means, in units of
    the within-class deviation."""
    a, b = (torch.einsum("nhd,hd->nh", x, direction) for x in (harmful, benign))
    center = (a.mean(0) + b.mean(0)) / 2
    scale = (
        (((a - a.mean(0)).square().sum(0) + (b - b.mean(0)).square().sum(0)) / max(1, len(a) + len(b) - 2))
        .sqrt()
        .clamp_min(FLOOR)
    )
    return (torch.einsum("nhd,hd->nh", samples, direction) - center) / scale, center, scale


def folds_of(count: int, folds: int, seed: int) -> Tensor:
    """(count,) fold numbers, as even as can be, shuffled."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    out = torch.empty(count, dtype=torch.long)
    out[order] = torch.arange(count) % folds
    return out


def aurocs(positive: Tensor, negative: Tensor) -> Tensor:
    """(heads,) AUROC of (n, heads) against (m, heads) scores, ties count half."""
    from scipy.stats import rankdata

    joint = torch.cat([positive, negative]).cpu().numpy()
    ranks = torch.from_numpy(np.asarray(rankdata(joint, axis=0), np.float64))
    n, m = len(positive), len(negative)
    return (ranks[:n].sum(0) - n * (n + 1) / 2) / (n * m)


def unit_folds(units: Sequence[Any] | None, count: int, seed: int) -> tuple[Tensor, int]:
    """(fold of each of ``count`` rows, number of folds): rows of one unit (a phrase in several contexts, a pair) share
    a fold."""
    names = list(range(count)) if units is None else list(units)
    if len(names) != count:
        raise BadInput(f"{len(names)} units for {count} rows; one a row is wanted")
    place = {u: k for k, u in enumerate(dict.fromkeys(names))}
    folds = min(FOLDS, len(place))
    of_unit = folds_of(len(place), folds, seed)
    return of_unit[torch.tensor([place[u] for u in names])], folds


def out_of_fold(
    harmful: Tensor,
    benign: Tensor,
    method: str,
    where: tuple[Tensor, Tensor],
    folds: int,
    pooled: Tensor | None,
    prior: float,
) -> Tensor:
    """(n + m, heads) z-scored projections of each row by directions fitted without its fold, harmful rows first.

    This is the validation that selects heads and sets thresholds: with 5 examples there is nothing to spare for a split
    of its own."""
    out = torch.zeros(len(harmful) + len(benign), harmful.shape[1], dtype=harmful.dtype)
    rows = torch.cat(where)
    both = torch.cat([harmful, benign])
    for fold in range(folds):
        a, b = harmful[where[0] != fold], benign[where[1] != fold]
        own = directions(a, b, method)
        direction = own if pooled is None else drawn_to(own, pooled, len(a), prior)
        out[rows == fold] = standardized(both[rows == fold], direction, a, b)[0]
    return out


def paired_folds(
    harmful: Tensor, benign: Tensor, units: tuple[Sequence[Any], Sequence[Any]] | None, seed: int
) -> tuple[tuple[Tensor, Tensor], int]:
    """Folds of both classes, as many as the scarcer class has units; ``BadInput`` where either has one unit only."""
    a, folds_a = unit_folds(units[0] if units else None, len(harmful), seed)
    b, folds_b = unit_folds(units[1] if units else None, len(benign), seed + 1)
    folds = min(folds_a, folds_b)
    if folds < 2:
        raise BadInput(
            "all harmful or all benign texts belong to one unit; heads are chosen on rows that were left out, so two "
            "units are needed"
        )
    return (a % folds, b % folds), folds


# -------------------------------------------------------------------------------------------------------------- scoring


def linear_scores(sample: Mapping[str, Tensor], weights: Mapping[str, Tensor], bias: Tensor) -> Tensor:
    """(n, k) scores of k categories: ``bias + Σ_site sample[site] (n, c) @ weights[site] (k, c)ᵀ``."""
    total = bias.clone()[None]
    for site, weight in weights.items():
        total = total + sample[site].to(weight.dtype) @ weight.T
    return total


def attenuate(states: Tensor, weight: Tensor, beta: float, heads: int, center: Tensor | None = None) -> Tensor:
    """States (n, t, heads · dim) less the part along each head's direction: ``z - β·max(0, wᵀz - b)·w/‖w‖²`` for every
    head and token.

    Args:
        weight: (heads · dim,) one category's weight at this site; heads with weight 0 stay.
        beta: share that is taken off; at 0 the states themselves are returned.
        center: (heads,) value of ``wᵀz`` that counts as none; 0 without.
    """
    if beta == 0:
        return states
    w = weight.to(states.device, states.dtype).unflatten(0, (heads, -1))
    z = states.unflatten(-1, (heads, -1))
    along = torch.einsum("nthd,hd->nth", z, w)
    if center is not None:
        along = along - center.to(states.device, states.dtype)
    square = w.square().sum(-1)
    share = torch.where(square > 0, along.clamp_min(0.0) / square.clamp_min(torch.finfo(states.dtype).tiny), 0.0)
    less: Tensor = (z - beta * share[..., None] * w).flatten(-2)
    return less


def threshold_at(benign: Sequence[float] | Tensor, fpr: float, units: Sequence[Any] | None = None) -> float:
    """Score above which at most about ``fpr`` of benign texts lie.

    With enough rows the conformal quantile: the smallest observed score that ``(rows above + 1) / (n + 1) <= fpr``
    holds for. Where ``n`` is below ``1/fpr - 1`` no observed score can promise that, and the one-sided normal
    prediction bound ``mean + t·sd·√(1+1/n)`` stands in.

    Args:
        units: names of rows that belong together (a phrase in several contexts). Each unit then weighs the same and
            ``n`` counts units, since texts of one unit say little about those of another (Dunn, Wasserman and Ramdas,
            arXiv 1809.07441, pooling).

    Raises:
        BadInput: fpr outside (0, 1), fewer than 2 rows, or scores that are not finite.
    """
    from scipy import stats

    x = np.sort(np.asarray(benign, np.float64))
    if not 0 < fpr < 1:
        raise BadInput(f"a false-positive rate of {fpr}; give a share between 0 and 1, 0.01 say")
    if len(x) < 2 or not np.isfinite(x).all():
        raise BadInput(f"{len(x)} benign scores, finite ones are wanted, at least 2, for a threshold at {fpr:g}")
    names = list(range(len(x))) if units is None else list(units)
    if len(names) != len(x):
        raise BadInput(f"{len(names)} units for {len(x)} scores; one a score is wanted")
    count, room = len(set(names)), fpr * (len(set(names)) + 1) - 1 + 1e-12
    if room >= 0:
        order = np.argsort(np.asarray(benign, np.float64), kind="stable")[::-1]
        sizes = Counter(names)
        mass = np.cumsum([1 / sizes[names[k]] for k in order])
        above = int(np.searchsorted(mass, room, side="right"))
        return float(x[len(x) - 1 - min(above, len(x) - 1)])
    wide = max(2, count)
    return float(x.mean() + stats.t.ppf(1 - fpr, wide - 1) * x.std(ddof=1) * np.sqrt(1 + 1 / wide))
