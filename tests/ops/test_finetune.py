"""The parts of fine-tuning against slow forms: partial sampling row by row, noising, packed differences, the checked
loop."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from genward.errors import BadArtifact, BadInput, GenwardError
from genward.ops import finetune
from genward.ops.tools import Tools

CONFIG: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}


def toy(latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
    """A denoiser that depends on all it is given, row by row."""
    return torch.tanh(latents * 0.7 + text.mean((1, 2)).view(-1, 1, 1, 1)) + timestep.view(-1, 1, 1, 1) / 2000


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize(
    "source", [DDIMScheduler(clip_sample=False, **CONFIG), PNDMScheduler(skip_prk_steps=True, **CONFIG)]
)
def test_partial_sampling_equals_single_rows(source: Any, guidance: float) -> None:
    g = torch.Generator().manual_seed(0)
    start, cond, empty = (
        torch.randn(*s, generator=g, dtype=torch.float64) for s in ((5, 2, 3, 3), (5, 4, 6), (1, 4, 6))
    )
    counts = torch.tensor([0, 7, 3, 3, 1])
    before = dict(source.config)
    scheduler = finetune.ddim_scheduler(source, 8)
    got, when = finetune.partial_sample(toy, scheduler, start, counts, cond, empty, guidance)
    assert dict(source.config) == before and when.tolist() == scheduler.timesteps[counts].tolist()
    alphas, times = source.alphas_cumprod.double(), scheduler.timesteps.tolist()
    for row in range(5):
        x = start[row : row + 1]
        for k in range(int(counts[row])):
            t = torch.tensor([times[k]])
            e = toy(x, t, cond[row : row + 1])
            if guidance > 1:
                e0 = toy(x, t, empty)
                e = e0 + guidance * (e - e0)
            a, b = alphas[times[k]], alphas[max(0, times[k] - 1000 // 8)]
            x = b.sqrt() * (x - (1 - a).sqrt() * e) / a.sqrt() + (1 - b).sqrt() * e
        assert torch.allclose(got[row], x[0], atol=1e-6), f"row {row}"


def test_noise_and_targets() -> None:
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(3, 2, 2, 2, generator=g, dtype=torch.float64) for _ in range(2))
    t, alphas = torch.tensor([0, 500, 999]), torch.linspace(0.99, 0.01, 1000, dtype=torch.float64)
    x = finetune.add_noise(clean, noise, t, alphas)
    for k, step in enumerate(t.tolist()):
        a = float(alphas[step])
        assert torch.allclose(x[k], math.sqrt(a) * clean[k] + math.sqrt(1 - a) * noise[k])
        v = finetune.training_target(clean, noise, t, alphas, "v_prediction")[k]
        assert torch.allclose(v, math.sqrt(a) * noise[k] - math.sqrt(1 - a) * clean[k])
    assert finetune.training_target(clean, noise, t, alphas) is noise
    with pytest.raises(BadInput, match="sample"):
        finetune.training_target(clean, noise, t, alphas, "sample")


def test_packed_differences_are_close_small_and_repeatable() -> None:
    g = torch.Generator().manual_seed(0)
    old = {"w": torch.randn(50, 40, generator=g) * 0.05}
    step = torch.randn(50, 40, generator=g) * 1e-3
    packed = finetune.pack_deltas({"w": old["w"] + step}, old)["w"]
    true = (old["w"] + step).double() - old["w"].double()
    assert packed.dtype == torch.float16
    rounding = ((packed.double() / finetune.DELTA_SCALE - true).abs() / true.abs().clamp_min(6e-8)).max()
    assert float(rounding) <= 2**-11
    once = finetune.apply_delta(old["w"], packed)
    assert torch.equal(once, finetune.apply_delta(old["w"], packed.clone())) and once.dtype == torch.float32
    assert finetune.apply_delta(old["w"], packed, 0.0) is old["w"]
    assert finetune.apply_delta(old["w"].double(), packed, 0.5).dtype == torch.float64
    assert finetune.apply_delta(old["w"].half(), packed).dtype == torch.float32
    with pytest.raises(BadArtifact, match="another model"):
        finetune.apply_delta(old["w"][:3], packed)
    for wild in (100.0, float("nan")):
        with pytest.raises(GenwardError, match="lower the learning rate"):
            finetune.pack_deltas({"w": old["w"] + wild}, old)


def test_optimize_stops_at_a_loss_that_is_not_finite() -> None:
    p = torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    told: list[tuple[int, int, float]] = []
    losses = finetune.optimize(
        [p, frozen],
        lambda k: (p * p).sum(),
        steps=3,
        lr=0.1,
        who="me",
        random=torch.Generator(),
        tools=Tools(progress=lambda *a: told.append(a)),
    )
    assert (
        losses == sorted(losses, reverse=True)
        and [t[:2] for t in told] == [(1, 3), (2, 3), (3, 3)]
        and told[0][2] == losses[0] == 2.0
    )
    with pytest.raises(GenwardError, match="me: loss nan at step 2 of 5; lower lr") as caught:
        finetune.optimize(
            [p],
            lambda k: (p * (float("nan") if k == 1 else 1.0)).sum(),
            steps=5,
            lr=0.1,
            who="me",
            random=torch.Generator(),
            tools=Tools(),
        )
    assert isinstance(caught.value.__cause__, FloatingPointError)
