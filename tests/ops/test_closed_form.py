"""The closed form against stacked least squares and plain per-layer loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops.closed_form import closed_form_edit, edit_delta, edit_matrix

N, M, D, O = 9, 14, 6, 5  # noqa: E741


def rows(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=g, dtype=torch.float64) for shape in ((O, D), (N, D), (N, D), (M, D)))  # type: ignore[return-value]


def loop(w: Tensor, c: Tensor, values: Tensor, k: Tensor, lam: float, a: float, p: float) -> Tensor:
    """The published formula, one outer product at a time, with an explicit inverse."""
    left, right = lam * w, lam * torch.eye(w.shape[1], dtype=torch.float64)
    for ci, vi in zip(c, values, strict=True):
        left = left + a * torch.outer(vi, ci)
        right = right + a * torch.outer(ci, ci)
    for ki in k:
        left = left + p * torch.outer(w @ ki, ki)
        right = right + p * torch.outer(ki, ki)
    return left @ torch.linalg.inv(right)


@pytest.mark.parametrize(("lam", "a", "p"), [(0.5, 1.0, 1.0), (0.1, 2.0, 0.3), (20.0, 1.0, 0.0)])
def test_replace_mode_equals_the_loop_and_least_squares(lam: float, a: float, p: float) -> None:
    w, c, g, k = rows()
    ours = closed_form_edit(w, c, g, k, lam=lam, alpha=a, preserve_scale=p)
    assert torch.allclose(ours, loop(w, c, g @ w.T, k, lam, a, p), atol=1e-12)
    # min over W' of |[sqrt(lam) I; sqrt(a) C; sqrt(p) K] W'^T - [sqrt(lam) W^T; sqrt(a) V; sqrt(p) K W^T]|
    design = torch.cat([lam**0.5 * torch.eye(D, dtype=torch.float64), a**0.5 * c, p**0.5 * k])
    wanted = torch.cat([lam**0.5 * w.T, a**0.5 * g @ w.T, p**0.5 * k @ w.T])
    assert torch.allclose(ours, torch.linalg.lstsq(design, wanted).solution.T, atol=1e-12)


def test_one_matrix_serves_all_maps_of_equal_width() -> None:
    _, c, g, k = rows()
    m = edit_matrix(c, g, k, lam=0.5, alpha=1.0, preserve_scale=0.7)
    for seed, width in enumerate((3, 8, 40)):
        w = torch.randn(width, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        assert torch.allclose(w @ m, loop(w, c, g @ w.T, k, 0.5, 1.0, 0.7), atol=1e-13)


def test_tensor_mode_equals_the_loop() -> None:
    w, c, g, k = rows(1)
    sizes = (4, 2, 3)
    values, at = [], 0
    for size in sizes:
        own, new = w @ c[at : at + size].T, w @ g[at : at + size].T
        u = own / own.norm()
        values.append((new - (u * new).sum() * u).T)
        at += size
    reference = loop(w, c, torch.cat(values), k, 0.5, 1.0, 0.2)
    ours = closed_form_edit(w, c, g, k, lam=0.5, alpha=1.0, preserve_scale=0.2, mode="tensor", sizes=sizes)
    assert torch.allclose(ours, reference, atol=1e-12)


def test_invariants() -> None:
    w, c, g, k = rows(2)
    base = closed_form_edit(w, c, g, k, lam=0.5, alpha=1.0, preserve_scale=0.3)
    scaled = closed_form_edit(w, c, g, k, lam=5.0, alpha=10.0, preserve_scale=3.0)
    assert torch.allclose(base, scaled, atol=1e-12), "scaling all three weights together changes nothing"
    assert torch.allclose(closed_form_edit(w, c, g, k, lam=1e12), w, atol=1e-8), "an infinite lam gives the old map"
    assert torch.equal(closed_form_edit(w, c, c, k), w), "guides equal to concepts change nothing, exactly"
    assert torch.equal(closed_form_edit(w, c, g, k, alpha=0.0), w)
    few, to = c[:2], g[:2]
    hit = closed_form_edit(w, few, to, None, lam=1e-9)
    assert torch.allclose(few @ hit.T, to @ w.T, atol=1e-6), "with a vanishing lam the concepts act as their guides"
    assert closed_form_edit(w.half(), c, g, k).dtype == torch.float16


def test_many_concepts_are_one_gram_product() -> None:
    """Concepts given together equal the sums over them, in any order."""
    w, c, g, k = rows(3)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(edit_delta(c, g, k), edit_delta(c[order], g[order], k.flip(0)), atol=1e-13)


def test_bad_input() -> None:
    w, c, g, k = rows()
    for bad in (dict(lam=0.0), dict(alpha=-1.0), dict(preserve_scale=-0.1)):
        with pytest.raises(BadInput, match="lam must be above 0"):
            edit_delta(c, g, k, **bad)
    with pytest.raises(BadInput, match="row for row"):
        edit_delta(c, g[:-1], k)
    with pytest.raises(BadInput, match="preserve"):
        edit_delta(c, g, k[:, :-1])
    with pytest.raises(BadInput, match="width 6"):
        closed_form_edit(w[:, :-1], c, g, k)
    with pytest.raises(BadInput, match="mode 'swap'"):
        closed_form_edit(w, c, g, k, mode="swap")
    with pytest.raises(BadInput, match="sum to 3"):
        closed_form_edit(w, c, g, k, mode="tensor", sizes=(1, 2))
    with pytest.raises(BadInput, match="not finite"):
        edit_delta(c * float("nan"), g, k)
