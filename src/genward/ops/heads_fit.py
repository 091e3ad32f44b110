"""Fitting a category to head states: heads chosen out of fold and averaged, weighed by logistic regression, or all of
them in one ridge regression. See ``ops.heads`` for the states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops.heads import (
    COMBINE,
    FLOOR,
    Floats,
    aurocs,
    directions,
    drawn_to,
    out_of_fold,
    paired_folds,
    standardized,
)


class HeadFit(NamedTuple):
    """A fitted category as numbers: ``weight`` (heads, dim) of the whole encoder's heads (0 where a head is not used),
    ``bias``, and how it came about."""

    weight: Tensor
    bias: float
    chosen: tuple[int, ...]
    """Heads used, best first"""
    auroc: tuple[float, ...]
    """Their out-of-fold AUROC"""
    scores: Tensor
    """(n,) out-of-fold scores of the rows that were fitted on, harmful rows first"""


def logistic(scores: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, float]:
    """Balanced ridge logistic regression of (n, m) scores on 0/1 labels by Newton steps: (weights (m,), intercept),
    float64."""
    x = torch.cat([scores, torch.ones(len(scores), 1, dtype=scores.dtype)], 1)
    y = labels.to(scores.dtype)
    share = torch.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum()) * len(y)
    ridge = torch.full((x.shape[1],), penalty, dtype=x.dtype)
    ridge[-1] = 1e-6
    w = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(50):
        p = torch.sigmoid(x @ w)
        gradient = x.T @ (share * (p - y)) + ridge * w
        hessian = (
            (x * (share * p * (1 - p))[:, None]).T @ x + torch.diag(ridge) + 1e-9 * torch.eye(len(w), dtype=x.dtype)
        )
        step = torch.linalg.solve(hessian, gradient)
        w = w - step * min(1.0, 5.0 / float(step.norm().clamp_min(1e-12)))
        if float(step.abs().max()) < 1e-9:
            break
    return w[:-1], float(w[-1])


def fit_heads(
    harmful: Tensor,
    benign: Tensor,
    *,
    method: str = "lda",
    count: int = 16,
    combine: str = "mean",
    penalty: float = 1.0,
    seed: int = 0,
    pooled: Tensor | None = None,
    prior: float = 0.0,
    units: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> HeadFit:
    """Directions, head selection and one linear score for one category.

    Args:
        harmful, benign: (n, heads, dim) and (m, heads, dim) read-out states, float64; at least 2 rows each.
        count: how many heads the score uses, the best by out-of-fold AUROC; 0 takes all.
        combine: ``mean`` of their z-scored projections, or a ridge ``logistic`` regression on these.
        pooled: (heads, dim) directions of all categories together, that this one's are drawn to with ``prior`` rows'
            weight.
        units: names of harmful and of benign rows that must not be parted between folds.

    Raises:
        BadInput: too few rows, states that are not finite, an unknown method.
    """
    if min(len(harmful), len(benign)) < 2:
        raise BadInput(f"{len(harmful)} harmful and {len(benign)} benign texts; a direction wants at least 2 of each")
    if harmful.shape[1:] != benign.shape[1:]:
        raise BadInput(f"harmful states {tuple(harmful.shape)} and benign {tuple(benign.shape)} have different heads")
    if not bool(torch.isfinite(harmful).all() and torch.isfinite(benign).all()):
        raise BadInput("the encoder's states hold numbers that are not finite; check its weights and the texts")
    if combine not in COMBINE:
        raise BadInput(f"combine {combine!r}; {' or '.join(map(repr, COMBINE))} are possible")
    where, folds = paired_folds(harmful, benign, units, seed)
    oof = out_of_fold(harmful, benign, method, where, folds, pooled, prior)
    n = len(harmful)
    quality = aurocs(oof[:n], oof[n:])
    total = harmful.shape[1]
    chosen = torch.argsort(quality, descending=True, stable=True)[: count if 0 < count < total else total]
    labels = torch.cat([torch.ones(n), torch.zeros(len(benign))])
    if combine == "mean":
        share, shift = torch.full((len(chosen),), 1.0 / len(chosen), dtype=harmful.dtype), 0.0
    else:
        share, shift = logistic(oof[:, chosen], labels, penalty)
    own = directions(harmful, benign, method)
    direction = own if pooled is None else drawn_to(own, pooled, n, prior)
    _, center, scale = standardized(harmful, direction, harmful, benign)
    gain = torch.zeros(total, dtype=harmful.dtype)
    gain[chosen] = share / scale[chosen]
    weight = gain[:, None] * direction
    bias = shift - float((gain * center).sum())
    return HeadFit(
        weight, bias, tuple(chosen.tolist()), tuple(quality[chosen].tolist()), oof[:, chosen] @ share + shift
    )


def fit_joint(
    harmful: Tensor,
    benign: Tensor,
    *,
    penalty: float = 1.0,
    seed: int = 0,
    units: tuple[Sequence[Any], Sequence[Any]] | None = None,
) -> HeadFit:
    """One ridge logistic regression over all heads' standardized states at once: more rows than states are wanted;
    every head is used.

    The head-wise form above is the paper's; this is its upper relative, for large mixed corpora where directions differ
    by source."""
    if min(len(harmful), len(benign)) < 2:
        raise BadInput(f"{len(harmful)} harmful and {len(benign)} benign texts; a direction wants at least 2 of each")
    both = torch.cat([harmful, benign])
    labels = torch.cat([torch.ones(len(harmful)), torch.zeros(len(benign))])
    flat = both.flatten(1)
    center, scale = flat.mean(0), flat.std(0, unbiased=False).clamp_min(FLOOR)
    z = (flat - center) / scale
    parts, folds = paired_folds(harmful, benign, units, seed)
    where = torch.cat(parts)
    scores = torch.zeros(len(both), dtype=flat.dtype)
    for fold in range(folds):
        rows = where == fold
        w, b = ridge_logistic(z[~rows], labels[~rows], penalty)
        scores[rows] = z[rows] @ w + b
    w, b = ridge_logistic(z, labels, penalty)
    weight = (w / scale).unflatten(0, harmful.shape[1:])
    oof = torch.einsum("nhd,hd->nh", both, weight)
    quality = aurocs(oof[: len(harmful)], oof[len(harmful) :])
    order = torch.argsort(quality, descending=True, stable=True)
    return HeadFit(
        weight, b - float((w * center / scale).sum()), tuple(order.tolist()), tuple(quality[order].tolist()), scores
    )


def ridge_logistic(x: Tensor, labels: Tensor, penalty: float, shares: Tensor | None = None) -> tuple[Tensor, float]:
    """Logistic regression with ``penalty/2·‖w‖²`` (intercept free) for wide tables, by L-BFGS in the table's precision:
    (weights (m,), intercept).

    Args:
        shares: (n,) weights of the rows, at least 0; without them both classes weigh the same. Scaled to a mean of 1.
    """
    from scipy.optimize import minimize

    table = x.numpy()
    y = labels.double().numpy()
    share = np.where(y > 0, 0.5 / y.sum(), 0.5 / (1 - y).sum()) if shares is None else shares.double().numpy()
    share = share * len(y) / share.sum()
    sign = 2 * y - 1

    def loss(v: Floats) -> tuple[float, Floats]:
        margin = sign * (table @ v[:-1].astype(table.dtype) + v[-1])
        slope = -share * sign / (1 + np.exp(np.clip(margin, -60, 60)))
        value = float((share * np.logaddexp(0, -margin)).sum() + penalty / 2 * (v[:-1] @ v[:-1]))
        return value, np.append(table.T @ slope.astype(table.dtype) + penalty * v[:-1], slope.sum())

    found = minimize(
        loss,
        np.zeros(table.shape[1] + 1),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 300, "ftol": 1e-9 if x.dtype == torch.float64 else 1e-6},
    ).x
    return torch.from_numpy(found[:-1].copy()).to(x.dtype), float(found[-1])
