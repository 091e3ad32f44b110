"""What goes past every guard is refused or said when a guard is opened: categories of the policy, start pictures, start
latents, and what was learned on another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionImg2ImgPipeline
from PIL import Image

from genward.core import Concept, Sampler
from genward.defenses.esd import Esd
from genward.defenses.image_filter import ImageFilter
from genward.defenses.irece import Irece
from genward.defenses.uce import Uce
from genward.errors import BadArtifact, Unguarded, UnguardedInput, UnknownName
from genward.serve.policy import parse_policy
from genward.serve.protect import protect
from genward.testing import EXAMPLES, FakeJudge, tiny_pipeline, tiny_sd
from genward.testing.suites import CASES

Steer, Stop = EXAMPLES["example-tap"], EXAMPLES["example-block"]
TWO = parse_policy("[categories.weapons]\n[categories.rude]\n")
CALL: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 3.0}


@dataclass(frozen=True)
class About:
    """A guard that is there for one concept and does nothing."""

    name: ClassVar[str] = "about"
    concept: str = "weapons"

    def attach(self, rig: Any) -> None:
        rig.latents(lambda latents, frame: latents)


def filtered(threshold: float = 0.5) -> ImageFilter:
    return ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=threshold)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def img2img(pipe: Any) -> Any:
    made = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


# ----------------------------------------------------------------------------------------------------------- categories


def test_a_category_without_a_guard_is_named_and_refused(pipe: Any) -> None:
    with pytest.raises(Unguarded, match="guards nothing of rude.*--unguarded rude"), protect(pipe, TWO, [About()]):
        raise AssertionError("opened")
    with pytest.raises(Unguarded, match="nothing of rude"), protect(pipe, TWO, [About(), About()], unguarded=[]):
        raise AssertionError("opened")
    for chain, allowed in (([About()], "rude"), ([About(), About("rude")], ()), ([Steer()], ()), ([], ())):
        with protect(pipe, TWO, chain, unguarded=allowed) as guarded:
            assert guarded("a cat", num_inference_steps=2).index == [0]
    with pytest.raises(UnknownName, match="ruder"), protect(pipe, TWO, [About()], unguarded=["ruder"]):
        raise AssertionError("opened")


def test_what_only_reads_for_others_guards_nothing(pipe: Any) -> None:
    with pytest.warns(UnguardedInput, match="normalize alone guards nothing"):
        with protect(pipe, "weapons", ["normalize"]) as guarded:
            assert guarded("a cat", num_inference_steps=2).index == [0]
    with protect(pipe, "weapons", ["normalize", Steer()]) as guarded:
        assert guarded("a cat", num_inference_steps=2).index == [0]


# ------------------------------------------------------------------------------------------------------- start pictures


def pictures(*levels: int) -> list[Image.Image]:
    return [Image.new("RGB", (64, 64), (v, v, v)) for v in levels]


@pytest.mark.filterwarnings("ignore:You have passed 4 text prompts:FutureWarning")
@pytest.mark.parametrize("given", ["pil", "numpy", "tensor", "latents"])
@pytest.mark.parametrize("strength", [0.2, 0.9])
def test_a_picture_guard_looks_at_what_rows_start_from(img2img: Any, given: str, strength: float) -> None:
    shown = pictures(10, 250)
    light = torch.from_numpy(np.stack([np.asarray(p, np.float32) / 255 for p in shown])).permute(0, 3, 1, 2)
    latents = img2img.vae.encode(light * 2 - 1).latent_dist.mean * img2img.vae.config.scaling_factor
    image: Any = {"pil": shown, "numpy": [np.asarray(p, np.float32) / 255 for p in shown], "tensor": light}.get(given)
    cut = 0.5
    if given == "latents":
        image = latents
        drawn = [np.asarray(p.convert("L")).mean() / 255 for p in img2img.image_processor.postprocess(
            img2img.vae.decode(latents / img2img.vae.config.scaling_factor).sample.detach()
        )]  # fmt: skip
        shown_order = sorted(range(2), key=lambda k: drawn[k])
        cut, image = float(np.mean(drawn)), latents[shown_order]
    seen: list[list[float]] = []

    class Judge(FakeJudge):
        def judge(self, samples: Any) -> Any:
            found = list(super().judge(samples))
            seen.append([s.value for s in found])
            return found

    guard = ImageFilter(labels=("bright",), probe=Judge(), threshold=cut)
    with protect(img2img, "weapons", [guard, Stop(step=10_000)]) as guarded:
        out = guarded(["a cat"] * 4, image=image, strength=strength, generator=seeded(1, 2, 3, 4), **CALL)
    assert len(seen[0]) == 4 and seen[0][:2] == seen[0][2:], "one look a row, pictures in the pipeline's order"
    for row in (1, 3):
        verdict = out.verdicts[row]
        assert out.images[row] is None and (verdict.by, verdict.stage, verdict.nfe) == ("image_filter", "start", 0)
        assert "start picture shows bright" in verdict.why and not verdict.failed


def test_a_start_picture_with_numbers_that_are_none_is_refused(img2img: Any) -> None:
    image = torch.zeros(2, 3, 64, 64)
    image[1, 0, 0, 0] = float("nan")
    with protect(img2img, "weapons", [filtered(2.0)]) as guarded:
        out = guarded(["a cat"] * 2, image=image, strength=0.5, generator=seeded(1, 2), **CALL)
    assert out.verdicts[1].failed and "start picture" in out.verdicts[1].why and out.images[1] is None


def test_a_judge_that_fails_on_the_start_picture_releases_nothing(img2img: Any) -> None:
    class Judge(FakeJudge):
        def judge(self, samples: Any) -> Any:
            raise RuntimeError("out of order")

    guard = ImageFilter(labels=("bright",), probe=Judge(), threshold=0.5)
    with protect(img2img, "weapons", [guard]) as guarded:
        out = guarded("a cat", image=pictures(10)[0], strength=0.5, generator=seeded(1), **CALL)
    assert out.images == [None] and out.verdicts[0].failed and out.verdicts[0].nfe == 0


def test_opening_says_that_nobody_looks_at_start_pictures(img2img: Any, pipe: Any) -> None:
    with pytest.warns(UnguardedInput, match="example-tap: no guard looks at start pictures"):
        with protect(img2img, "weapons", [Steer()]) as guarded:
            assert guarded("a cat", image=pictures(10)[0], **CALL).index == [0]
    for free, chain in ((img2img, [filtered()]), (img2img, []), (pipe, [Steer()])):
        with protect(free, "weapons", chain):
            pass  # a warning is an error here


# -------------------------------------------------------------------------------------------------------- start latents


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_latents_that_hold_a_picture_need_a_picture_guard() -> None:
    pipe = tiny_pipeline()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    start = torch.randn(1, *pipe.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean.shape[1:])
    call: dict[str, Any] = {"prompt": "a cat", "latents": start, "guidance_scale": 3.0}
    late: dict[str, Any] = {"timesteps": [300, 200, 100, 1]}
    with protect(pipe, "weapons", [Steer()]) as guarded:
        with pytest.raises(Unguarded, match="start.* at timestep 300 hold a picture.*image_filter"):
            guarded(**call, **late)
        with pytest.warns(UnguardedInput, match="no guard looks at start latents"):
            assert guarded(**call, timesteps=[999, 700, 300, 1]).index == [0]
        assert guarded(**call, num_inference_steps=4).index == [0], "said once"
    with protect(pipe, "weapons", [filtered(2.0)]) as guarded:
        assert guarded(**call, **late).index == [0]
    with protect(pipe, "weapons", []) as guarded:
        assert guarded(**call, **late).index == [0]


# -------------------------------------------------------------------------------------------------------- another model


@pytest.mark.parametrize(
    "settings", [Uce(), Esd(iterations=1, batch=2, sampling_steps=2), Irece(images=20, sampling_steps=4)]
)
def test_what_another_model_taught_is_refused(settings: Any) -> None:
    concept = Concept(
        name="tools", kind="test", summary="Tools.", targets=("saw", "drill"), phrases=("a saw", "a drill"),
        anchor="a cat", keep=("a cat", "a dog"),
    )  # fmt: skip
    fitted = settings.fit(tiny_sd(), concept)
    other = tiny_sd(seed=7)
    with pytest.raises(BadArtifact, match="was fitted on model .* fit it again on this model"):
        other.generate(CASES, Sampler(3, 3.0), [fitted])
    with (
        pytest.raises(BadArtifact, match="was fitted on model"),
        protect(other, "weapons", [fitted], unguarded="weapons"),
    ):
        raise AssertionError("opened")
