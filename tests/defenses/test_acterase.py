"""ActErase on a model: nothing marked is nothing changed, everything marked is the safe path, each open question of the
paper is a field that does what it says."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Case, Concept, Sampler
from genward.defenses._acterase import packed, unpacked
from genward.defenses.acterase import ActErase
from genward.errors import BadArtifact, BadInput, Inapplicable
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.activations import AtSite, record
from genward.testing import tiny_sd
from genward.testing.suites import CASES, same

SMALL = ActErase(pairs=4, sampling_steps=3, tau=0.2, guidance=3.0)
SAMPLER = Sampler(3, 3.0)
STEPS = 3


def latents(model: StableDiffusion, cases: Any, *defenses: Any, sampler: Sampler = SAMPLER) -> Tensor:
    made = model.generate(cases, sampler, defenses, keep_latents=True)
    assert all(s.status == "ok" for s in made), made[0].why
    return torch.stack([s.latents for s in made])


def holding(model: StableDiffusion, tensors: dict[str, Tensor], **fields: Any) -> ActErase:
    """One with given tensors, as if fitted on the model."""
    return ActErase(artifact=artifacts.make(tensors, {"model_hash": model.spec.hash}), **fields)


def sites(model: StableDiffusion) -> list[str]:
    return ActErase().sites(model)


def test_nothing_marked_is_the_base_bit_for_bit(model: StableDiffusion) -> None:
    tensors: dict[str, Tensor] = {}
    for name in sites(model):
        shape = (1, 16, model.sites[name].channels)
        tensors |= packed(
            name, torch.tensor([0.0]), torch.zeros(shape, dtype=torch.bool), torch.zeros(shape), torch.float16
        )
    acted = holding(model, tensors)
    assert torch.equal(latents(model, CASES), latents(model, CASES, acted))
    assert same(model.generate(CASES, SAMPLER), model.generate(CASES, SAMPLER, [acted]))


@pytest.mark.parametrize("site", ["output", "hidden"])
def test_everything_marked_is_the_safe_path(model: StableDiffusion, site: str) -> None:
    """With the same timestep's activations everywhere, the network reads the safe path's at every feed-forward site,
    whatever the prompt; and the safe prompt itself gives its own pictures."""
    safe, other = Case("s", "a cup", seed=3), Case("t", "a saw", seed=3)
    places = [n + (".hidden" if site == "hidden" else "") for n in sites(model)]
    found = record(model, [safe], SAMPLER, [AtSite(p, exact=True) for p in places], in_memory=True)
    tensors: dict[str, Tensor] = {}
    for name, place in zip(sites(model), places, strict=True):
        x = found.dense(place)[0]
        tensors |= packed(name, found.timesteps(place), torch.ones_like(x, dtype=torch.bool), x, torch.float32)
    acted = holding(model, tensors, site=site)
    read = record(model, [other], SAMPLER, [AtSite(p, exact=True) for p in places], in_memory=True, defenses=[acted])
    for place in places:
        assert torch.equal(read.dense(place), found.dense(place))
    assert torch.equal(latents(model, [safe], acted), latents(model, [safe]))
    assert not torch.equal(latents(model, [other], acted), latents(model, [other]))


def test_several_steps_and_sizes_of_the_loop(model: StableDiffusion, concept: Concept) -> None:
    """Entries are found by timestep: a loop of other steps is patched too."""
    fitted = dataclasses.replace(SMALL, masks="timestep", average="timestep").fit(model, concept)
    seven = Sampler(7, 3.0)
    assert not torch.equal(latents(model, CASES, fitted, sampler=seven), latents(model, CASES, sampler=seven))
    wide = Sampler(3, 3.0, height=64, width=128)
    (refused, *_) = model.generate(CASES, SAMPLER, [fitted])
    assert refused.status == "ok"
    with pytest.raises(Inapplicable, match="16 in the fit|axis=channels"):
        model.generate(CASES, wide, [fitted])
    channels = dataclasses.replace(SMALL, axis="channels").fit(model, concept)
    assert not torch.equal(latents(model, CASES, channels, sampler=wide), latents(model, CASES, sampler=wide))


def test_halves_of_a_guided_step(model: StableDiffusion, concept: Concept) -> None:
    fitted = SMALL.fit(model, concept)
    name = sites(model)[-1]
    seen = {}
    for halves in ("conditional", "both"):
        acted = dataclasses.replace(fitted, halves=halves)
        states = record(
            model,
            CASES,
            SAMPLER,
            [AtSite(name, exact=True)],
            in_memory=True,
            branch="both",
            steps=[0],
            defenses=[acted],
        )
        plain = record(model, CASES, SAMPLER, [AtSite(name, exact=True)], in_memory=True, branch="both", steps=[0])
        (rows,), (base,) = list(states.stream(name)), list(plain.stream(name))
        mask = unpacked(fitted.artifact.tensors, name).mask[0]  # type: ignore[union-attr]
        assert mask.any()
        seen[halves] = [bool((rows.state[k][mask] != base.state[k][mask]).any()) for k in range(6)]
    assert seen == {"conditional": [False] * 3 + [True] * 3, "both": [True] * 6}


def test_a_share_of_the_way(model: StableDiffusion, concept: Concept) -> None:
    fitted = SMALL.fit(model, concept)
    half, whole, none = (latents(model, CASES, dataclasses.replace(fitted, strength=s)) for s in (0.5, 1.0, 0.0))
    plain = latents(model, CASES)
    assert torch.equal(none, plain)
    assert not torch.equal(half, plain) and not torch.equal(half, whole)


def test_concepts_are_joined_by_the_published_rule(model: StableDiffusion, concept: Concept) -> None:
    """Two concepts fitted together are their masks' OR and the mean of the safe activations where both are marked."""
    one = dataclasses.replace(concept, name="a", targets=("saw",), phrases=("a saw", "a small saw"), anchors=("a cup",))
    two = dataclasses.replace(concept, name="b", targets=("axe",), phrases=("an axe", "a hatchet"), anchors=("a bowl",))
    alone = [SMALL.fit(model, c).artifact for c in (one, two)]
    both = SMALL.fit(model, [one, two])
    assert set(both.artifact.card["concepts"]) == {"a", "b"}  # type: ignore[union-attr]
    shared = 0
    for name in sites(model):
        a, b = (unpacked(x.tensors, name) for x in alone)  # type: ignore[union-attr]
        got = unpacked(both.artifact.tensors, name)  # type: ignore[union-attr]
        assert torch.equal(got.mask, a.mask | b.mask)
        number = a.mask.int() + b.mask.int()
        shared += int((number == 2).sum())
        assert torch.allclose(got.safe, (a.safe + b.safe) / number.clamp(min=1), rtol=2e-3, atol=2e-3)
    assert shared


def test_the_card_tells_the_density(model: StableDiffusion, concept: Concept) -> None:
    card = SMALL.fit(model, concept).artifact.card  # type: ignore[union-attr]
    assert card["pairs"] == 8 and set(card["density"]) == set(sites(model))
    assert all(0 < share < 1 for share in card["density"].values())
    few = dataclasses.replace(SMALL, tau=0.05, masks="last").fit(model, concept).artifact.card  # type: ignore[union-attr]
    assert sum(few["density"].values()) < sum(card["density"].values())


def test_attacks_look_through_the_patch(model: StableDiffusion, concept: Concept) -> None:
    """Gradients flow through the unpatched activations."""
    from genward.core import Call

    fitted = SMALL.fit(model, concept)
    text = model.encode(["a saw"]).requires_grad_()
    call = Call(torch.zeros(1, 4, 8, 8), torch.tensor([500]), text)
    with torch.enable_grad(), model.rig([fitted]) as rig:
        noise = rig.defended(call)
        noise.square().sum().backward()
    assert text.grad is not None and bool((text.grad != 0).any())
    assert not torch.equal(noise.detach(), model.predict(call).detach())


def test_what_cannot_be_used_is_told(model: StableDiffusion, concept: Concept) -> None:
    for fields, told in (
        ({"tau": 0.0}, "a fraction lies in"),
        ({"tau": 1.5}, "a fraction lies in"),
        ({"tau": float("nan")}, "tau nan"),
        ({"tau": -1.0, "form": "absolute"}, "at least 0"),
        ({"strength": 1.5}, "strength in"),
        ({"agree": 0.0}, "agree must lie"),
        ({"pairs": 0}, "at least 1"),
        ({"masks": "or"}, "'union' or 'timestep' or 'last'"),
        ({"axis": "rows"}, "'tokens' or 'channels'"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            ActErase(**fields)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"layers 'up_blocks\.7' finds none of down_blocks"):
        dataclasses.replace(SMALL, layers="up_blocks.7").fit(model, concept)
    with pytest.raises(BadInput, match="is no pattern"):
        dataclasses.replace(SMALL, layers="(").fit(model, concept)
    with pytest.raises(BadInput, match="no activation is marked by 1 of the pairs"):
        dataclasses.replace(SMALL, tau=1e9, form="absolute", agree=1.0).fit(model, concept)
    with pytest.raises(BadInput, match="no phrases"):
        SMALL.fit(model, dataclasses.replace(concept, phrases=()))


def test_an_artifact_of_another_model_or_width_is_refused(model: StableDiffusion, concept: Concept) -> None:
    fitted = SMALL.fit(model, concept)
    with pytest.raises(BadArtifact, match="was fitted on model"):
        tiny_sd(seed=5).generate(CASES, SAMPLER, [fitted])
    x = torch.ones(1, 16, 3)
    wrong = packed(sites(model)[0], torch.tensor([0.0]), x.bool(), x, torch.float16)
    with pytest.raises(BadArtifact, match="16 channels where 3 channels|8 channels where 3 channels"):
        model.generate(CASES, SAMPLER, [holding(model, wrong)])
    with pytest.raises(BadArtifact, match="no site nowhere.ff"):
        model.generate(
            CASES, SAMPLER, [holding(model, packed("nowhere.ff", torch.tensor([0.0]), x.bool(), x, torch.float16))]
        )
    with pytest.raises(BadArtifact, match="names no site"):
        model.generate(CASES, SAMPLER, [holding(model, {"x": x})])
