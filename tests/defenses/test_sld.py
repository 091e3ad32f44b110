"""SLD's port: momentum by row, reset by batch, the third pass left out only where that is exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from genward.core import Call, Case, Concept, Frame, Sampler
from genward.defenses.sld import SafeLatentDiffusion
from genward.errors import Inapplicable
from genward.models.sd import StableDiffusion
from genward.ops.sld import sld_step
from genward.testing import EXAMPLES

MakeFrame = Callable[..., Frame]


def noise(step: int, role: int, cases: list[int]) -> Tensor:
    """Scripted predictions that depend on step, branch and case alone."""
    return torch.stack(
        [
            0.05
            * torch.randn(
                2, 2, 2, generator=torch.Generator().manual_seed(1000 * step + 10 * c + role), dtype=torch.float64
            )
            for c in cases
        ]
    )


def alone(defense: SafeLatentDiffusion, case: int, steps: int) -> list[Tensor]:
    """The rule for one row, by itself."""
    v, out = torch.zeros(1, 2, 2, 2, dtype=torch.float64), []
    for k in range(steps):
        n, v = sld_step(*(noise(k, r, [case]) for r in range(3)), v, k, guidance=7.5, **defense.settings._asdict())
        out.append(n[0])
    return out


def drive(
    defense: SafeLatentDiffusion,
    rig: Any,
    frame: MakeFrame,
    alive: Callable[[int], list[int]],
    steps: int,
    at: dict[str, int],
) -> dict[int, list[Tensor]]:
    fn = rig.attached["guidance"]
    out: dict[int, list[Tensor]] = {}
    for k in range(steps):
        cases = alive(k)
        at["step"] = k
        call = Call(
            torch.zeros(len(cases), 2, 2, 2, dtype=torch.float64),
            torch.full((len(cases),), 500),
            torch.zeros(len(cases), 2, 3, dtype=torch.float64),
        )
        rig.cases = cases
        for c, n in zip(cases, fn(noise(k, 0, cases), noise(k, 1, cases), call, frame(k, cases)), strict=True):
            out.setdefault(c, []).append(n)
    return out


@pytest.mark.parametrize("preset", ["weak", "medium", "strong", "max"])
def test_rows_keep_their_momentum_when_others_are_dropped(preset: str, fake_rig: Any, frame: MakeFrame) -> None:
    at = {"step": 0}
    rig = fake_rig(lambda call: noise(at["step"], 2, rig.cases))
    defense = SafeLatentDiffusion(preset=preset)
    defense.attach(rig)
    alive = lambda k: [0, 1, 2] if k < 4 else ([0, 2] if k < 16 else [2])  # noqa: E731
    for _ in range(2):  # a second batch on the same rig starts with fresh momentum
        got = drive(defense, rig, frame, alive, 20, at)
        for case, outputs in got.items():
            assert all(
                torch.allclose(a, b, atol=1e-14) for a, b in zip(outputs, alone(defense, case, 20), strict=False)
            )
    assert rig.encoded == [defense.text], "the safety text is encoded once"
    assert all(bool((c.text == 7.0).all()) and len(c.text) == len(c.latents) for c in rig.predicted)
    skipped = 15 if preset == "weak" else 0
    assert len(rig.predicted) == 2 * (20 - skipped), (
        "the third pass is left out in warm-up only where the momentum scale is 0"
    )


def test_off_costs_nothing_and_guidance_one_is_refused(fake_rig: Any, frame: MakeFrame) -> None:
    rig = fake_rig()
    SafeLatentDiffusion(scale=0.0).attach(rig)
    e0, ep = noise(0, 0, [0]), noise(0, 1, [0])
    call = Call(e0, torch.tensor([500]), torch.zeros(1, 2, 3))
    assert torch.equal(rig.attached["guidance"](e0, ep, call, frame(0, [0])), e0 + 7.5 * (ep - e0))
    assert not rig.predicted and not rig.encoded
    with pytest.raises(Inapplicable, match="guidance above 1"):
        rig.attached["guidance"](None, ep, call, frame(0, [0]))


def test_passes_and_survivors_on_the_real_rig(model: StableDiffusion) -> None:
    cases = [Case(str(k), f"a cat {k}", seed=k) for k in range(4)]
    sampler = Sampler(steps=10, guidance=5.0)
    defense = SafeLatentDiffusion(preset="strong", text="a dog")
    whole = model.generate(cases, sampler, [defense], keep_latents=True)
    part = model.generate(cases, sampler, [defense, EXAMPLES["example-block"](step=3)], keep_latents=True)
    assert [s.status for s in part] == ["ok", "refused", "ok", "refused"]
    for a, b in zip(whole, part, strict=True):
        if b.status == "ok":
            assert torch.allclose(a.latents, b.latents, atol=1e-4)
    assert {s.nfe for s in whole} == {30}
    weak = model.generate(cases, sampler, [SafeLatentDiffusion(preset="weak", text="a dog")])
    assert {s.nfe for s in weak} == {27}, "15 of 50 steps of warm-up are 3 of 10"


def test_settings_override_the_preset(concept: Concept) -> None:
    defense = SafeLatentDiffusion.for_concept(concept, preset="max", scale=20.0)
    assert defense.settings == (0, 20.0, 1.0, 0.5, 0.7) and defense.text == "a saw, an axe, a small saw, a hatchet"
