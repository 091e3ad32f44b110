"""Redirects: the share of the way as a slow loop, and what counts as one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genward.errors import BadInput
from genward.ops.redirects import redirects, shares


def slow(old: torch.Tensor, new: torch.Tensor, targets: torch.Tensor) -> list[list[float]]:
    out = []
    for a, b in zip(old.tolist(), new.tolist(), strict=True):
        row = []
        for t in targets.tolist():
            before = sum((x - y) ** 2 for x, y in zip(a, t, strict=True))
            after = sum((x - y) ** 2 for x, y in zip(b, t, strict=True))
            row.append(1 - after / before)
        out.append(row)
    return out


@given(st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_shares_are_the_slow_loop(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    old, new, targets = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (5, 5, 4))
    found = shares(old, new, targets)
    for row, wanted in zip(found.tolist(), slow(old, new, targets), strict=True):
        for x, y in zip(row, wanted, strict=True):
            assert x == -math.inf or abs(x - y) < 1e-6 * max(1, abs(y))


def test_all_the_way_half_the_way_and_not_at_all() -> None:
    targets = torch.eye(3) * 4
    old = torch.zeros(3, 3)
    new = torch.stack([targets[1], targets[1] / 2, torch.zeros(3)])
    found = shares(old, new, targets)
    assert torch.allclose(found[:, 1], torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64), atol=1e-9)
    assert bool((shares(targets, targets, targets).diagonal() == -torch.inf).all())


def test_what_the_plain_name_did_as_well_is_no_redirect() -> None:
    own = torch.tensor([[0.9, 0.1, 0.3], [0.2, 0.95, 0.3], [0.9, 0.2, 0.3]])
    plain = torch.tensor([[-torch.inf, 0.8, 0.0], [0.0, -torch.inf, 0.0], [0.7, -0.5, -torch.inf]])
    first, second, alone = redirects(own, plain, torch.tensor([0, 0, -1]))
    assert first.target == 2 and abs(first.score + 0.5) < 1e-6  # 0 is what it names, which went away by 0.8
    assert second.target == 1 and abs(second.score - 0.15) < 1e-6  # the plain name went to 1 as well
    assert alone.target == 2 and abs(alone.score - 0.3) < 1e-6  # another plain name went to 0: 0.2 is left
    (same,) = redirects(own[1:2], plain, torch.tensor([2]))
    assert same.target == 1 and abs(same.score - 0.25) < 1e-6  # its plain name went to 0 by 0.7


def test_bad_readings() -> None:
    with pytest.raises(BadInput, match="wanted"):
        shares(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(1, 3))
    with pytest.raises(BadInput, match="not finite"):
        shares(torch.zeros(2, 3), torch.full((2, 3), math.nan), torch.ones(1, 3))
