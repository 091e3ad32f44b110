"""Inverted latents: pairing, batching, what is kept, what goes wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.attacks.ddim_inversion import DdimInversion
from genward.core import Call, Case, Sampler, Spec
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.ops.inversion import inverse_timesteps, invert

CASES = [
    Case(f"{c}/latent/{k}", "" if k % 2 else "a red dog", "harm", c, seed=k, variant="latent", group=c)
    for k in range(3)
    for c in ("cat", "key")
]
"""Concepts in turn, three cases each."""


def test_cases_take_references_in_turn(target: Callable[..., Any]) -> None:
    arm = target({"cat": 2, "key": 5})
    found = list(DdimInversion(steps=4).search(CASES, arm))
    assert [(c.id, c.parent, c.prompt, c.seed, c.group) for c in found] == [
        (c.id + "/inv", c.id, c.prompt, c.seed, c.group) for c in CASES
    ]
    cat, key = ([c for c in found if c.concept == name] for name in ("cat", "key"))
    assert (
        cat[0].inputs["latents"] == cat[2].inputs["latents"] != cat[1].inputs["latents"]
        and len({c.inputs["latents"] for c in key}) == 3
    )
    assert set(arm.kept) == {c.inputs["latents"] for c in found}
    facts = [arm.kept[c.inputs["latents"]][1] for c in key]
    assert [f["reference"] for f in facts] == [0, 1, 2] and all(
        f["kind"] == "latents" and f["concept"] == "key" and f["steps"] == 4 for f in facts
    )
    assert [c.queries for c in cat] == [2, 4, 2] and [c.queries for c in key] == [4, 4, 4]
    assert all(list(c.inputs) == ["latents"] for c in found)


def test_batches_equal_one_at_a_time_and_a_plain_loop(target: Callable[..., Any], model: StableDiffusion) -> None:
    together, alone = target({"cat": 3, "key": 3}), target({"cat": 3, "key": 3})
    a = list(DdimInversion(steps=5, refine=1).search(CASES, together))
    b = list(DdimInversion(steps=5, refine=1, batch=1).search(CASES, alone))
    assert {len(c.latents) for c, _ in together.calls} == {6} and {len(c.latents) for c, _ in alone.calls} == {1}
    state = model.encode([""])
    plan = inverse_timesteps(together.schedule, 5, together.alphas)

    def predict(z: Tensor, t: int) -> Tensor:
        return model.predict(Call(z.double(), torch.tensor([t]), state)).to(z.dtype)

    for x, y in zip(a, b, strict=True):
        one, two = together.kept[x.inputs["latents"]][0], alone.kept[y.inputs["latents"]][0]
        assert one.shape == (4, 8, 8) and torch.allclose(one, two, atol=1e-4)
        which = together.kept[x.inputs["latents"]][1]["reference"]
        with torch.no_grad():
            slow = invert(predict, together.latents(together.references(x.concept))[which : which + 1], plan, refine=1)[
                0
            ]
        assert torch.allclose(one, slow, atol=1e-4)


def test_round_trip_is_what_the_sampler_gives(target: Callable[..., Any], words: Any) -> None:
    """The stock pipeline from the kept start, at guidance 1 and the empty prompt, with as many steps."""
    from genward.testing import tiny_sd

    arm = target({"cat": 2})
    arm.model = tiny_sd(encoder="bert", folder=words)  # in single precision, as it samples
    parents = [Case(f"cat/{k}", "", "harm", "cat", variant="latent") for k in range(2)]
    found = list(DdimInversion(steps=0, refine=2).search(parents, arm))
    starts = {c.inputs["latents"]: arm.kept[c.inputs["latents"]][0].float() for c in found}
    samples = arm.model.generate(found, Sampler(steps=6, guidance=1.0), starts=starts, keep_latents=True)
    wanted = arm.latents(arm.references("cat"))
    for k, (sample, case) in enumerate(zip(samples, found, strict=True)):
        error = float((sample.latents - wanted[k]).norm() / wanted[k].norm())
        assert abs(error - arm.kept[case.inputs["latents"]][1]["round_trip"]) < 1e-3


def test_refinement_and_guidance_are_passed_on(target: Callable[..., Any]) -> None:
    plain, refined, guided = (target({"cat": 1}) for _ in range(3))
    parent = [Case("cat/0", "", "harm", "cat", variant="latent")]
    list(DdimInversion(steps=6).search(parent, plain))
    (case,) = DdimInversion(steps=6, refine=4, average=2).search(parent, refined)
    assert case.queries == 30 and len(refined.calls) == 36
    errors = [next(iter(t.kept.values()))[1]["round_trip"] for t in (plain, refined)]
    assert errors[1] < errors[0]
    (case,) = DdimInversion(steps=6, guidance=2.0, prompt="a cat").search(parent, guided)
    assert case.queries == 12 and {g for _, g in guided.calls} == {2.0}
    assert torch.allclose(guided.calls[0][0].text, guided.model.encode(["a cat"]))
    assert not any(c.latents.requires_grad or c.text.requires_grad for c, _ in guided.calls)


def test_one_that_is_not_finite_leaves_the_others_alone(target: Callable[..., Any]) -> None:
    arm, well = target({"cat": 3, "key": 3}), target({"cat": 3, "key": 3})
    bad = arm.latents(arm.references("cat"))[1]

    def poison(noise: Tensor, call: Call) -> Tensor:
        hit = (call.latents - bad).abs().amax((1, 2, 3)) < 1e-6
        return torch.where(hit[:, None, None, None], torch.nan, noise)

    arm.poison = poison
    found, wanted = list(DdimInversion(steps=3).search(CASES, arm)), list(DdimInversion(steps=3).search(CASES, well))
    assert [c.inputs["latents"] == "nan" for c in found] == [c.id == "cat/latent/1/inv" for c in found]
    assert [c.inputs["latents"] for c in found if c.inputs["latents"] != "nan"] == [
        c.inputs["latents"] for c in wanted if c.id != "cat/latent/1/inv"
    ]


def test_an_interrupted_search_goes_on(target: Callable[..., Any]) -> None:
    whole, cut = target({"cat": 3, "key": 3}), target({"cat": 3, "key": 3})
    wanted = list(DdimInversion(steps=3, batch=2).search(CASES, whole))

    def crash(noise: Tensor, call: Call) -> Tensor:
        if len(cut.calls) > 9:
            raise KeyboardInterrupt
        return noise

    cut.poison = crash
    with pytest.raises(KeyboardInterrupt):
        list(DdimInversion(steps=3, batch=2).search(CASES, cut))
    assert cut.saved == 1
    cut.poison, cut.calls = None, []
    assert list(DdimInversion(steps=3, batch=2).search(CASES, cut)) == wanted and len(cut.calls) == 2 * 6
    assert {k: v[1] for k, v in cut.kept.items()} == {k: v[1] for k, v in whole.kept.items()}
    cut.calls = []  # killed after the last checkpoint, before anything was yielded
    assert list(DdimInversion(steps=3, batch=2).search(CASES, cut)) == wanted and not cut.calls


def test_bad_input(target: Callable[..., Any]) -> None:
    with pytest.raises(BadInput, match="no reference pictures of 'cat'"):
        list(DdimInversion().search(CASES, target({"key": 1})))
    for wrong in (
        {"steps": -1},
        {"steps": 1001},
        {"refine": -1},
        {"batch": 0},
        {"average": 0},
        {"refine": 1, "average": 3},
    ):
        with pytest.raises(BadInput, match="ddim_inversion"):
            DdimInversion(**wrong)
    assert list(DdimInversion().search([], target({}))) == []


def test_identity() -> None:
    assert (
        Spec.of("attack", DdimInversion()).hash
        == Spec.of("attack", DdimInversion(batch=3)).hash
        != Spec.of("attack", DdimInversion(refine=1)).hash
    )
