"""Reading states of a generation: the right rows at the right steps, and pictures as if nothing were read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from genward.core import Case, Sampler
from genward.errors import BadInput, UnknownName
from genward.ops.activations import collect, pooled, stop_step
from genward.ops.asking import judged
from genward.testing import FakeJudge, tiny_sd
from genward.testing.suites import CASES, same

SITE = "mid_block.attentions.0.tb.0"


@pytest.mark.parametrize(
    ("step", "steps", "index"),
    [(0.08, 50, 3), (0.08, 20, 1), (0.1, 30, 2), (0.0, 20, 0), (0.99, 20, 19), (1, 20, 1), (19, 20, 19), (0.5, 1, 0)],
)
def test_stop_step(step: float, steps: int, index: int) -> None:
    assert stop_step(step, steps) == index


def test_a_step_beyond_the_loop_is_refused() -> None:
    with pytest.raises(BadInput, match="loop of 20"):
        stop_step(20, 20)


def test_pooled_averages_a_grid() -> None:
    x = torch.arange(2 * 16 * 3, dtype=torch.float64).reshape(2, 16, 3)
    small = pooled(x, 2)
    for row in range(2):
        for place in range(4):
            y, z = divmod(place, 2)
            mine = [x[row, (2 * y + a) * 4 + 2 * z + b] for a in (0, 1) for b in (0, 1)]
            assert torch.allclose(small[row, place], torch.stack(mine).mean(0))
    assert pooled(x, 0) is x and pooled(x, 4) is x
    with pytest.raises(BadInput, match="no square"):
        pooled(x[:, :15], 2)


def test_states_are_those_of_the_loop() -> None:
    model = tiny_sd()
    sampler = Sampler(4, 3.0)
    seen: dict[int, Tensor] = {}

    @dataclass(frozen=True)
    class Watch:
        name: ClassVar[str] = "watch"

        def attach(self, rig: Any) -> None:
            rig.latents(lambda z, frame: seen.setdefault(frame.step, z.clone()))

    plain = model.generate(CASES, sampler, [Watch()])
    found = collect(model, CASES, sampler, sites=[SITE], parts=("latents", "text", "noise"), steps=(0, 2))
    assert same(plain, found.samples), "reading changes no picture"
    assert torch.allclose(found.states["latents"][:, 1].float(), seen[2], atol=5e-3)
    assert torch.allclose(found.states["text"].float(), model.encode([c.prompt for c in CASES]), atol=5e-3)
    assert found.states[SITE].shape == (3, 2, 16, 16) and found.states["noise"].shape == (3, 2, 4, 8, 8)
    assert found.states[SITE].dtype == torch.float16 and found.timesteps.tolist() == [751, 251]
    parted = collect(model, CASES, sampler, sites=[SITE], steps=(2,), batch=2)
    assert torch.allclose(parted.states[SITE][:, 0].float(), found.states[SITE][:, 1].float(), atol=2e-2)


def test_bad_requests() -> None:
    model = tiny_sd()
    with pytest.raises(UnknownName, match="mid_block"):
        collect(model, CASES, Sampler(2), sites=["mid_bloc"])
    with pytest.raises(BadInput, match="parts colors"):
        collect(model, CASES, Sampler(2), parts=("colors",))
    with pytest.raises(BadInput, match="loop of 2"):
        collect(model, CASES, Sampler(2), steps=(7,))


def test_judged_knows_what_it_could_not_say() -> None:
    samples = tiny_sd().generate(CASES, Sampler(2))
    samples[1].output = None
    truth = judged(FakeJudge(threshold=0.0), samples, ["bright"])
    assert truth[0, 0] == truth[2, 0] == 1 and bool(torch.isnan(truth[1, 0]))
    assert judged(FakeJudge(threshold=0.99), samples, ["bright"])[0, 0] == 0
    told = {s.sample: s.value for s in FakeJudge().judge(samples)}
    assert judged(FakeJudge(threshold=told[samples[0].id]), samples, ["bright"])[0, 0] == 1, (
        "a score at its threshold shows the label"
    )
    assert judged(FakeJudge(threshold=float(np.nextafter(told[samples[0].id], 2))), samples, ["bright"])[0, 0] == 0
    with pytest.raises(BadInput, match="says nothing about dark"):
        judged(FakeJudge(), samples, ["dark"])


def test_rows_ended_by_another_defense_are_nan() -> None:
    @dataclass(frozen=True)
    class End:
        name: ClassVar[str] = "end"

        def attach(self, rig: Any) -> None:
            def fn(call: Any, frame: Any) -> Any:
                if frame.step == 0:
                    rig.block(frame, frame.case == 1, "as an example")
                return call

            rig.inputs(fn)

    found = collect(
        tiny_sd(), [*CASES, Case("x", "a cup")], Sampler(3), parts=("latents",), steps=(1,), defenses=[End()]
    )
    assert torch.isnan(found.states["latents"]).flatten(1).any(1).tolist() == [False, True, False, False]
