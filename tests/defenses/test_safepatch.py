"""SafePatch: a patch at zero is no patch, training touches nothing but the clone, losses and merging by hand, pairs
that are not aligned are rejected and counted."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.catalog.fitting import fit_fields
from genward.core import Call, Case, Concept, Sampler, Spec
from genward.defenses import _counterfactual as counterfactual
from genward.defenses import _patch_fit as training
from genward.defenses import _patch_net as nets
from genward.defenses.safepatch import INSTRUCTION, SafePatch, merged, stacked, to_diffusers
from genward.errors import BadArtifact, BadInput
from genward.models.sd import StableDiffusion
from genward.ops import artifacts
from genward.ops.activations import record
from genward.ops.prompt_pairs import Pair
from genward.ops.tools import Tools
from genward.testing import FakeJudge, tiny_sd
from genward.testing.suites import CASES, same, weights

SMALL = SafePatch(pairs=4, steps=3, batch=8, sampling_steps=2, lr=3e-2, tau=1.0)
SAMPLER = Sampler(3, 3.0)


def latents(model: StableDiffusion, *defenses: Any, cases: Any = CASES) -> Tensor:
    made = model.generate(cases, SAMPLER, defenses, keep_latents=True)
    assert all(s.status == "ok" for s in made), made[0].why
    return torch.stack([s.latents for s in made])


def untrained(model: StableDiffusion, **fields: Any) -> SafePatch:
    """A patch as it is before the first step."""
    tensors = nets.weights_of(nets.clone_of(model.unet)) | {INSTRUCTION: model.encode(["without saw"]).half()}
    return SafePatch(artifact=artifacts.make(tensors, {"model_hash": model.spec.hash}), **fields)


@pytest.fixture(scope="module")
def fitted(model: StableDiffusion, concept: Concept) -> SafePatch:
    return SMALL.fit(model, concept)


@pytest.mark.parametrize("which", ["model", "deep"])
@pytest.mark.parametrize("halves", ["both", "conditional"])
def test_a_patch_that_has_learned_nothing_is_the_base(which: str, halves: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    patch = untrained(model, halves=halves)
    assert torch.equal(latents(model, patch), latents(model))
    assert same(model.generate(CASES, SAMPLER, [patch]), model.generate(CASES, SAMPLER))


def test_training_touches_the_clone_alone(concept: Concept) -> None:
    model = tiny_sd()
    before, flags = weights(model), [p.requires_grad for p in model.unet.parameters()]
    patch = SMALL.fit(model, concept)
    assert all(torch.equal(before[n], p) for n, p in model.unet.named_parameters())
    assert [p.requires_grad for p in model.unet.parameters()] == flags and all(
        p.grad is None for p in model.unet.parameters()
    )
    assert torch.equal(latents(model, dataclasses.replace(patch, strength=0.0)), latents(model))
    assert not torch.equal(latents(model, patch), latents(model))
    assert all(torch.equal(before[n], p) for n, p in model.unet.named_parameters())
    start = nets.weights_of(nets.clone_of(model.unet))
    moved = [n for n, p in patch.artifact.tensors.items() if n in start and not torch.equal(p, start[n])]  # type: ignore[union-attr]
    assert any("controlnet_down_blocks" in n for n in moved) and any(n.startswith("down_blocks") for n in moved)


def test_residuals_are_added_to_the_skips_by_hand(model: StableDiffusion, fitted: SafePatch) -> None:
    """The patched prediction is the base's under diffusers' own residual arguments, s times the clone's outputs."""
    tensors = dict(fitted.artifact.tensors)  # type: ignore[union-attr]
    states = tensors.pop(INSTRUCTION).float()
    net = nets.with_weights(model.unet, tensors, "cpu", torch.float32)
    text = model.encode(["a saw", "a dog"])
    call = Call(torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([700, 200]), text)
    down, middle = net(
        call.latents,
        call.timestep,
        torch.cat([text, states.expand(2, -1, -1)], 1),
        torch.zeros(2, 3, 8, 8),
        return_dict=False,
    )
    assert any(bool(x.any()) for x in down) and bool(middle.any())
    for strength in (0.3, 1.0):
        wanted = model.unet(
            call.latents, call.timestep, text, down_block_additional_residuals=[strength * x for x in down],
            mid_block_additional_residual=strength * middle, return_dict=False,
        )[0]  # fmt: skip
        with model.rig([dataclasses.replace(fitted, strength=strength)]) as rig:
            assert torch.allclose(rig.defended(call), wanted, atol=1e-5)
    with model.rig([fitted, fitted]) as rig:
        both = model.unet(
            call.latents, call.timestep, text, down_block_additional_residuals=[2 * x for x in down],
            mid_block_additional_residual=2 * middle, return_dict=False,
        )[0]  # fmt: skip
        assert torch.allclose(rig.defended(call), both, atol=1e-5), (
            "patches side by side are the sum of their residuals"
        )


def test_a_patch_in_int8(model: StableDiffusion, fitted: SafePatch, tmp_path: Path) -> None:
    """Every weight within half a step of its channel, by the slow rule; latents next to those of float16; what lost
    its scales is refused."""
    tensors = dict(fitted.artifact.tensors)  # type: ignore[union-attr]
    states = tensors.pop(INSTRUCTION)
    small = nets.packed(tensors)
    back = nets.unpacked(small)
    assert set(back) == set(tensors)
    for name, weight in tensors.items():
        if weight.dim() < 2:
            assert torch.equal(back[name], weight.half())
            continue
        for mine, wanted in zip(back[name].double().flatten(1), weight.double().flatten(1), strict=True):
            step = float(wanted.abs().max()) / 127
            assert float((mine - wanted).abs().max()) <= step * 0.501
    size = sum(t.numel() * t.element_size() for t in small.values())
    assert size < 0.6 * sum(t.numel() * t.element_size() for t in tensors.values())
    saved = artifacts.save(tmp_path / "small", {**small, INSTRUCTION: states}, dict(fitted.artifact.card))  # type: ignore[union-attr]
    patch = dataclasses.replace(fitted, artifact=artifacts.load(tmp_path / "small"))
    assert patch.artifact.hash == saved.hash  # type: ignore[union-attr]
    moved = (latents(model, fitted) - latents(model)).norm()
    assert (latents(model, patch) - latents(model, fitted)).norm() < 0.05 * moved
    assert set(merged(model, [patch]).artifact.tensors) == {*tensors, INSTRUCTION}  # type: ignore[union-attr]
    name = next(n for n in small if n.endswith(nets.SCALE))
    for lost in (
        {n: t for n, t in small.items() if n != name},
        {n: t for n, t in small.items() if n + nets.SCALE != name},
    ):
        with pytest.raises(BadArtifact, match="do not belong together|not there"):
            nets.unpacked(lost)


def test_how_weights_are_kept_is_no_other_patch(model: StableDiffusion, concept: Concept) -> None:
    one = dataclasses.replace(SMALL, storage="int8").fit(model, concept)
    assert any(t.dtype == torch.int8 for t in one.artifact.tensors.values())  # type: ignore[union-attr]
    assert fit_fields(one) == fit_fields(SMALL)
    with pytest.raises(BadInput, match="storage"):
        SafePatch(storage="int4")


def test_what_the_clone_reads() -> None:
    prompt, told = torch.randn(2, 3, 4), torch.randn(1, 5, 4)
    assert torch.equal(nets.read_text(prompt, told, "prompt"), prompt)
    assert torch.equal(nets.read_text(prompt, told, "instruction")[1], told[0])
    both = nets.read_text(prompt, told)
    assert both.shape == (2, 8, 4) and torch.equal(both[:, :3], prompt) and torch.equal(both[1, 3:], told[0])
    assert SafePatch(instruction="only tools").told([]) == "only tools"


def test_conditional_rows_alone(model: StableDiffusion, fitted: SafePatch) -> None:
    """Under ``halves=conditional`` the other half of a guided call keeps its energy at zero and its prediction."""
    seen: dict[str, Tensor] = {}

    class Read:
        name = "read"

        def attach(self, rig: Any) -> None:
            def keep(call: Any, frame: Any) -> Any:
                if frame.step == 0:
                    seen["skips"] = torch.stack([s.flatten(1).abs().sum(1) for s in call.skips]).sum(0)
                return call

            rig.inputs(keep)

    for halves, wanted in (("both", [True] * 6), ("conditional", [False] * 3 + [True] * 3)):
        latents(model, dataclasses.replace(fitted, halves=halves), Read())
        assert (seen["skips"] > 0).tolist() == wanted


def test_energy_is_noted_and_mapped(model: StableDiffusion, fitted: SafePatch) -> None:
    parts = [torch.full((2, 3, 4, 4), 2.0), torch.zeros(2, 5, 2, 2)]
    parts[1][1] = 1.0
    assert nets.energy(parts).tolist() == pytest.approx([math.sqrt(2.0), math.sqrt(2.5)])
    assert torch.allclose(nets.energy_map(parts)[1], torch.full((4, 4), math.sqrt(2.5)))
    made = model.generate(CASES, SAMPLER, [fitted])
    for sample in made:
        assert len(fitted.energies(sample)) == 3 and all(x > 0 for x in fitted.energies(sample))
        assert fitted.acted(sample) == pytest.approx(sum(fitted.energies(sample)) / 3)
    maps, masks = fitted.maps(model, CASES, SAMPLER), fitted.masks(model, CASES, SAMPLER)
    assert [k for k, _ in maps] == [0, 1, 2] and maps[0][1].shape == (3, 8, 8)
    for (_, x), (_, mask) in zip(maps, masks, strict=True):
        assert mask.dtype == torch.uint8 and all(bool(m.any()) for m in mask)
        assert torch.equal(mask.bool(), x >= 0.5 * x.amax((1, 2), keepdim=True))


# --------------------------------------------------------------------------------------------------------------- losses


def test_losses_by_hand() -> None:
    patched, safe, unsafe, noise = (
        torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in range(4)
    )
    step, wanted = patched - unsafe, safe - unsafe
    assert float(nets.rectifying("difference", patched, safe, noise)) == pytest.approx(
        float((step - wanted).square().mean())
    )
    assert float(nets.rectifying("outcome", patched, safe, noise)) == pytest.approx(
        float((patched - noise).square().mean())
    )
    assert float(nets.keeping(patched, unsafe)) == pytest.approx(float(step.square().mean()))


def material(model: StableDiffusion) -> tuple[counterfactual.Counterfactuals, training.Benign]:
    g = torch.Generator().manual_seed(0)
    a, b, c = (torch.randn(2, 4, 8, 8, generator=g) for _ in range(3))
    pairs = [Pair("a saw", "a cup", 0), Pair("an axe", "a bowl", 0)]
    return counterfactual.Counterfactuals(pairs, [0, 1], a, b, [0.0, 0.0], {}), training.Benign(
        ["a dog", "a hammer"], c
    )


@pytest.mark.parametrize("loss", ["difference", "outcome"])
def test_the_first_loss_of_training(model: StableDiffusion, loss: str) -> None:
    """Before the first step the patch adds nothing, so benign rows cost nothing, and the rest is a distance of the
    base's own predictions; with all captions dropped nothing is left of it under ``difference``."""
    found, others = material(model)
    settings = SafePatch(batch=8, loss=loss, dropout=0.0)
    told = model.encode(["without saw"])
    seen: list[Call] = []
    real = model.predict

    def watch(call: Call) -> Tensor:
        seen.append(call)
        return real(call)

    model.predict = watch  # type: ignore[method-assign]
    try:
        net = nets.trainable_clone(model.unet)
        value = training.patch_step(model, net, found, others, told, settings, torch.Generator().manual_seed(1))(0)
    finally:
        del model.predict  # type: ignore[method-assign]
    target, mine = (real(c._replace(skips=None)) for c in seen)
    assert torch.equal(target[4:], mine[4:]), "benign rows read the same caption on both sides"
    if loss == "difference":
        assert float(value.detach()) == pytest.approx(float((mine[:4] - target[:4]).square().mean()), rel=1e-5)
    value.backward()
    assert net.controlnet_mid_block.weight.grad is not None and bool(net.controlnet_mid_block.weight.grad.any())
    assert all(p.grad is None for n, p in net.named_parameters() if n.startswith(nets.HINT))
    dropped = dataclasses.replace(settings, dropout=0.999999)
    rest = training.patch_step(model, net, found, others, told, dropped, torch.Generator().manual_seed(1))(0)
    assert (float(rest.detach()) < 1e-10) == (loss == "difference")


def test_training_lowers_the_loss(model: StableDiffusion, concept: Concept) -> None:
    told: list[float] = []
    dataclasses.replace(SMALL, steps=60, lr=3e-3, dropout=0.0).fit(
        model, concept, Tools(progress=lambda step, of, loss: told.append(loss))
    )
    losses = [x for x in told if not math.isnan(x)]
    assert len(losses) == 60 and sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_a_penalty_on_residuals_has_a_gradient_at_zero(model: StableDiffusion, concept: Concept) -> None:
    patch = dataclasses.replace(SMALL, residual=0.1).fit(model, concept)
    assert not torch.equal(latents(model, patch), latents(model))


# ---------------------------------------------------------------------------------------------------------------- pairs


def test_the_quieter_part_of_a_picture() -> None:
    one, other = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    other[:, :, :2] = 1.0
    other[1, :, 3, 3] = 0.4
    assert counterfactual.outside(one, other, 0.5).tolist() == pytest.approx([0.0, 0.4 / 8])
    assert counterfactual.outside(one, other, 0.0).tolist() == pytest.approx([0.5, 0.5 + 0.4 / 16])


PAIRS = [Pair("a saw", "a cup", 0), Pair("an axe", "a bowl", 0)]


def made(model: StableDiffusion, **how: Any) -> counterfactual.Counterfactuals:
    given = {"shared": 0.5, "area": 0.5, "tau": 1.0, **how}
    count = given.pop("count", 6)
    return counterfactual.build(
        model,
        PAIRS,
        count,
        lambda *a, **k: record(*a, in_memory=True, **k),
        owner="test",
        sampler=Sampler(4, 3.0),
        **given,
    )


def test_pairs_begin_alike_and_part(model: StableDiffusion) -> None:
    """The safe side is the safe caption's own picture; the other side is its own up to the switch, so the nearer the
    later it comes."""
    found = made(model)
    assert len(found.pairs) == 6 and found.rejected == dict.fromkeys(counterfactual.REASONS, 0)
    cases = [Case(f"x{k}", p.safe, seed=s) for k, (p, s) in enumerate(zip(found.pairs, found.seeds, strict=True))]
    own = model.generate(cases, Sampler(4, 3.0), keep_latents=True, batch=6)
    assert torch.allclose(found.safe, torch.stack([s.latents for s in own]), atol=1e-5)
    away = [float((made(model, shared=s).unsafe - found.safe).abs().mean()) for s in (0.0, 0.5, 0.75)]
    assert away[0] > away[1] > away[2] > 0


def test_pairs_are_rejected_for_a_reason(model: StableDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(counterfactual, "outside", lambda *_: torch.tensor([0.0, 0.2, 0.05, 0.3, math.nan, 0.09]))
        some = made(model, tau=0.1)
    assert some.outside == pytest.approx([0.0, 0.05, 0.09])
    assert [p.concept for p in some.pairs][:2] == ["a saw", "a saw"]
    assert some.rejected["another layout"] == 5 - len(some.pairs) and some.rejected["not made"] == 1
    with pytest.raises(BadInput, match=r"none of 6 .* was accepted \(6 the concept is not shown\)"):
        made(model, judge=FakeJudge(labels=("saw",), threshold=2.0), labels=("saw",))
    with pytest.raises(BadInput, match=r"\(6 the safe twin shows it\)"):
        made(model, judge=FakeJudge(labels=("saw",), threshold=0.0), labels=("saw",))
    with pytest.raises(BadInput, match="shared and area lie in"):
        made(model, area=1.0)


def test_pairs_of_all_targets_come_in_turn(concept: Concept) -> None:
    mixed = training.spread([Pair("a", "x", 0), Pair("b", "x", 0), Pair("c", "y", 1), Pair("d", "y", 1)])
    assert [p.concept for p in mixed] == ["a", "c", "b", "d"]
    near, far = training.benign([concept])
    assert near == ["a hammer"] and far == ["a dog", "a red apple"]
    assert training.benign([dataclasses.replace(concept, keep=())]) == (["a hammer"], ["a hammer"])
    with pytest.raises(BadInput, match="captions to leave alone"):
        training.benign([dataclasses.replace(concept, keep=(), neighbors=())])


def test_the_card_counts_what_was_rejected(fitted: SafePatch) -> None:
    card = fitted.artifact.card  # type: ignore[union-attr]
    assert card["accepted"] == 4 and set(card["rejected"]) == set(counterfactual.REASONS)
    assert card["told"] == "without saw, axe" and len(card["losses"]) == 3
    assert len(card["seeds"]) == 8, "of pairs and of benign pictures"


# ---------------------------------------------------------------------------------------------------------------- merge


def test_patches_merge_by_weights_and_side_by_side(model: StableDiffusion, concept: Concept, fitted: SafePatch) -> None:
    other = dataclasses.replace(SMALL, seed=1).fit(model, dataclasses.replace(concept, name="others"))
    start = nets.weights_of(nets.clone_of(model.unet))
    one = merged(model, [fitted, other], (0.5, 0.7))
    for name, origin in start.items():
        a, b = (p.artifact.tensors[name].double() - origin.double() for p in (fitted, other))  # type: ignore[union-attr]
        got = one.artifact.tensors[name].double()  # type: ignore[union-attr]
        assert torch.allclose(got, origin.double() + 0.5 * a + 0.7 * b, rtol=2e-3, atol=1e-3)
    assert set(one.artifact.card["concepts"]) == {"tools", "others"}  # type: ignore[union-attr]
    alone = merged(model, [fitted])
    assert all(torch.equal(p, fitted.artifact.tensors[n]) for n, p in alone.artifact.tensors.items())  # type: ignore[union-attr]
    nothing = merged(model, [fitted, other], (0.0, 0.0))
    assert torch.equal(latents(model, nothing), latents(model))
    beside = stacked([fitted, other])
    assert [p.strength for p in beside] == [1 / math.sqrt(2)] * 2
    assert not torch.equal(latents(model, *beside), latents(model, fitted))
    for patches, shares, told in (
        ([], None, "at least one"),
        ([SafePatch()], None, "only fitted"),
        ([fitted, other], (1.0,), "a share for each"),
        ([fitted, other], (1.0, math.nan), "finite|a share for each"),
        ([fitted, dataclasses.replace(other, text="prompt")], None, "other texts"),
    ):
        with pytest.raises(BadInput, match=told):
            merged(model, patches, shares)
    with pytest.raises(BadInput, match="no patch"):
        stacked([])


def test_a_patch_loads_in_diffusers(model: StableDiffusion, concept: Concept, tmp_path: Path) -> None:
    from diffusers import ControlNetModel

    patch = dataclasses.replace(SMALL, text="prompt").fit(model, concept)
    to_diffusers(model, patch).save_pretrained(tmp_path, safe_serialization=True)
    net = ControlNetModel.from_pretrained(tmp_path, use_safetensors=True)
    text, x, t = model.encode(["a saw"]), torch.ones(1, 4, 8, 8), torch.tensor([300])
    down, middle = net(x, t, text, torch.zeros(1, 3, 64, 64), return_dict=False)
    mine = nets.with_weights(
        model.unet,
        {n: p for n, p in patch.artifact.tensors.items() if n != INSTRUCTION},
        "cpu",
        torch.float32,  # type: ignore[union-attr]
    )
    for a, b in zip((*down, middle), nets.residuals(mine, Call(x, t, text), text), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    with pytest.raises(BadInput, match="text=prompt"):
        to_diffusers(model, dataclasses.replace(patch, text="both"))


# ------------------------------------------------------------------------------------------------------------ bad input


def test_another_model(model: StableDiffusion, deep: StableDiffusion, fitted: SafePatch) -> None:
    """A fine-tuned base of the same shape takes the patch where asked to; one of another shape never."""
    tuned = tiny_sd()
    with torch.no_grad():
        tuned.unet.conv_in.weight.mul_(1.01)
    tuned = StableDiffusion(tuned.pipe, Spec("model", "tuned", {}))
    with pytest.raises(BadArtifact, match="was fitted on model"):
        tuned.generate(CASES, SAMPLER, [fitted])
    moved = dataclasses.replace(fitted, transfer=True)
    assert not torch.equal(latents(tuned, moved), latents(tuned))
    with pytest.raises(BadArtifact, match="do not fit this model's encoder"):
        deep.generate(CASES, SAMPLER, [moved])


def test_bad_settings_are_named() -> None:
    for fields, told in (
        ({"loss": "l2"}, "'difference' or 'outcome'"),
        ({"text": "none"}, "'both' or 'prompt' or 'instruction'"),
        ({"halves": "none"}, "'both' or 'conditional'"),
        ({"strength": 2.0}, "strength lies in"),
        ({"dropout": 1.0}, "dropout in"),
        ({"batch": 2}, "batch at least 4"),
        ({"lr": 0.0}, "lr above 0"),
        ({"keep": -1.0}, "weights of at least 0"),
        ({"residual": math.inf}, "weights of at least 0"),
    ):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            SafePatch(**fields)  # type: ignore[arg-type]
