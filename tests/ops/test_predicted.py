"""Predicted noise read in passing: the U-Net's own output bit for bit, at no row of its own; x0 against float64."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from genward.core import Call, Case, Frame, Sampler
from genward.errors import BadInput, GuardError, Inapplicable
from genward.models.sd import StableDiffusion
from genward.ops import predicted
from genward.ops.activations import record
from genward.testing import tiny_sd
from genward.testing.suites import CASES, same

SAMPLER = Sampler(4, 3.0)


@pytest.fixture(scope="module", params=[False, True], ids=["shallow", "deep"])
def model(request: pytest.FixtureRequest) -> StableDiffusion:
    return tiny_sd(deep=request.param)


@dataclass
class Watcher:
    """Keeps what it sees, and what the ``guidance`` port is given in the same calls."""

    name: ClassVar[str] = "watcher"
    step: int
    seen: list[predicted.Seen] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)

    def attach(self, rig: Any) -> None:
        predicted.watch(rig, lambda frame: frame.step == self.step, self.seen.append)

        def guide(uncond: Any, cond: Any, call: Call, frame: Frame) -> Any:
            if frame.step == self.step:
                self.told.append((uncond, cond, call.latents, frame))
            return cond if uncond is None else uncond + frame.guidance * (cond - uncond)

        rig.guidance(guide)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_it_is_the_denoisers_own_output_and_costs_nothing(model: StableDiffusion, guidance: float) -> None:
    watcher, sampler = Watcher(2), Sampler(4, guidance)
    samples = model.generate(CASES, sampler, [watcher])
    (seen,), ((uncond, cond, latents, frame),) = watcher.seen, watcher.told
    assert (
        torch.equal(seen.cond, cond) and torch.equal(seen.latents, latents) and torch.equal(seen.frame.case, frame.case)
    )
    assert (seen.uncond is None and uncond is None) if guidance == 1 else torch.equal(seen.uncond, uncond)  # type: ignore[arg-type]
    assert torch.equal(seen.guided, cond if uncond is None else uncond + guidance * (cond - uncond))
    assert same(samples, model.generate(CASES, sampler)) and {s.nfe for s in samples} == {4 if guidance == 1 else 8}
    assert (
        seen.frame.timestep is not None
        and len(seen.frame.timestep) == len(seen.frame.conditional) == 3
        and bool(seen.frame.conditional.all())
    )


def test_parts_and_what_they_refuse(model: StableDiffusion) -> None:
    watcher = Watcher(0)
    model.generate(CASES, SAMPLER, [watcher])
    seen = watcher.seen[0]
    assert seen.uncond is not None and torch.equal(seen.part("direction"), seen.cond - seen.uncond)
    assert torch.equal(seen.part("noise"), seen.cond) and torch.equal(seen.part("latents"), seen.latents)
    both = predicted.features(seen, ("noise", "latents"), 4)
    assert both.shape == (3, 2 * 4 * 16)
    slow = seen.cond.double().numpy().reshape(3, 4, 4, 2, 4, 2).mean((3, 5)).reshape(3, -1)  # 8×8 to 4×4, by hand
    np.testing.assert_allclose(both[:, :64].numpy(), slow, atol=1e-6)
    assert torch.equal(predicted.pooled(seen.cond, 0), seen.cond.flatten(1)) and torch.equal(
        predicted.pooled(seen.cond, 8), seen.cond.flatten(1)
    )
    with pytest.raises(Inapplicable, match="reads?|guidance"):
        seen._replace(uncond=None).part("direction")
    with pytest.raises(GuardError, match="no model"):
        predicted.watch(object(), lambda frame: True, lambda seen: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", predicted.KINDS)
def test_x0_equals_the_slow_form(kind: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(5, 4, 8, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    alpha = torch.tensor([0.999, 0.7, 0.3, 0.05, 0.01], dtype=torch.float64)
    noisy, out = torch.empty_like(x0), torch.empty_like(x0)
    for k, a in enumerate(alpha.tolist()):
        noisy[k] = a**0.5 * x0[k] + (1 - a) ** 0.5 * noise[k]
        out[k] = {"epsilon": noise[k], "v_prediction": a**0.5 * noise[k] - (1 - a) ** 0.5 * x0[k], "sample": x0[k]}[
            kind
        ]
    found = predicted.clean_latents(noisy.float(), out.float(), alpha, kind)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), x0.numpy(), atol=2e-5)
    with pytest.raises(BadInput, match="flow"):
        predicted.clean_latents(noisy, out, alpha, "flow_prediction")


def test_x0_is_the_samplers_own(model: StableDiffusion) -> None:
    """DDIM's step states its x0; ours is the same number, from the same call."""
    from diffusers import DDIMScheduler

    watcher = Watcher(1)
    model.generate(CASES, SAMPLER, [watcher])
    seen = watcher.seen[0]
    assert seen.frame.timestep is not None
    scheduler = DDIMScheduler.from_config(model.pipe.scheduler.config)
    scheduler.set_timesteps(4)
    wanted = scheduler.step(seen.guided, int(seen.frame.timestep[0]), seen.latents).pred_original_sample
    found = predicted.clean_latents(seen.latents, seen.guided, predicted.levels(model, seen.frame.timestep))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)
    assert torch.equal(predicted.levels(model, torch.tensor([500.4, 1200.0])), model.alphas_cumprod[[500, 999]].float())


def test_a_recording_stops_where_it_is_told_to(model: StableDiffusion) -> None:
    cases = [Case(f"c{k}", p, seed=k) for k, p in enumerate(("a cat", "a dog", "a key", "a cup", "a saw"))]
    told: list[int] = []
    spent = []

    def read(part: Any, source: predicted.Features, step: float, batch: int = 32) -> Any:
        return record(
            model, part, SAMPLER, [source], steps=(step,), in_memory=True, keep_samples=True, batch=batch,
            progress=lambda done, whole: told.append(done),
        )  # fmt: skip

    for stop in (True, False):
        rows = read(cases, predicted.Features(("direction",), 4, stop), 0.5, 2)
        found = rows.dense("features")[:, 0]
        assert found.shape == (5, 64) and found.dtype == torch.float32 and rows.timesteps("features").tolist() == [501]
        assert {s.status for s in rows.samples} == ({"refused"} if stop else {"ok"})
        assert {s.nfe for s in rows.samples} == {4 if stop else 8}
        spent.append(found)
    assert torch.equal(spent[0], spent[1]) and told == [2, 4, 5] * 2
    alone = read(cases[4:], predicted.Features(("direction",), 4, True), 1).dense("features")
    torch.testing.assert_close(alone[0, 0], spent[0][4], atol=1e-5, rtol=1e-4)
    with pytest.raises(BadInput, match="loop of 4"):
        read(cases, predicted.Features(("noise",), 4, True), 4)
