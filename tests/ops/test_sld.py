"""Safe Latent Diffusion's step and guidance against plain loops over single numbers."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from genward.ops.guidance import cfg
from genward.ops.sld import PRESETS, sld_step, warmup_steps


def slow(
    e0: Tensor, ep: Tensor, es: Tensor, v: Tensor, step: int, w: float, s: dict[str, float]
) -> tuple[Tensor, Tensor]:
    out, new = torch.empty_like(e0), torch.empty_like(v)
    for at in itertools.product(*map(range, e0.shape)):
        a, b, c = float(e0[at]), float(ep[at]), float(es[at])
        d = b - c
        mu = min(1.0, s["scale"] * abs(d)) if d < s["threshold"] else 0.0
        g = mu * (c - a) + s["momentum_scale"] * float(v[at])
        new[at] = s["momentum_beta"] * float(v[at]) + (1 - s["momentum_beta"]) * g
        out[at] = a + w * (b - a - (g if step >= s["warmup"] else 0.0))
    return out, new


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_ten_steps_equal_the_loop(preset: str) -> None:
    g = torch.Generator().manual_seed(1)
    settings = {**PRESETS[preset]._asdict(), "warmup": warmup_steps(PRESETS[preset].warmup, 10)}
    ours = theirs = torch.zeros(3, 2, 3, 3, dtype=torch.float64)
    for step in range(10):
        e0, ep, es = (0.05 * torch.randn(3, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(3))
        a, ours = sld_step(e0, ep, es, ours, step, guidance=7.5, **settings)
        b, theirs = slow(e0, ep, es, theirs, step, 7.5, settings)
        assert torch.allclose(a, b, atol=1e-12) and torch.allclose(ours, theirs, atol=1e-12)


def some(seed: int) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64) for _ in range(4))


def test_invariants() -> None:
    e0, ep, es, v = some(0)
    off = dict(guidance=7.5, warmup=0, momentum_scale=0.0, momentum_beta=0.0)
    full, _ = sld_step(e0, ep, es, torch.zeros_like(v), 0, scale=1e9, threshold=1e9, **off)
    assert torch.allclose(full, e0 + 7.5 * (ep - es), atol=1e-6), (
        "mu = 1 everywhere: the safety text takes the place of the empty one"
    )
    for zero in (dict(scale=0.0, threshold=1e9), dict(scale=1e9, threshold=-1e9)):
        none, _ = sld_step(e0, ep, es, torch.zeros_like(v), 0, **zero, **off)
        assert torch.equal(none, cfg(e0, ep, 7.5)), "mu = 0 everywhere: classifier-free guidance, bit for bit"


def test_rows_do_not_influence_each_other() -> None:
    e0, ep, es, v = some(2)
    settings = dict(guidance=5.0, **PRESETS["strong"]._asdict())
    whole = sld_step(e0, ep, es, v, 8, **settings)
    for k in range(4):
        one = sld_step(e0[k : k + 1], ep[k : k + 1], es[k : k + 1], v[k : k + 1], 8, **settings)
        assert all(torch.equal(a[0], b[k]) for a, b in zip(one, whole, strict=True))


def test_warmup_runs_the_momentum_and_waits_with_the_guidance() -> None:
    e0, ep, es, v = some(3)
    settings = dict(guidance=5.0, **PRESETS["medium"]._asdict())
    early, moved = sld_step(e0, ep, es, v, 9, **settings)
    late, same = sld_step(e0, ep, es, v, 10, **settings)
    assert torch.equal(early, cfg(e0, ep, 5.0)) and not torch.equal(late, early)
    assert torch.equal(moved, same) and not torch.equal(moved, v)


@pytest.mark.parametrize(
    ("warmup", "steps", "expected"),
    [(15, 50, 15), (10, 20, 4), (7, 20, 3), (0, 20, 0), (10, 5, 1), (15, 10, 3), (7, 51, 7)],
)
def test_warmup_is_scaled_to_the_loop(warmup: int, steps: int, expected: int) -> None:
    assert warmup_steps(warmup, steps) == expected


def test_cfg_is_the_rule_of_the_stock_pipeline() -> None:
    e0, ep, _, _ = some(4)
    assert torch.equal(cfg(e0, ep, 4.0), e0 + 4.0 * (ep - e0))
    assert torch.equal(cfg(e0, ep, 0.0), e0)
    assert torch.allclose(cfg(e0, ep, 1.0), ep)
