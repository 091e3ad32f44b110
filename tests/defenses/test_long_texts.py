"""Texts of defenses that are longer than the encoder reads at once reach the denoiser whole; nothing that genward ships
is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from genward.catalog import plugins
from genward.catalog.opening import open_model
from genward.core import Call, Case, Frame, Sampler
from genward.core.contracts import Rig
from genward.core.records import concept_names, load_concept
from genward.defenses.negative_prompt import NegativePrompt
from genward.defenses.sld import SafeLatentDiffusion
from genward.models.sd import StableDiffusion
from genward.ops.phrases import windows
from genward.run.plan import ArmPlan, Plan, plan_cases
from genward.testing.suites import CASES

LONG = ", ".join(f"thing number {k}" for k in range(40))


class Watch:
    """Keeps every denoiser call as the defenses before it left it."""

    name = "watch"

    def __init__(self, calls: list[tuple[Call, Frame]]) -> None:
        self.calls = calls

    def attach(self, rig: Rig) -> None:
        def fn(call: Call, frame: Frame) -> Call:
            self.calls.append((call, frame))
            return call

        rig.inputs(fn)


def test_a_long_negative_prompt_is_seen_whole(model: StableDiffusion) -> None:
    defense, sampler = NegativePrompt(text=LONG), Sampler(steps=3, guidance=3.0)
    parts = windows(LONG, model.fits)
    assert len(parts) > 1 and all(map(model.fits, parts)) and ", ".join(parts) == LONG
    states, calls = model.encode(parts).flatten(0, 1), []
    with model.rig([defense, Watch(calls)]) as rig:
        made = model.generate(CASES, sampler, rig=rig, keep_latents=True)
    assert {s.nfe for s in made} == {6}, "no extra pass"
    for call, frame in calls:
        uncond, cond = call.text[~frame.conditional], call.text[frame.conditional]
        assert all(bool((row == states).all()) for row in uncond)
        once = model.encode([c.prompt for c in CASES])
        assert bool((cond == once.repeat(1, len(parts), 1)).all())
    cut = model.generate([c._replace(negative=parts[0]) for c in CASES], sampler, keep_latents=True)
    assert not all(torch.equal(a.latents, b.latents) for a, b in zip(made, cut, strict=True))


def test_repeated_states_leave_a_prediction_as_it_is(model: StableDiffusion) -> None:
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    text = model.encode(["a cat", "a dog"])
    once = model.predict(Call(latents, torch.tensor([500, 100]), text))
    thrice = model.predict(Call(latents, torch.tensor([500, 100]), text.repeat(1, 3, 1)))
    torch.testing.assert_close(thrice, once, rtol=1e-4, atol=1e-5)


def test_a_long_safety_text_is_seen_whole(model: StableDiffusion) -> None:
    seen: list[Tensor] = []
    defense = SafeLatentDiffusion(text=LONG, preset="max")
    with model.rig([defense]) as rig:
        plain = rig.predict
        rig.predict = lambda call, **how: (seen.append(call.text), plain(call, **how))[1]  # type: ignore[method-assign,func-returns-value]
        model.generate(CASES, Sampler(steps=2, guidance=3.0), rig=rig)
    states = model.encode(windows(LONG, model.fits)).flatten(0, 1)
    assert seen and all(bool((row == states).all()) for text in seen for row in text)


@pytest.fixture(scope="module")
def lab() -> StableDiffusion:
    return open_model("lab", "cpu")


@pytest.mark.parametrize("name", concept_names())
def test_no_text_of_a_concept_is_cut(lab: StableDiffusion, name: str) -> None:
    concept = load_concept(name)
    own = (*concept.phrases, *concept.heldout, *concept.descriptions, *concept.keep, *concept.anchors, *concept.prompts)
    assert [text for text in own if not lab.fits(text)] == []
    for defense in (NegativePrompt.for_concept(concept), SafeLatentDiffusion.for_concept(concept)):
        parts = windows(defense.text, lab.fits)
        assert all(map(lab.fits, parts)) and ", ".join(parts) == defense.text


@pytest.mark.parametrize("benchmark", ["erasure", "m-erasure", "guards"])
def test_no_row_of_a_benchmark_is_cut(lab: StableDiffusion, benchmark: str) -> None:
    rows = plugins.find("benchmark", benchmark)(tuple(concept_names()), n=40)
    plan = Plan("rows", (ArmPlan("base", control="base"),), rows)
    cases = plan_cases(plan)
    assert len(cases) > 1000
    assert [case.prompt for case in cases if not lab.fits(case.prompt)] == []


@pytest.mark.parametrize("text", ["sld:weapons", "negative_prompt:weapons", "sld"])
def test_nobody_is_told_of_a_cut(
    lab: StableDiffusion, text: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from genward.catalog.fitting import parse_defense, template

    (request,) = parse_defense(text)
    lab.generate([Case("a", "a cat in noto style")], Sampler(steps=2), [template(request)])
    assert capfd.readouterr() == ("", "") and caplog.text == ""
