"""SafeRedir's network: the shift and the loss against loops, the authors' size, the gates of the digest, and that it
learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.errors import BadArtifact, BadInput
from genward.ops import saferedir_net as s
from genward.ops.detection import auroc

SHAPE: dict[str, Any] = {
    "trunk": "token",
    "sees": "both",
    "tokens": 6,
    "text": 16,
    "channels": 4,
    "width": 0.125,
    "dropout": 0.0,
}
HOW = s.Training(epochs=10, batch=32, lr=3e-3, scale=1.25, masked=True, denoiser=0.0, seed=0)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def answer(rows: int = 3, tokens: int = 4, width: int = 5) -> tuple[Tensor, s.Redirection]:
    out = s.Redirection(
        random(rows, 2, seed=1),
        random(rows, tokens, width, seed=2),
        random(rows, tokens, seed=3).sigmoid(),
        random(rows, tokens, seed=4).sigmoid(),
    )
    return random(rows, tokens, width), out


@pytest.mark.parametrize("masked", [True, False])
def test_shift_token_by_token(masked: bool) -> None:
    text, out = answer()
    got = s.shift(text, out, 1.25, masked)
    for row in range(3):
        for t in range(4):
            unit = out.delta[row, t] / math.sqrt(sum(float(x) ** 2 for x in out.delta[row, t]))
            size = (
                1.25
                * out.alpha[row, t]
                * math.sqrt(sum(float(x) ** 2 for x in text[row, t]))
                * (out.mask[row, t] if masked else 1)
            )
            assert torch.allclose(got[row, t], size * unit)
    assert bool((s.shift(text, out, 1.25, False).norm(dim=-1) <= 1.25 * text.norm(dim=-1)).all())


def test_gate_one_of_the_digest() -> None:
    """Without the mask, gate and mask before the normalization cancel: replacing both by ones changes nothing."""
    net = s.build({**SHAPE, "trunk": "shared"}, 0).eval()
    x, text, t = random(2, 4, 8, 8).float(), random(2, 6, 16).float(), torch.tensor([900, 100])
    with torch.no_grad():
        out = net(x, text, t)
        joint = torch.cat([net.latent_out(net.latent(x).mean((2, 3))), net.time(s.sinusoid(t))], 1)
        c = net.gathered(torch.cat([head(joint, text) for head in net.attention], 1))
        bare = net.scale * net.low(net.trunk(torch.cat([joint, c], 1)))[:, None].expand_as(text)
    assert (
        float((s.shift(text, out, 1.25, False) - s.shift(text, out._replace(delta=bare), 1.25, False)).abs().max())
        < 1e-5
    )


def test_loss_by_hand() -> None:
    text, out = answer()
    moved, safe = s.shift(text, out, 1.0, True), random(3, 4, 5, seed=9)
    label, paired = torch.tensor([1, 0, 1]), torch.tensor([True, False, False])
    mask = torch.tensor([[0.0, 1, 1, 0], [math.nan] * 4, [0, 0, 1, 0]], dtype=torch.float64)
    ce = sum(-torch.log_softmax(out.logits[r], 0)[label[r]] for r in range(3)) / 3
    target = 0.0
    for t in range(4):
        a, b = text[0, t] + moved[0, t], safe[0, t]
        target += float(1 - (a @ b) / (a.norm() * b.norm()) + 0.1 * ((a - b) ** 2).mean()) / 4
    bce = sum(-(m * torch.log(p) + (1 - m) * torch.log(1 - p)) for m, p in zip(mask[0], out.mask[0], strict=True)) / 4
    still = sum(float(out.alpha[1, t] * out.delta[1, t, k]) ** 2 for t in range(4) for k in range(5)) / 20
    expected = float(ce) + target + 0.5 * float(bce) + 0.1 * still + 0.01 * float(out.mask.mean())
    assert float(s.redirection_loss(out, moved, text, label, safe, paired, mask)) == pytest.approx(expected)


def test_the_authors_size() -> None:
    full = {"trunk": "shared", "sees": "both", "tokens": 77, "text": 768, "channels": 4, "width": 1.0, "dropout": 0.2}
    assert s.size({**full, "mask_norm": True}) == 14_573_574, "counted from the authors' code"
    assert s.size(full) == 14_573_574 - 2 * 128, "networks of earlier versions lack the mask's normalization"


def test_positions_begin_at_random_and_the_mask_is_normalized() -> None:
    net = s.build({**SHAPE, "mask_norm": True}, 0)
    position = net.position.detach()
    assert abs(float(position.mean())) < 0.5 and 0.7 < float(position.std()) < 1.3
    assert any(isinstance(part, torch.nn.LayerNorm) for part in net.mask)
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in s.build(SHAPE, 0).mask)


def test_trunk_decides_whether_tokens_share_a_direction() -> None:
    x, text, t = random(2, 4, 8, 8).float(), random(2, 6, 16).float(), torch.tensor([900, 100])
    for trunk in s.TRUNKS:
        with torch.no_grad():
            delta = s.build({**SHAPE, "trunk": trunk}, 0).eval()(x, text, t).delta
        unit = delta / delta.norm(dim=-1, keepdim=True)
        alike = bool(torch.allclose(unit, unit[:, :1].expand_as(unit), atol=1e-4))
        assert alike == (trunk == "shared")


def test_ablations_blind_the_classifier() -> None:
    x, y, text, other, t = (
        random(2, 4, 8, 8).float(),
        random(2, 4, 8, 8, seed=5).float(),
        random(2, 6, 16).float(),
        random(2, 6, 16, seed=6).float(),
        torch.ones(2),
    )
    for sees in s.SEES:
        net = s.build({**SHAPE, "sees": sees}, 0).eval()
        with torch.no_grad():
            base, latent, prompt = net(x, text, t).logits, net(y, text, t).logits, net(x, other, t).logits
        assert torch.equal(base, latent) == (sees == "text") and torch.equal(base, prompt) == (sees == "latent")


def test_rows_do_not_see_each_other() -> None:
    net = s.build(SHAPE, 0).eval()
    x, text, t = random(5, 4, 8, 8).float(), random(5, 6, 16).float(), torch.tensor([900, 100, 5, 6, 7])
    with torch.no_grad():
        whole = net(x, text, t)
        for k in range(5):
            for a, b in zip(whole, net(x[k : k + 1], text[k : k + 1], t[k : k + 1]), strict=True):
                assert torch.allclose(a[k], b[0], atol=1e-5)


def toy(rows: int = 160, seed: int = 0) -> s.Items:
    """Unsafe rows hold a word at token 2 whose safe twin is known, and a bright spot in the latents from the second
    step on."""
    g = torch.Generator().manual_seed(seed)
    word, safe_word = torch.randn(2, 16, generator=torch.Generator().manual_seed(3)) * 2
    label = (torch.rand(rows, generator=g) < 0.5).long()
    text = torch.randn(rows, 6, 16, generator=g) * 0.5
    safe = text.clone()
    text[:, 2] += torch.where(label[:, None] == 1, word, safe_word)
    safe[:, 2] += safe_word
    latents = torch.randn(rows, 2, 4, 8, 8, generator=g)
    latents[:, 1, :, 2:5, 2:5] += 2.0 * label[:, None, None, None]
    mask = torch.zeros(rows, 6)
    mask[:, 2] = 1
    return s.Items(latents.half(), torch.tensor([901, 501]), text, label, safe, label == 1, mask)


@pytest.mark.parametrize("trunk", s.TRUNKS)
def test_a_separable_problem_is_learned(trunk: str) -> None:
    items, held = toy(), torch.arange(160) >= 110
    net = s.build({**SHAPE, "trunk": trunk, "mask_norm": True}, 0)
    scores = s.train(net, items, held, HOW)
    assert max(scores) > scores[0] and s.held_score(net, items.take(held.nonzero().flatten()), HOW) == max(scores)
    assert (
        auroc(
            s.unsafe_scores(net, items.take(held.nonzero().flatten())).flatten().numpy(),
            items.label[held].repeat_interleave(2).numpy(),
        )
        > 0.95
    )
    rows = (held & items.paired).nonzero().flatten()
    part = items.take(rows)
    with torch.no_grad():
        out = net(part.latents[:, 1].float(), part.text, torch.full((len(rows),), 501))
    before = torch.cosine_similarity(part.text[:, 2], part.safe[:, 2], dim=-1).mean()
    after = torch.cosine_similarity(
        (part.text + s.shift(part.text, out, 1.25, True))[:, 2], part.safe[:, 2], dim=-1
    ).mean()
    assert float(after) > float(before) + 0.15
    assert float(out.mask[:, 2].mean()) > 0.6 > 0.4 > float(out.mask[:, [0, 1, 3, 4, 5]].mean()), (
        "the mask finds the word"
    )


def test_denoiser_target_pulls_the_prediction() -> None:
    def denoise(z: Tensor, t: Tensor, text: Tensor) -> Tensor:
        return z + text.sum((1, 2)).view(-1, 1, 1, 1)

    items, net = toy(12), s.build(SHAPE, 0)
    row, step = torch.arange(12), torch.ones(12, dtype=torch.int64)
    plain, pulled = (s.batch_loss(net.eval(), items, row, step, HOW._replace(denoiser=d), denoise) for d in (0.0, 2.0))
    with torch.no_grad():
        out = net(items.latents[:, 1].float(), items.text, torch.full((12,), 501))
        moved = s.shift(items.text, out, 1.25, True)
        p = items.paired
        far = ((items.text + moved)[p].sum((1, 2)) - items.safe[p].sum((1, 2))).square().mean()
    assert float((pulled - plain).detach()) == pytest.approx(2 * float(far), rel=1e-3)


def test_saved_and_loaded() -> None:
    net = s.build(SHAPE, 0)
    s.train(net, toy(40), torch.arange(40) >= 30, HOW._replace(epochs=1))
    again = s.unpack(SHAPE, s.pack(net))
    x, text, t = random(2, 4, 8, 8).float(), random(2, 6, 16).float(), torch.tensor([900, 100])
    with torch.no_grad():
        assert all(torch.allclose(a, b, atol=2e-2) for a, b in zip(net(x, text, t), again(x, text, t), strict=True))
    with pytest.raises(BadArtifact, match="not those of this SafeRedir"):
        s.unpack({**SHAPE, "tokens": 9}, s.pack(net))
    with pytest.raises(BadArtifact, match="no shape"):
        s.build({"trunk": "token"})


def test_one_kind_of_trajectory_is_not_enough() -> None:
    items = toy(20)
    with pytest.raises(BadInput, match="only one kind"):
        s.train(s.build(SHAPE, 0), items._replace(label=torch.ones(20, dtype=torch.int64)), torch.arange(20) > 15, HOW)


def test_mask_of_a_pair() -> None:
    assert s.concept_mask(torch.tensor([1, 5, 7, 2]), torch.tensor([1, 5, 9, 2])).tolist() == [0, 0, 1, 0]
