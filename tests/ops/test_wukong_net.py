"""Wukong's network: its parts against loops in float64, the copied projections against the U-Net's own attention, and
that it learns."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Call
from genward.errors import BadArtifact, BadInput, GenwardError
from genward.ops import wukong_net as w
from genward.ops.tools import Tools
from genward.testing import tiny_sd

TAPPED = [("A", "query"), ("A", "block"), ("B", "query"), ("B", "block")]
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
        "tap": "query",
        "logits": "heads",
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


def test_head_logits_are_each_heads_scaled_products() -> None:
    q, k = random(2, 5, 12), random(3, 12, seed=1)
    got = w.head_logits(q, k, 3)
    assert got.shape == (2, 3, 5, 3)
    for row, head, place, token in itertools.product(range(2), range(3), range(5), range(3)):
        products = [q[row, place, head * 4 + j] * k[token, head * 4 + j] for j in range(4)]
        assert float(got[row, head, place, token]) == pytest.approx(float(sum(products)) / math.sqrt(4))


@pytest.mark.parametrize("site", SITES)
def test_at_the_tap_the_copied_projections_give_the_unets_own_logits(site: str) -> None:
    """What is read at ``norm2``, through copied ``to_q``/``to_k`` in float64, term by term: attn2's own probabilities
    of that very call, every head's; and averages over places give the averages of its logits."""
    model = tiny_sd(deep=True)
    block = model.unet.get_submodule(model.sites[site].path)
    text = model.encode(["a saw", "a red apple"])
    z = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    names = [f"{site}.norm2", f"{site}.attn2.probs"]
    with model.rig([]) as rig, torch.no_grad():
        found = rig.predict(Call(z, torch.tensor([801, 801]), text), read=names).sites
    x, probs = found[names[0]].double(), found[names[1]].double()
    attention = w.SiteAttention(
        block.attn2.to_q.in_features, block.attn2.to_q.out_features, text.shape[-1], block.attn2.heads, 4, normed=False
    )
    attention.copy_from(block)
    attention = attention.double()
    with torch.no_grad():
        for row in range(2):
            q, k = attention.q(x[row : row + 1]), attention.k(text[row].double())
            logits = w.head_logits(q, k, attention.heads)[0]
            slow = torch.zeros_like(logits)
            dim = q.shape[-1] // attention.heads
            to_q, to_k = block.attn2.to_q.weight.double(), block.attn2.to_k.weight.double()
            for head in range(attention.heads):
                part = slice(head * dim, (head + 1) * dim)
                for place in range(logits.shape[1]):
                    asked = to_q[part] @ x[row, place]
                    slow[head, place] = (text[row].double() @ to_k[part].T @ asked) / math.sqrt(dim)
            assert torch.allclose(logits, slow, atol=1e-10)
            assert torch.allclose(logits.softmax(-1), probs[row], atol=1e-5)
            mean = w.head_logits(attention.q(x[row : row + 1].mean(1, keepdim=True)), k, attention.heads)[0, :, 0]
            assert torch.allclose(mean, logits.mean(1), atol=1e-10)


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
    rows = random(4, 3, seed=2).exp()
    place = [(r, c) for r in range(4) for c in range(2) if not math.isnan(float(t[r, c]))]
    weighed = sum(float(rows[p]) * float(x) for p, x in zip(place, each, strict=True)) / 5
    weighed += 0.5 * sum(float(rows[r, 2]) * float(x) for r, x in zip((1, 2), any_of, strict=True)) / 2
    assert float(w.multi_label_loss(z, t, weight, 0.5, rows)) == pytest.approx(weighed)


def test_copied_projections_are_the_blocks_own_attention(blocks: list[Any]) -> None:
    """norm2, to_q, to_k, to_v, to_out at rank 4 with a zero start give what the U-Net's attn2 gives."""
    site = w.SiteAttention(
        blocks[0].attn2.to_q.in_features, blocks[0].attn2.to_q.out_features, 16, blocks[0].attn2.heads, 4, normed=True
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


@pytest.mark.parametrize(("reading", "tap"), TAPPED)
def test_a_separable_problem_is_learned(blocks: list[Any], reading: str, tap: str) -> None:
    features, times, truth = toy(blocks)
    net = w.start(
        shape_of(blocks, reading, tap=tap), blocks, torch.randn(3, 16, generator=torch.Generator().manual_seed(1)), 0
    )
    frozen = {n: p.clone() for n, p in net.named_parameters() if not p.requires_grad}
    held = torch.arange(160) >= 110
    told: list[float] = []
    prompts = [f"p{k % 9}" for k in range(160)]
    scores = w.train(
        net,
        w.Rows.of(features, times, truth, prompts, ~held, held, 1.0),
        w.Training(epochs=14, batch=32, lr=5e-3, weight_decay=0.01, any_share=0.5, seed=0),
        Tools(progress=lambda *a: told.append(a[2])),
    )
    assert max(scores) > 0.9 and told[-1] < told[0]
    logits = w.predict(net, [f[held] for f in features], times)
    assert logits.shape == (50, 2, 2) and w.validation_score(logits, truth[held], prompts[110:]) == pytest.approx(
        max(scores)
    )
    assert all(torch.equal(p, frozen[n]) for n, p in net.named_parameters() if n in frozen), (
        "the U-Net's projections stay"
    )


@pytest.mark.parametrize(("reading", "tap"), TAPPED)
def test_saved_and_loaded_and_any_batch(blocks: list[Any], reading: str, tap: str) -> None:
    shape = shape_of(blocks, reading, rank=0, tap=tap)
    net = w.start(shape, blocks, random(3, 16).float(), 0).eval()
    again = w.unpack(shape, w.pack(net))
    features, times, _ = toy(blocks, 6)
    a, b = w.predict(net, features, times), w.predict(again, features, times, batch=4)
    assert torch.allclose(a, b, atol=2e-2) and not any(p.requires_grad for p in again.parameters())
    with pytest.raises(BadArtifact, match="not those of this Wukong"):
        w.unpack({**shape, "categories": 5}, w.pack(net))
    with pytest.raises(BadArtifact, match="no shape"):
        w.build({"reading": reading})


def test_every_head_reaches_the_readout(blocks: list[Any]) -> None:
    """With logits of every head the read-out is wider by heads less one a site; ``mean`` cannot tell heads apart."""
    queries = random(3, 16).float()
    each, mean = (w.start(shape_of(blocks, "A", logits=x), blocks, queries, 0).eval() for x in w.LOGITS)
    heads = sum(b.attn2.heads for b in blocks)
    assert each.read[0].normalized_shape[0] - mean.read[0].normalized_shape[0] == heads - len(blocks)
    features, times, _ = toy(blocks, 3)
    assert each([f[:, 0].float() for f in features], times[:1].expand(3)).shape == (3, 2)


def test_time_matters(blocks: list[Any]) -> None:
    net = w.start(shape_of(blocks, "A"), blocks, random(3, 16).float(), 0).eval()
    features, _, _ = toy(blocks, 3)
    early, late = (net([f[:, 0].float() for f in features], torch.full((3,), t)) for t in (981, 21))
    assert not torch.allclose(early, late)
    assert w.time_features(torch.tensor([0]))[0].tolist() == [0.0] * 32 + [1.0] * 32


def test_what_cannot_be_learned_is_said(blocks: list[Any]) -> None:
    features, times, truth = toy(blocks, 20)
    net = w.start(shape_of(blocks, "A"), blocks, random(3, 16).float(), 0)

    def rows(labels: Tensor) -> w.Rows:
        none = torch.zeros(20, dtype=torch.bool)
        return w.Rows.of(features, times, labels, ["p"] * 20, ~none, none, 1.0)

    how = w.Training(epochs=1, batch=8, lr=1e-3, weight_decay=0.0, any_share=0.5, seed=0)
    with pytest.raises(BadInput, match="never or always"):
        w.train(net, rows(torch.zeros(20, 2)), how, Tools())
    features[0][0] = math.nan
    with pytest.raises(GenwardError, match="wukong: loss nan in epoch 1 of 1"):
        w.train(net, rows(truth), how, Tools())
