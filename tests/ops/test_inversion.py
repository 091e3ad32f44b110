"""DDIM steps both ways against a slow form and diffusers, fixed-point refinement, and the parts of textual
inversion."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.errors import BadInput
from genward.ops import inversion
from genward.testing.tiny import tiny_pipeline

SD: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def scheduler(**other: Any) -> Any:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**{**SD, **other})


def plan_of(source: Any, steps: int) -> list[inversion.Step]:
    return inversion.inverse_timesteps(
        {**source.config, "final_alpha": float(source.final_alpha_cumprod)}, steps, source.alphas_cumprod
    )


def rand(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def each(z: Tensor) -> Iterator[tuple[int, ...]]:
    return iter([tuple(int(x) for x in place) for place in torch.cartesian_prod(*(torch.arange(n) for n in z.shape))])


@pytest.mark.parametrize("kind", inversion.PREDICTIONS)
def test_steps_equal_a_slow_form(kind: str) -> None:
    z, answer = rand(2, 1, 2, 2, dtype=torch.float64), rand(2, 1, 2, 2, seed=1, dtype=torch.float64)
    for a, b in ((0.9, 0.4), (0.4, 0.9), (0.99, 0.0047), (0.0047, 0.01)):
        for step in (inversion.ddim_step, inversion.ddim_inverse_step):
            found = step(z, answer, a, b, kind)
            for at in each(z):
                x, n = float(z[at]), float(answer[at])
                if kind == "v_prediction":
                    clean, noise = math.sqrt(a) * x - math.sqrt(1 - a) * n, math.sqrt(a) * n + math.sqrt(1 - a) * x
                else:
                    clean, noise = (x - math.sqrt(1 - a) * n) / math.sqrt(a), n
                assert math.isclose(
                    float(found[at]), math.sqrt(b) * clean + math.sqrt(1 - b) * noise, rel_tol=1e-9, abs_tol=1e-12
                )


def test_there_and_back_with_one_prediction_is_exact() -> None:
    z, noise = rand(3, 2, 4, 4, dtype=torch.float64), rand(3, 2, 4, 4, seed=1, dtype=torch.float64)
    there = inversion.ddim_inverse_step(z, noise, 0.95, 0.02)
    assert torch.allclose(inversion.ddim_step(there, noise, 0.02, 0.95), z, atol=1e-12)


@pytest.mark.parametrize("kind", inversion.PREDICTIONS)
@pytest.mark.parametrize("other", [{}, {"set_alpha_to_one": True, "steps_offset": 0}, {"timestep_spacing": "trailing"}])
@pytest.mark.parametrize("steps", [1, 7, 20, 50])
def test_every_step_equals_diffusers(kind: str, other: dict[str, Any], steps: int) -> None:
    from diffusers import DDIMInverseScheduler

    source = scheduler(prediction_type=kind, **other)
    inverse = DDIMInverseScheduler.from_config(source.config)
    inverse.set_timesteps(steps)
    source.set_timesteps(steps)
    plan = plan_of(source, steps)
    assert [s.timestep for s in plan] == inverse.timesteps.tolist() == source.timesteps.flip(0).tolist()
    z = rand(2, 4, 8, 8)
    for k, step in enumerate(plan):
        answer = rand(2, 4, 8, 8, seed=k + 1)
        theirs = inverse.step(answer, step.timestep, z).prev_sample
        ours = inversion.ddim_inverse_step(z, answer, step.alpha_from, step.alpha_to, kind)
        assert (ours - theirs).abs().max() <= 1e-6
        back = source.step(answer, step.timestep, theirs).prev_sample
        assert (inversion.ddim_step(theirs, answer, step.alpha_to, step.alpha_from, kind) - back).abs().max() <= 2e-6
        z = theirs


def test_final_alpha_is_read_off_the_flag_where_it_is_not_given() -> None:
    alphas = scheduler().alphas_cumprod
    for flag, wanted in ((True, 1.0), (False, float(alphas[0]))):
        assert (
            inversion.inverse_timesteps({"set_alpha_to_one": flag, "steps_offset": 1}, 4, alphas)[0].alpha_from
            == wanted
        )


@pytest.mark.parametrize(
    "other, steps, told",
    [
        ({}, 0, "between 1 and 1000"),
        ({}, 1001, "between 1 and 1000"),
        ({"steps_offset": 1}, 1000, "take fewer"),
        ({"timestep_spacing": "linspace"}, 10, "linspace"),
        ({"clip_sample": True}, 10, "clips"),
        ({"thresholding": True}, 10, "clips"),
    ],
)
def test_schedules_without_inversion(other: dict[str, Any], steps: int, told: str) -> None:
    with pytest.raises(BadInput, match=told):
        inversion.inverse_timesteps(other, steps, scheduler().alphas_cumprod)


def test_unknown_prediction() -> None:
    with pytest.raises(BadInput, match="sample"):
        inversion.ddim_step(rand(1, 1, 2, 2), rand(1, 1, 2, 2), 0.5, 0.4, "sample")


# ----------------------------------------------------------------------------------------------------------- refinement


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    pipe = tiny_pipeline()
    state = pipe.encode_prompt([""], torch.device("cpu"), 1, False)[0]

    def predict(z: Tensor, timestep: int) -> Tensor:
        noise: Tensor = pipe.unet(
            z, torch.full((len(z),), timestep), encoder_hidden_states=state.expand(len(z), -1, -1), return_dict=False
        )[0]
        return noise

    return predict, pipe.scheduler


@pytest.mark.parametrize("kind", inversion.PREDICTIONS)
def test_refinement_lowers_the_round_trip_error(tiny: tuple[Any, Any], kind: str) -> None:
    predict, source = tiny
    plan, z = plan_of(source, 14), rand(1, 4, 8, 8)
    errors = []
    with torch.no_grad():
        for refine in (0, 2, 5):
            there = inversion.invert(predict, z, plan, kind, refine)
            errors.append(inversion.relative_error(inversion.regenerate(predict, there, plan, kind), z))
    for k in range(2):
        assert (errors[k + 1] < errors[k]).all(), f"more predictions, more error: {errors}"
    assert (errors[2] < errors[0] / 2).all()


@pytest.mark.parametrize("kind", inversion.PREDICTIONS)
@pytest.mark.parametrize("average", [1, 2, 4])
def test_refined_step_equals_a_slow_form(kind: str, average: int) -> None:
    z, step = rand(2, 2, 3, 3, dtype=torch.float64), inversion.Step(301, 0.7, 0.5)
    asked: list[Tensor] = []

    def predict(point: Tensor, timestep: int) -> Tensor:
        assert timestep == 301
        asked.append(point)
        return torch.sin(3 * point)

    found = inversion.refined_step(predict, z, step, kind, 3, average)
    assert len(asked) == 4
    for at in each(z):
        x, noises, level = float(z[at]), [], 0.7
        point = x
        for _ in range(4):
            answer = math.sin(3 * point)
            noises.append(answer if kind == "epsilon" else math.sqrt(level) * answer + math.sqrt(1 - level) * point)
            point, level = math.sqrt(0.5 / 0.7) * (x - math.sqrt(0.3) * noises[-1]) + math.sqrt(0.5) * noises[-1], 0.5
        mean = sum(noises[-average:]) / average
        assert math.isclose(
            float(found[at]), math.sqrt(0.5 / 0.7) * (x - math.sqrt(0.3) * mean) + math.sqrt(0.5) * mean, abs_tol=1e-12
        )


def test_without_refinement_it_is_the_inverse_step(tiny: tuple[Any, Any]) -> None:
    predict, source = tiny
    z, step = rand(2, 4, 8, 8), plan_of(source, 20)[7]
    with torch.no_grad():
        for kind in inversion.PREDICTIONS:
            wanted = inversion.ddim_inverse_step(z, predict(z, step.timestep), step.alpha_from, step.alpha_to, kind)
            assert torch.allclose(inversion.refined_step(predict, z, step, kind), wanted, atol=1e-5)


# ---------------------------------------------------------------------------------------------------- textual inversion


@pytest.mark.parametrize("kind", inversion.PREDICTIONS)
def test_denoising_loss_equals_a_slow_form(kind: str) -> None:
    shape, alphas = (3, 2, 2, 2), scheduler().alphas_cumprod.double()
    prediction, clean, noise = (rand(*shape, seed=k, dtype=torch.float64) for k in range(3))
    times = torch.tensor([0, 400, 999])
    found = inversion.denoising_loss(prediction, clean, noise, times, alphas, kind)
    assert found.shape == (3,)
    for row in range(3):
        a, total = float(alphas[times[row]]), 0.0
        for at in each(clean[row]):
            x, n, p = float(clean[row][at]), float(noise[row][at]), float(prediction[row][at])
            target = n if kind == "epsilon" else math.sqrt(a) * n - math.sqrt(1 - a) * x
            total += (p - target) ** 2 / 8
        assert math.isclose(float(found[row]), total, rel_tol=1e-10)


def test_timesteps_are_stratified_and_uniform() -> None:
    random = torch.Generator().manual_seed(0)
    drawn = torch.stack([inversion.stratified_timesteps(8, 1000, random) for _ in range(4000)])
    assert drawn.min() >= 0 and drawn.max() <= 999
    assert (drawn // 125 == torch.arange(8)).all()
    counts = torch.bincount(drawn.flatten() // 25, minlength=40).double()
    assert counts.min() > 600 and counts.max() < 1000  # 800 each, standard deviation below 28
    assert inversion.stratified_timesteps(1, 1, random).tolist() == [0]


def test_adam_equals_torch() -> None:
    value = rand(3, 5).requires_grad_()
    ours, first, second = value.detach().clone(), torch.zeros(3, 5), torch.zeros(3, 5)
    adam = torch.optim.Adam([value], lr=3e-3)
    for step in range(1, 8):
        gradient = rand(3, 5, seed=step)
        value.grad = gradient.clone()
        adam.step()
        ours, first, second = inversion.adam_step(ours, gradient, first, second, step, 3e-3)
        assert torch.allclose(ours, value.detach(), atol=1e-6)


def test_small_parts() -> None:
    assert torch.allclose(
        inversion.with_lengths(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), torch.tensor([10.0, 1.0])),
        torch.tensor([[6.0, 8.0], [0.0, 1.0]]),
    )
    assert inversion.shares(10, 4) == [3, 3, 2, 2] and inversion.shares(2, 3) == [1, 1, 0]
    assert torch.allclose(inversion.relative_error(torch.zeros(2, 1, 2, 2), torch.ones(2, 1, 2, 2)), torch.ones(2))
