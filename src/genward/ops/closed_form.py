"""Closed-form edits of linear maps (Unified Concept Editing, arXiv 2308.14761, eq. 7).

The edited map ``W'`` minimizes ``alpha·Σ|W'c - v|² + preserve_scale·Σ|W'k - Wk|² + lam·|W' - W|²`` over concept rows
``c`` with values ``v`` and rows ``k`` to preserve. With ``A = lam·I + alpha·CᵀC + preserve_scale·KᵀK`` and ``v = W g``
(replace mode) this is ``W' = W (I + D)``, ``D = alpha·(G - C)ᵀ C A⁻¹``: it depends on embeddings alone, so one solve
serves every map of equal input width, and ``D`` is exactly zero where guides equal concepts. ``A`` is symmetric
positive definite (Cholesky), everything is solved in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from genward.errors import BadInput


def _checked(
    concepts: Tensor, guides: Tensor | None, preserve: Tensor | None, lam: float, alpha: float, preserve_scale: float
) -> None:
    if lam <= 0 or alpha < 0 or preserve_scale < 0:
        raise BadInput(
            f"lam {lam}, alpha {alpha}, preserve_scale {preserve_scale}: lam must be above 0, the others at least 0"
        )
    if concepts.ndim != 2 or (guides is not None and guides.shape != concepts.shape):
        given = "none" if guides is None else tuple(guides.shape)
        raise BadInput(f"concepts {tuple(concepts.shape)} and guides {given}: both must be (n, d), row for row")
    if preserve is not None and (preserve.ndim != 2 or preserve.shape[1] != concepts.shape[1]):
        raise BadInput(f"preserve {tuple(preserve.shape)}: must be (m, {concepts.shape[1]})")


def gram(concepts: Tensor, preserve: Tensor | None, lam: float, alpha: float, preserve_scale: float) -> Tensor:
    """``lam·I + alpha·CᵀC + preserve_scale·KᵀK`` in float64, (d, d)."""
    c = concepts.double()
    total = lam * torch.eye(c.shape[1], dtype=torch.float64, device=c.device) + alpha * (c.T @ c)
    if preserve is not None and len(preserve):
        k = preserve.double()
        total = total + preserve_scale * (k.T @ k)
    return total


def _right_divide(left: Tensor, spd: Tensor) -> Tensor:
    """``left @ spd⁻¹`` for a symmetric positive definite matrix."""
    factor, info = torch.linalg.cholesky_ex(spd)
    if int(info) or not bool(torch.isfinite(factor).all()):
        raise BadInput(
            "the closed-form edit has no stable solution for these embeddings; raise lam, or look for numbers that are "
            "not finite"
        )
    return torch.cholesky_solve(left.T, factor).T


def edit_delta(
    concepts: Tensor,
    guides: Tensor,
    preserve: Tensor | None = None,
    *,
    lam: float = 0.5,
    alpha: float = 1.0,
    preserve_scale: float = 1.0,
) -> Tensor:
    """``D`` (d, d) in float64 with ``W' = W + W @ D``: replace mode, for all maps of input width d.

    Args:
        concepts: embedding rows to re-map (n, d), any float dtype.
        guides: what each is mapped to (n, d).
        preserve: rows whose outputs stay (m, d), or ``None``.
        lam: weight of staying close to the old map, above 0.
        alpha: weight of the concept rows. preserve_scale: weight of the preserved rows.

    Raises:
        BadInput: shapes or weights cannot be used, or the embeddings are not finite.
    """
    _checked(concepts, guides, preserve, lam, alpha, preserve_scale)
    c, g = concepts.double(), guides.double()
    return _right_divide(alpha * ((g - c).T @ c), gram(c, preserve, lam, alpha, preserve_scale))


def edit_matrix(
    concepts: Tensor,
    guides: Tensor,
    preserve: Tensor | None = None,
    *,
    lam: float = 0.5,
    alpha: float = 1.0,
    preserve_scale: float = 1.0,
) -> Tensor:
    """``M = I + D`` (d, d) in float64 with ``W' = W @ M``; arguments as ``edit_delta``."""
    delta = edit_delta(concepts, guides, preserve, lam=lam, alpha=alpha, preserve_scale=preserve_scale)
    return torch.eye(len(delta), dtype=torch.float64, device=delta.device) + delta


def closed_form_edit(
    weight: Tensor,
    concepts: Tensor,
    guides: Tensor,
    preserve: Tensor | None = None,
    *,
    lam: float = 0.5,
    alpha: float = 1.0,
    preserve_scale: float = 1.0,
    mode: str = "replace",
    sizes: tuple[int, ...] | None = None,
) -> Tensor:
    """The edited weight (o, d) of one map, in the weight's dtype.

    Args:
        weight: (o, d). The other arguments as in ``edit_delta``.
        mode: ``replace`` (values ``W g``) or ``tensor`` (values ``W g`` less their part along the concept's own
            outputs).
        sizes: ``tensor`` mode: rows of each phrase, in order, summing to n; one phrase by default.

    Raises:
        BadInput: shapes, weights or mode cannot be used.
    """
    if weight.ndim != 2 or weight.shape[1] != concepts.shape[-1]:
        raise BadInput(f"weight {tuple(weight.shape)} does not take embeddings of width {concepts.shape[-1]}")
    if mode == "replace":
        delta = edit_delta(concepts, guides, preserve, lam=lam, alpha=alpha, preserve_scale=preserve_scale)
    elif mode == "tensor":
        delta = tensor_delta(
            weight, concepts, guides, preserve, lam=lam, alpha=alpha, preserve_scale=preserve_scale, sizes=sizes
        )
    else:
        raise BadInput(f"mode {mode!r}; 'replace' or 'tensor' are possible")
    wide = weight.double()
    return (wide + wide @ delta).to(weight.dtype)


def tensor_delta(
    weight: Tensor,
    concepts: Tensor,
    guides: Tensor,
    preserve: Tensor | None = None,
    *,
    lam: float = 0.5,
    alpha: float = 1.0,
    preserve_scale: float = 1.0,
    sizes: tuple[int, ...] | None = None,
) -> Tensor:
    """``D`` (d, d) in float64 with ``W' = W + W @ D`` for this one ``weight``: the 2023 code's ``tensor`` mode.

    A phrase with rows ``C_s`` and guides ``G_s`` has outputs ``O = W C_sᵀ`` (o, rows) and the unit direction ``u =
    O/|O|`` (Frobenius); its values are ``W G_sᵀ - <u, W G_sᵀ> u``, one scalar a phrase. As ``u`` lies in the range of
    ``W``, this too is ``W`` times a matrix, but another one for each layer."""
    _checked(concepts, guides, preserve, lam, alpha, preserve_scale)
    sizes = sizes or (len(concepts),)
    if sum(sizes) != len(concepts):
        raise BadInput(f"sizes {sizes} sum to {sum(sizes)}, there are {len(concepts)} concept rows")
    w, c, g = weight.double(), concepts.double(), guides.double()
    along = torch.cat(
        [_share(w, cs, gs).expand(len(cs)) for cs, gs in zip(c.split(list(sizes)), g.split(list(sizes)), strict=True)]
    )
    left = alpha * ((g - (1 + along)[:, None] * c).T @ c)
    return _right_divide(left, gram(c, preserve, lam, alpha, preserve_scale))


def _share(weight: Tensor, concepts: Tensor, guides: Tensor) -> Tensor:
    """``<O, V>/|O|²`` of outputs O of the concept rows and V of the guide rows; 0 where the concept has no output."""
    own, new = concepts @ weight.T, guides @ weight.T
    size = (own * own).sum()
    return (own * new).sum() / size if float(size) > 0 else size
