"""Every rule of a sparse autoencoder against a slow float64 computation, and its sparse edit against the dense one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.errors import BadArtifact, BadInput, GenwardError
from genward.ops.tools import QUIET, Tools
from genward.sae import autoencoder as ops
from genward.sae import training as training
from genward.sae.autoencoder import Sae
from genward.sae.training import Maps, Training

N, D, K = 24, 6, 4


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def sae() -> Sae:
    return Sae(rand(N, D, seed=1), 0.1 * rand(N, seed=2), training.unit_rows(rand(N, D, seed=3)), rand(D, seed=4), K)


def slow_code(x: Tensor, sae: Sae, k: int) -> list[list[float]]:
    """TopK per token by loops."""
    out = []
    for row in x.tolist():
        values = []
        for i in range(sae.latents):
            total = float(sae.encoder_bias[i])
            for j in range(sae.width):
                total += (row[j] - float(sae.bias[j])) * float(sae.encoder[i, j])
            values.append(max(total, 0.0))
        kept = sorted(range(len(values)), key=lambda i: -values[i])[:k]
        out.append([v if i in kept else 0.0 for i, v in enumerate(values)])
    return out


def test_topk_code_and_reconstruction(sae: Sae) -> None:
    x = rand(9, D)
    code = ops.encode(x, sae)
    slow = torch.tensor(slow_code(x, sae, K), dtype=torch.float64)
    assert torch.allclose(code, slow, atol=1e-12) and int((code > 0).sum(1).max()) == K
    back = torch.stack([sum((z * d for z, d in zip(r, sae.decoder, strict=True)), sae.bias) for r in slow])
    assert torch.allclose(ops.decode(code, sae), back, atol=1e-12)
    assert torch.equal(ops.top_k(x, D), x.relu()) and torch.equal(ops.top_k(x, D + 3), x.relu())


def test_batch_topk_shares_one_budget() -> None:
    values = rand(7, N)
    values[0] += 5
    kept = ops.batch_top_k(values, K)
    flat = sorted(values.relu().flatten().tolist(), reverse=True)[: 7 * K]
    assert sorted(kept[kept > 0].tolist(), reverse=True) == flat
    assert torch.equal(kept[kept > 0], values[kept > 0])
    assert int((kept[0] > 0).sum()) > K > int((kept[1:] > 0).sum(1).min()), "tokens share the budget"
    few = torch.where(values > 1.5, values, -values.abs())
    assert torch.equal(ops.batch_top_k(few, N), few.relu()), "where fewer are positive, all of them stay"
    leaf = values.clone().requires_grad_()
    ops.batch_top_k(leaf, K).sum().backward()
    assert leaf.grad is not None and torch.equal(leaf.grad, (kept > 0).double())


def test_unexplained_variance_by_loops(sae: Sae) -> None:
    x, back = rand(11, D), rand(11, D, seed=9)
    mean = [sum(c) / 11 for c in zip(*x.tolist(), strict=True)]
    top = sum((a - b) ** 2 for r, q in zip(x.tolist(), back.tolist(), strict=True) for a, b in zip(r, q, strict=True))
    low = sum((a - m) ** 2 for r in x.tolist() for a, m in zip(r, mean, strict=True))
    assert float(ops.unexplained(x, back)) == pytest.approx(top / low, rel=1e-12)
    parts = [
        Maps(x[:4].float()[None], torch.zeros(1), torch.zeros(1)),
        Maps(x[4:].float()[None], *(torch.zeros(1),) * 2),
    ]
    single = Sae(*(t.float() for t in sae[:4]), K)
    told = training.quality(iter(parts), single)
    assert told["fvu"] == pytest.approx(float(ops.unexplained(x, ops.decode(ops.encode(x, sae), sae))), rel=1e-5)
    assert told["tokens"] == 11 and told["l0"] == pytest.approx(float((ops.encode(x, sae) > 0).sum()) / 11)
    assert told["dead"] == pytest.approx(float((~(ops.encode(x, sae) > 0).any(0)).double().mean()))


def test_geometric_median_is_where_unit_vectors_balance() -> None:
    x = torch.cat([rand(60, D), rand(5, D) + 100])
    found = training.geometric_median(x)
    pull = ((x - found) / (x - found).norm(dim=1, keepdim=True)).sum(0)
    assert float(pull.norm()) < 1e-4, "the gradient of the summed distances is zero there"
    assert float((found - x[:60].mean(0)).norm()) < 1 < float((x.mean(0) - x[:60].mean(0)).norm())
    assert torch.allclose(training.geometric_median(torch.ones(3, D)), torch.ones(D, dtype=torch.float64))


def test_gradients_leave_decoder_rows_their_length() -> None:
    rows, gradient = training.unit_rows(rand(N, D)), rand(N, D, seed=5)
    turned = training.tangent(gradient, rows)
    for g, t, d in zip(gradient, turned, rows, strict=True):
        assert abs(float(t @ d)) < 1e-12 and torch.allclose(t, g - (g @ d) / (d @ d) * d, atol=1e-12)
    small = (rows + 1e-6 * turned).norm(dim=1)
    assert float((small - 1).abs().max()) < 1e-10


def test_auxk_by_loops(sae: Sae) -> None:
    x = rand(8, D)
    values = ops.logits(x, sae).relu()
    back = ops.decode(ops.top_k(values, K), sae)
    assert float(training.aux_loss(x, back, values, torch.zeros(N, dtype=torch.bool), sae.decoder)) == 0
    for number in (2, 10):
        dead = torch.zeros(N, dtype=torch.bool)
        dead[:number] = True
        total = 0.0
        for token in range(8):
            best = sorted(range(number), key=lambda i, t=token: -float(values[t, i]))[: min(D // 2, number)]
            mine = sum((values[token, i] * sae.decoder[i] for i in best), torch.zeros(D, dtype=torch.float64))
            total += float((mine - (x - back)[token]).square().sum())
        wanted = min(number / (D // 2), 1.0) * total / float((x - x.mean(0)).square().sum())
        assert float(training.aux_loss(x, back, values, dead, sae.decoder)) == pytest.approx(wanted, rel=1e-12)


def test_idle_tokens_are_counted() -> None:
    idle = torch.tensor([0, 5, 7])
    idle = training.idle_after(idle, torch.tensor([True, False, True]), 10)
    assert training.idle_after(idle, torch.tensor([False, False, True]), 3).tolist() == [3, 18, 0]


# --------------------------------------------------------------------------------------------------------------- edits


def dense(x: Tensor, sae: Sae, latents: list[int], floor: Tensor, factor: Tensor, error: str) -> Tensor:
    code = ops.encode(x, sae)
    new = code.clone()
    for j, i in enumerate(latents):
        new[:, i] = torch.where(code[:, i] > floor[..., j], code[:, i] * factor[..., j], code[:, i])
    lost = x - ops.decode(code, sae)
    return ops.decode(new, sae) + (lost if error == "kept" else -lost)


@pytest.mark.parametrize("first", [1, 5, N, 10 * N])
@pytest.mark.parametrize("error", ops.ERRORS)
def test_the_sparse_edit_equals_the_dense_one(
    sae: Sae, error: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "FIRST", first)
    x = rand(200, D)
    code = ops.encode(x, sae)
    latents = code.sum(0).topk(3).indices.tolist()
    for floor, factor in (
        (torch.zeros(3, dtype=torch.float64), torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)),
        (0.5 * code[:, latents].amax(0).expand(200, -1), rand(200, 3, seed=8)),
    ):
        found = ops.edited(x, sae, torch.tensor(latents), floor, factor, error)
        assert torch.allclose(found, dense(x, sae, latents, floor, factor, error), atol=1e-12)
        touched = (code[:, latents] > floor).any(1)
        assert 0 < int(touched.sum()) < 200
        if error == "kept":
            assert torch.equal(found[~touched], x[~touched]) and bool((found[touched] != x[touched]).any(1).any())


def test_half_precision_keeps_unedited_tokens(sae: Sae) -> None:
    x = rand(50, D).half()
    latents = torch.tensor([int(ops.encode(x.double(), sae).sum(0).argmax())])
    found = ops.edited(x, sae, latents, torch.zeros(1), torch.tensor([-2.0]))
    same = (found == x).all(1)
    assert found.dtype == torch.float16 and 0 < int(same.sum()) < 50
    untouched = ops.encode(x.float(), sae.to(x))[:, latents[0]] == 0
    assert torch.equal(same, untouched)
    assert torch.equal(ops.edited(x, sae, latents, torch.tensor([1e9]), torch.tensor([-2.0])), x)


def test_gradients_pass_through_an_edit(sae: Sae) -> None:
    x = rand(12, D).requires_grad_()
    latents = ops.encode(x.detach(), sae).sum(0).topk(2).indices
    floor, factor = torch.zeros(2, dtype=torch.float64), torch.full((2,), -3.0, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda v: ops.edited(v, sae, latents, floor, factor), (x,))


def test_states_become_tokens_and_come_back() -> None:
    image, tokens = rand(2, D, 3, 5), rand(2, 9, D)
    assert ops.tokens_of(image).shape == (2, 15, D) and torch.equal(ops.state_of(ops.tokens_of(image), image), image)
    assert torch.equal(ops.tokens_of(image)[1, 7], image[1, :, 1, 2]) and ops.tokens_of(tokens) is tokens
    assert ops.grid_of(image) == (3, 5) and ops.grid_of(tokens) == (3, 3)
    for wrong in (rand(2, D), rand(2, 8, D)):
        with pytest.raises(BadInput):
            ops.grid_of(ops.tokens_of(wrong))


def test_what_is_no_autoencoder_is_refused(sae: Sae) -> None:
    tensors = dict(zip(Sae._fields[:4], sae[:4], strict=True))
    assert ops.sae_of(tensors, K).latents == N
    for broken, k in (
        ({**tensors, "bias": torch.zeros(D + 1)}, K),
        ({n: t for n, t in tensors.items() if n != "decoder"}, K),
        ({**tensors, "decoder": torch.zeros(N, D + 1)}, K),
        (tensors, 0),
        (tensors, N + 1),
    ):
        with pytest.raises(BadArtifact):
            ops.sae_of(broken, k)


# ------------------------------------------------------------------------------------------------------------ training

PLAN = Training(latents=32, k=3, epochs=3, maps=4, lr=3e-3, dead_after=200)


def material(maps: int = 40) -> Maps:
    """Maps of 16 tokens made of few directions: something sparse to be found."""
    random = torch.Generator().manual_seed(7)
    atoms = training.unit_rows(torch.randn(12, D, generator=random))
    weights = torch.rand(maps, 16, 12, generator=random) * (torch.rand(maps, 16, 12, generator=random) < 0.15)
    return Maps(5 * weights @ atoms + 2, torch.arange(maps), torch.zeros(maps))


def epoch(number: int) -> Iterator[Maps]:
    whole = material()
    halves = (Maps(*(t[part] for t in whole)) for part in (slice(0, 20), slice(20, 40)))
    return training.shuffled(halves, PLAN.maps, number, buffer=10 * 16 * D * 4)


def trained(tools: Any = QUIET, plan: Training = PLAN) -> training.Trained:
    return training.train(epoch, material().x.flatten(0, 1), 10, plan, tools)


def test_batches_hold_every_map_once_in_an_order_of_the_seed() -> None:
    seen = [maps.case.tolist() for maps in epoch(0)]
    assert sorted(c for part in seen for c in part) == list(range(40)) and len(seen) == 10
    assert seen == [maps.case.tolist() for maps in epoch(0)] != [maps.case.tolist() for maps in epoch(1)]
    assert any(a > 20 > b for part in seen for a in part for b in part), "shards are mixed"


def test_training_explains_the_states_and_keeps_unit_rows() -> None:
    found = trained(plan=dataclasses.replace(PLAN, epochs=25))
    sae = found.sae
    assert torch.allclose(sae.decoder.norm(dim=1), torch.ones(32), atol=1e-5)
    assert found.losses[-1] < 0.5 * found.losses[0]
    told = training.quality(iter([material()]), sae)
    first = training.start(material().x.flatten(0, 1), PLAN)
    raw = Sae(first[0][0], first[0][1] * first[1], first[0][2], first[0][3] * first[1], PLAN.k)
    assert told["fvu"] < 0.5 * training.quality(iter([material()]), raw)["fvu"], "in the units of the states"
    assert 0 < told["l0"] <= PLAN.k and 0 <= told["dead"] < 1


@pytest.mark.parametrize("activation", training.ACTIVATIONS)
def test_a_killed_training_ends_at_the_same_bits(activation: str, tmp_path: Path) -> None:
    plan = dataclasses.replace(PLAN, activation=activation)
    whole = trained(plan=plan)
    for stop in (4, 10, 17):

        def progress(step: int, steps: int, loss: float, stop: int = stop) -> None:
            if step >= stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(Tools(progress=progress, folder=tmp_path, pace=0.0), plan)
    steps: list[int] = []
    again = trained(Tools(progress=lambda step, *_: steps.append(step), folder=tmp_path, pace=0.0), plan)
    assert steps[0] > 10 and steps[-1] == 30
    assert all(torch.equal(a, b) for a, b in zip(whole.sae[:4], again.sae[:4], strict=True))
    assert whole.losses == again.losses and torch.equal(whole.idle, again.idle)


def test_dead_latents_are_brought_back() -> None:
    plan = dataclasses.replace(PLAN, epochs=20)
    alive, without = (trained(plan=dataclasses.replace(plan, aux=aux)) for aux in (1 / 32, 0.0))
    assert int((alive.idle > plan.dead_after).sum()) < int((without.idle > plan.dead_after).sum())


def test_bad_plans_and_states() -> None:
    for fields in ({"activation": "relu"}, {"k": 0}, {"k": 33}, {"epochs": 0}, {"lr": 0.0}, {"aux": -1.0}):
        with pytest.raises(BadInput):
            dataclasses.replace(PLAN, **fields)
    with pytest.raises(GenwardError, match="same vector"):
        training.start(torch.ones(5, D), PLAN)
    with pytest.raises(GenwardError, match="lower lr"):
        training.train(epoch, material().x.flatten(0, 1), 10, dataclasses.replace(PLAN, lr=1e30), QUIET)
