"""Wukong's network: its parts against loops in float64, the copied projections against the U-Net's own attention, and
that it learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.errors import BadArtifact, BadInput, GenwardError
from genward.ops import wukong_net as w
from genward.ops.tools import Tools
from genward.testing import tiny_sd

SITES = ("mid_block.attentions.0.tb.0", "up_blocks.1.attentions.0.tb.0")


@pytest.fixture(scope="module")
def blocks() -> list[Any]:
    model = tiny_sd()
    return [model.unet.get_submodule(model.sites[s].path) for s in SITES]


def shape_of(blocks: list[Any], reading: str, categories: int = 2, **more: Any) -> dict[str, Any]:
    sites = [
        {"name": n, "channels": b.attn2.to_q.in_features, "inner": b.attn2.to_q.out_features, "heads": b.attn2.heads}
        for n, b in zip(SITES, blocks, strict=True)
    ]
    base = {
        "reading": reading,
        "text": 16,
        "categories": categories,
        "hidden": 16,
        "rank": 4,
        "layers": 2,
        "dropout": 0.0,
        "sites": sites,
    }
    return {**base, **more}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_place_logits_are_the_mean_over_heads() -> None:
    q, k = random(2, 5, 12), random(3, 12, seed=1)
    got = w.place_logits(q, k, 3)
    for row in range(2):
        for place in range(5):
            for token in range(3):
                heads = [
                    sum(q[row, place, h * 4 + j] * k[token, h * 4 + j] for j in range(4)) / math.sqrt(4)
                    for h in range(3)
                ]
                assert float(got[row, place, token]) == pytest.approx(float(sum(heads)) / 3)


def test_top_mean_and_weighted() -> None:
    x, r = random(2, 20, 3), random(2, 20, 4, seed=1).exp()
    top, held = w.top_mean(x), w.weighted(x, r)
    for row in range(2):
        for c in range(3):
            assert float(top[row, c]) == pytest.approx(sum(sorted(x[row, :, c].tolist())[-2:]) / 2)
        for k in range(4):
            mine = sum(r[row, p, k] * x[row, p] for p in range(20)) / sum(r[row, p, k] for p in range(20))
            assert torch.allclose(held[row, k], mine)


def test_loss_counts_what_is_known() -> None:
    z, t = random(4, 2), torch.tensor([[1.0, math.nan], [0, 1], [1, 0], [math.nan, math.nan]], dtype=torch.float64)
    weight = torch.tensor([2.0, 3.0], dtype=torch.float64)
    each = [
        -(
            weight[c] * t[r, c] * torch.log(torch.sigmoid(z[r, c]))
            + (1 - t[r, c]) * torch.log(1 - torch.sigmoid(z[r, c]))
        )
        for r in range(4)
        for c in range(2)
        if not math.isnan(float(t[r, c]))
    ]
    any_of = [-torch.log(torch.sigmoid(z[r].max())) for r in (1, 2)]
    expected = sum(each) / 5 + 0.5 * sum(any_of) / 2
    assert float(w.multi_label_loss(z, t, weight, 0.5)) == pytest.approx(float(expected))


def test_copied_projections_are_the_blocks_own_attention(blocks: list[Any]) -> None:
    """norm2, to_q, to_k, to_v, to_out at rank 4 with a zero start give what the U-Net's attn2 gives."""
    site = w.SiteAttention(
        blocks[0].attn2.to_q.in_features, blocks[0].attn2.to_q.out_features, 16, blocks[0].attn2.heads, 4
    )
    site.copy_from(blocks[0])
    x, text = random(2, 9, 16).float(), random(2, 7, 16, seed=1).float()

    def split(y: Tensor) -> Tensor:
        return y.unflatten(-1, (site.heads, -1)).transpose(1, 2)

    with torch.no_grad():
        attended = torch.nn.functional.scaled_dot_product_attention(
            split(site.q(site.norm(x))), split(site.k(text)), split(site.v(text))
        )
        ours = site.out(attended.transpose(1, 2).flatten(2))
        theirs = blocks[0].attn2(blocks[0].norm2(x), encoder_hidden_states=text)
    assert torch.allclose(ours, theirs, atol=1e-5)
    assert not site.q.base.weight.requires_grad and not site.norm.weight.requires_grad


def toy(blocks: list[Any], rows: int = 160, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Rows that show category k hold a direction of their own at a random quarter of the places."""
    g = torch.Generator().manual_seed(seed)
    truth = (torch.rand(rows, 2, generator=g) < 0.4).float()
    features = []
    for block in blocks:
        c = block.attn2.to_q.in_features
        what = torch.randn(2, c, generator=torch.Generator().manual_seed(7)) * 2
        x = torch.randn(rows, 2, 16, c, generator=g)
        where = torch.randint(4, (rows,), generator=g)
        for row in range(rows):
            x[row, :, 4 * where[row] : 4 * where[row] + 4] += (truth[row, :, None] * what).sum(0)
        features.append(x.half())
    return features, torch.tensor([951, 701]), truth


@pytest.mark.parametrize("reading", ["A", "B"])
def test_a_separable_problem_is_learned(blocks: list[Any], reading: str) -> None:
    features, times, truth = toy(blocks)
    net = w.start(shape_of(blocks, reading), blocks, torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), 0)
    frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
    held = torch.arange(160) >= 110
    told: list[float] = []
    scores = w.train(
        net,
        features,
        times,
        truth,
        held,
        w.Training(epochs=14, batch=32, lr=5e-3, weight_decay=0.01, any_share=0.5, seed=0),
        Tools(progress=lambda *a: told.append(a[2])),
    )
    assert max(scores) > 0.9 and told[-1] < told[0]
    logits = w.predict(net, [f[held] for f in features], times)
    assert logits.shape == (50, 2, 2) and w.validation_score(logits, truth[held]) == pytest.approx(max(scores))
    assert all(torch.equal(p, frozen[n]) for n, p in net.named_parameters() if n in frozen), (
        "the U-Net's projections stay"
    )


@pytest.mark.parametrize("reading", ["A", "B"])
def test_saved_and_loaded_and_any_batch(blocks: list[Any], reading: str) -> None:
    shape = shape_of(blocks, reading, rank=0)
    net = w.start(shape, blocks, random(3, 16).float(), 0).eval()
    again = w.unpack(shape, w.pack(net))
    features, times, _ = toy(blocks, 6)
    a, b = w.predict(net, features, times), w.predict(again, features, times, batch=4)
    assert torch.allclose(a, b, atol=2e-2) and not any(p.requires_grad for p in again.parameters())
    with pytest.raises(BadArtifact, match="not those of this Wukong"):
        w.unpack({**shape, "categories": 5}, w.pack(net))
    with pytest.raises(BadArtifact, match="no shape"):
        w.build({"reading": reading})


def test_time_matters(blocks: list[Any]) -> None:
    net = w.start(shape_of(blocks, "A"), blocks, random(3, 16).float(), 0).eval()
    features, _, _ = toy(blocks, 3)
    early, late = (net([f[:, 0].float() for f in features], torch.full((3,), t)) for t in (981, 21))
    assert not torch.allclose(early, late)
    assert w.time_features(torch.tensor([0]))[0].tolist() == [0.0] * 32 + [1.0] * 32


def test_what_cannot_be_learned_is_said(blocks: list[Any]) -> None:
    features, times, truth = toy(blocks, 20)
    net = w.start(shape_of(blocks, "A"), blocks, random(3, 16).float(), 0)
    how = w.Training(epochs=1, batch=8, lr=1e-3, weight_decay=0.0, any_share=0.5, seed=0)
    with pytest.raises(BadInput, match="never or always"):
        w.train(net, features, times, torch.zeros(20, 2), torch.zeros(20, dtype=torch.bool), how, Tools())
    features[0][0] = math.nan
    with pytest.raises(GenwardError, match="wukong: loss nan in epoch 1 of 1"):
        w.train(net, features, times, truth, torch.zeros(20, dtype=torch.bool), how, Tools())
