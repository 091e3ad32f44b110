"""Concept Ablation: losses by hand, the blocked first row, the anchor pictures, repeatability."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Concept, Sampler
from genward.core.records import row_seed
from genward.defenses.concept_ablation import (
    PARAMETERS,
    ConceptAblation,
    ablation_loss,
    ablation_step,
    anchor_cases,
    anchor_latents,
    block_first_row,
)
from genward.errors import GenwardError
from genward.models.sd import StableDiffusion
from genward.ops.tools import Tools

SMALL = ConceptAblation(steps=3, batch=4, images=6, sampling_steps=2, lr=1e-2)
PAIRS = [("a saw", "a cup"), ("an axe", "a bowl")]


def test_first_loss_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    x, c, a = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((3, 2, 4, 4), (3, 5, 6), (3, 5, 6)))
    t = torch.tensor([900, 500, 20])

    def toy(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return torch.tanh(latents + text.mean((1, 2)).view(-1, 1, 1, 1) * timestep.view(-1, 1, 1, 1) / 300)

    expected = sum(float((toy(x, t, c) - toy(x, t, a))[k].square().sum()) for k in range(3)) / x.numel()
    assert float(ablation_loss(toy, toy, x, t, c, a)) == pytest.approx(expected, rel=1e-12)


def test_the_teacher_gets_no_gradient() -> None:
    scale = torch.nn.Parameter(torch.tensor(2.0))
    x, c, a = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1)

    def live(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        return latents * scale + text.view(-1, 1, 1, 1) * scale

    ablation_loss(live, live, x, torch.tensor([1]), c, a).backward()
    # (s - sg[2s])² at s = 2: derivative 2·(2 - 4)·1
    assert scale.grad is not None and float(scale.grad) == -4.0


class Silent(torch.nn.Module):
    """A denoiser that predicts zero."""

    def forward(self, x: Tensor, t: Tensor, encoder_hidden_states: Tensor, return_dict: bool) -> tuple[Tensor]:
        return (x * 0,)


def test_losses_and_regularizer(model: StableDiffusion) -> None:
    latents, which = (
        torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0)),
        torch.tensor([0, 1, 0, 1, 0, 1]),
    )

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(row_seed("fit", "concept_ablation", 0))

    def value(**fields: Any) -> float:
        return float(ablation_step(model, Silent(), PAIRS, (latents, which), ConceptAblation(**fields), seeded())(0))

    noise = value(loss="noise")
    assert noise == pytest.approx(1.0, rel=0.1), "a silent model misses all of the unit noise"
    assert value() == 0.0 and value(regularizer=0.2) == pytest.approx(0.2 * noise, rel=1e-6)
    assert value(loss="noise", regularizer=1.0) == pytest.approx(2 * noise, rel=1e-6)
    assert value(teacher="frozen") > 0


@pytest.mark.parametrize("blocked", [True, False])
def test_the_first_rows_gradient_is_zero(model: StableDiffusion, blocked: bool) -> None:
    unet = model.trainable(PARAMETERS["kv"])
    names = [n for n, _ in unet.named_parameters()]
    if blocked:
        block_first_row(unet)
    assert [n for n, _ in unet.named_parameters()] == names
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text = model.encode(["a saw", "an axe"]).float()
    t = torch.tensor([500, 20])
    assert torch.equal(
        unet(x, t, encoder_hidden_states=text).sample, model.unet(x, t, encoder_hidden_states=text).sample
    ), "values stay"
    only = torch.zeros_like(text)
    only[:, 0] = text[:, 0]
    unet(x, t, encoder_hidden_states=only).sample.square().sum().backward()
    sizes = [float(p.grad.abs().max()) for p in unet.parameters() if p.requires_grad]
    assert len(sizes) == 8 and all((s == 0) == blocked for s in sizes)
    unet.zero_grad()
    unet(x, t, encoder_hidden_states=text).sample.square().sum().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in unet.parameters() if p.requires_grad), "the other rows teach"


def test_anchor_pictures(model: StableDiffusion) -> None:
    cases = anchor_cases(PAIRS, SMALL)
    assert [c.prompt for c in cases] == ["a cup", "a bowl"] * 3 and len({c.seed for c in cases}) == 6
    assert {c.seed for c in cases}.isdisjoint(row_seed("evaluate", 0, "name", c.prompt, k) for k, c in enumerate(cases))
    latents, which = anchor_latents(model, PAIRS, SMALL, Tools())
    stock = model.generate(cases, Sampler(steps=2, guidance=4.0), keep_latents=True)
    assert which.tolist() == [0, 1] * 3 and all(torch.equal(a, b.latents) for a, b in zip(latents, stock, strict=True))


def test_no_anchor_picture_at_all_is_an_error(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = SimpleNamespace(status="refused", latents=None, why="all of them")
    monkeypatch.setattr(model, "generate", lambda *a, **k: [refused] * 6)
    with pytest.raises(GenwardError, match="none of 6 anchor pictures could be made .all of them"):
        anchor_latents(model, PAIRS, SMALL, Tools())


@pytest.mark.parametrize("parameters", sorted(PARAMETERS))
def test_weights_outside_the_subset_stay_bit_equal(model: StableDiffusion, concept: Concept, parameters: str) -> None:
    before = {n: p.clone() for n, p in model.unet.named_parameters()}
    told: list[tuple[int, int]] = []
    fitted = ConceptAblation(parameters=parameters, steps=2, batch=2, images=4, sampling_steps=2, lr=1e-2).fit(
        model, concept, Tools(progress=lambda k, n, loss: told.append((k, n)))
    )
    assert told == [(4, 6), (5, 6), (6, 6)], "pictures and steps are counted together"
    assert fitted.artifact is not None and all(torch.equal(p, before[n]) for n, p in model.unet.named_parameters())
    assert all(re.search(PARAMETERS[parameters], n) for n in fitted.artifact.tensors)
    assert len(fitted.artifact.card["seeds"]) == 4 and {"a saw", "a cup"} <= set(fitted.artifact.card["captions"])


def test_training_brings_concept_and_anchor_together(model: StableDiffusion, concept: Concept) -> None:
    told: list[float] = []
    ConceptAblation(parameters="full", teacher="frozen", steps=40, batch=8, images=8, sampling_steps=2, lr=2e-3).fit(
        model, concept, Tools(progress=lambda k, n, loss: told.append(loss) if loss == loss else None)
    )
    assert len(told) == 40 and sum(told[-8:]) < 0.7 * sum(told[:8])


def test_equal_seeds_equal_artifacts(model: StableDiffusion, concept: Concept) -> None:
    first, again, other, unblocked, noise = (
        ConceptAblation(**{**vars(SMALL), **f}).fit(model, concept).artifact
        for f in ({}, {}, {"seed": 1}, {"block_bos": False}, {"loss": "noise"})
    )
    assert first is not None and again is not None and first.hash == again.hash
    assert len({a.hash for a in (first, other, unblocked, noise) if a is not None}) == 4


def test_an_anchor_of_ones_own(model: StableDiffusion, concept: Concept) -> None:
    found = ConceptAblation(**{**vars(SMALL), "anchor": "a dog"}).fit(model, concept).artifact
    assert found is not None
    assert {"a dog"} == set(found.card["captions"]) - set(concept.phrases), "every phrase has this one anchor"
