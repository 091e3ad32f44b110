"""ESD: the target and first loss by hand, the weights it may touch, repeatability, and what happens when training
breaks."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Concept, Spec
from genward.defenses.esd import VARIANTS, Esd, esd_loss, esd_step, esd_target, fit_seed
from genward.errors import GenwardError
from genward.models.sd import StableDiffusion
from genward.ops.tools import Tools
from genward.testing import tiny_sd

SMALL = Esd(iterations=3, batch=2, lr=1e-3, sampling_steps=4)


def toy(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    return torch.tanh(latents + text.mean((1, 2)).view(-1, 1, 1, 1) * timestep.view(-1, 1, 1, 1) / 300)


def random(*shapes: tuple[int, ...]) -> list[Tensor]:
    g = torch.Generator().manual_seed(0)
    return [torch.randn(*s, generator=g, dtype=torch.float64) for s in shapes]


@pytest.mark.parametrize("eta", [0.0, 1.0, 3.0])
def test_first_loss(eta: float) -> None:
    """While the edited model is the frozen one, the loss is (1 + eta)² · mean((ec - e0)²)."""
    x, c, empty = random((3, 2, 4, 4), (3, 5, 6), (1, 5, 6))
    t = torch.tensor([900, 500, 20])
    ec, e0 = toy(x, t, c), toy(x, t, empty.expand(3, -1, -1))
    expected = (1 + eta) ** 2 * float((ec - e0).square().mean())
    assert float(esd_loss(toy, toy, x, t, c, empty, eta)) == pytest.approx(expected, rel=1e-12)


def test_target_by_hand() -> None:
    assert float(esd_target(torch.tensor(2.0), torch.tensor(5.0), 1.0)) == -1.0
    assert float(esd_target(torch.tensor(2.0), torch.tensor(5.0), 0.0)) == 2.0
    # The 2025 code's target, ec - eta·(ec - e0), is the paper's with eta one smaller.
    e0, ec = random((4,), (4,))
    assert torch.allclose(ec - 3.0 * (ec - e0), esd_target(e0, ec, 2.0))


def test_targets_commute_with_the_velocity_form() -> None:
    """A velocity is affine in the noise at equal x_t, so the target of a v-prediction model is the converted target."""
    x, e0, ec = random((3,), (3,), (3,))
    a, b = 0.8, 0.6  # sqrt(alpha), sqrt(1 - alpha)

    def velocity(e: Tensor) -> Tensor:
        return (e - b * x) / a

    assert torch.allclose(velocity(esd_target(e0, ec, 1.7)), esd_target(velocity(e0), velocity(ec), 1.7))


@pytest.mark.parametrize("trajectory", ["edited", "frozen"])
def test_first_step_on_a_model(model: StableDiffusion, trajectory: str) -> None:
    settings = Esd(batch=3, sampling_steps=4, eta=1.5, trajectory=trajectory)
    base, none = (
        float(
            esd_step(
                model, model.trainable("attn2"), ["a saw", "an axe"], s, torch.Generator().manual_seed(fit_seed(s))
            )(0).detach()
        )
        for s in (settings, Esd(batch=3, sampling_steps=4, eta=0.0))
    )
    assert base == pytest.approx(2.5**2 * none, rel=1e-4), "equal seeds, equal x_t: only eta differs"


def test_variants_choose_what_the_authors_choose(deep: StableDiffusion) -> None:
    names = [n for n, _ in deep.unet.named_parameters()]
    chosen = {v: {n for n in names if re.search(pattern, n)} for v, pattern in VARIANTS.items()}
    assert chosen["full"] == set(names)
    assert chosen["x"] == {n for n in names if "attn2" in n} and len(chosen["x-strict"]) == 32
    assert chosen["self"] == {n for n in names if "attn1" in n}
    skipped = {n for n in names if "attn2" in n or n.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))}
    assert chosen["u"] == set(names) - skipped and any("time_emb_proj" in n for n in chosen["u"])
    assert (
        Esd(variant="noxattn").variant == "u"
        and Spec.of("defense", Esd(variant="xattn")).hash == Spec.of("defense", Esd()).hash
    )


@pytest.mark.parametrize("variant", ["x", "x-strict", "u", "self", "full"])
def test_weights_outside_the_subset_stay_bit_equal(model: StableDiffusion, concept: Concept, variant: str) -> None:
    before = {n: p.clone() for n, p in model.unet.named_parameters()}
    flags = {n: p.requires_grad for n, p in model.unet.named_parameters()}
    fitted = Esd(variant=variant, iterations=1, batch=2, lr=1e-3, sampling_steps=2).fit(model, concept)
    assert fitted.artifact is not None
    assert all(
        torch.equal(p, before[n]) and p.requires_grad == flags[n] and p.grad is None
        for n, p in model.unet.named_parameters()
    )
    assert all(re.search(VARIANTS[variant], n) and t.dtype == torch.float16 for n, t in fitted.artifact.tensors.items())
    with model.rig([fitted]):
        moved = {n for n, p in model.unet.named_parameters() if not torch.equal(p, before[n])}
    assert moved and moved <= set(fitted.artifact.tensors)


def test_the_artifact_is_the_trained_model_up_to_its_rounding(
    model: StableDiffusion, monkeypatch: pytest.MonkeyPatch, concept: Concept
) -> None:
    kept: list[Any] = []
    trainable = model.trainable
    monkeypatch.setattr(model, "trainable", lambda match: kept.append(trainable(match)) or kept[-1])
    fitted = SMALL.fit(model, concept)
    with model.rig([fitted]):
        for name, trained in kept[0].named_parameters():
            now = model.unet.get_parameter(name)
            assert torch.allclose(now, trained, rtol=0, atol=float(3 * SMALL.lr * 2**-10)), name


def test_training_lowers_the_loss(model: StableDiffusion, concept: Concept) -> None:
    told: list[tuple[int, int, float]] = []
    Esd(variant="full", iterations=30, batch=8, lr=3e-4, sampling_steps=2, start_guidance=1.0, eta=5.0).fit(
        model, concept, Tools(progress=lambda *a: told.append(a))
    )
    losses = [loss for _, _, loss in told]
    assert [t[:2] for t in told] == [(k + 1, 30) for k in range(30)]
    assert sum(losses[-10:]) / 10 < 0.8 * sum(losses[:3]) / 3


def test_equal_seeds_equal_artifacts(model: StableDiffusion, concept: Concept) -> None:
    first, again, other = (Esd(**{**vars(SMALL), "seed": s}).fit(model, concept).artifact for s in (0, 0, 1))
    assert first is not None and again is not None and other is not None
    assert first.hash == again.hash != other.hash
    frozen = Esd(**{**vars(SMALL), "trajectory": "frozen"}).fit(model, concept).artifact
    assert frozen is not None and frozen.hash != first.hash


def test_a_half_precision_model_can_be_fitted(concept: Concept) -> None:
    model = tiny_sd()
    for part in (model.unet, model.text_encoder, model.pipe.vae):
        part.to(torch.bfloat16)
    fitted = SMALL.fit(model, concept)
    with model.rig([fitted]):
        assert {p.dtype for p in model.unet.parameters()} == {torch.bfloat16}


def test_a_loss_that_is_not_finite_names_the_step(concept: Concept) -> None:
    model = tiny_sd()
    broken = copy.deepcopy(model.unet)
    broken.conv_in.weight.data[0, 0, 0, 0] = float("nan")
    model.pipe.unet = broken
    with pytest.raises(GenwardError, match="esd: loss nan at step 1 of 3; lower lr"):
        SMALL.fit(model, concept)
