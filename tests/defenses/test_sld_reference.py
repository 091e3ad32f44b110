"""Final latents of SLD against diffusers' own (deprecated) pipeline, in float64 on an encoder without mask."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

from genward.core import Sampler, Spec
from genward.defenses.sld import SafeLatentDiffusion
from genward.models.sd import StableDiffusion
from genward.ops.phrases import HARM_WORDS, windows
from genward.ops.sld import warmup_steps
from genward.testing import tiny_pipeline
from genward.testing.suites import CASES

STEPS = 10


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe = tiny_pipeline()
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        part.double()
    return pipe


def theirs(pipe: Any, defense: SafeLatentDiffusion, starts: torch.Tensor) -> torch.Tensor:
    """The deprecated pipeline's final latents, caught from its callback (it decodes whatever output is asked for)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

        parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
        safe = StableDiffusionPipelineSafe(**parts, requires_safety_checker=False)
        safe.set_progress_bar_config(disable=True)
        safe.safety_concept = defense.text
        s = defense.settings
        last: list[torch.Tensor] = []
        safe(
            [c.prompt for c in CASES],
            num_inference_steps=STEPS,
            guidance_scale=7.5,
            latents=starts,
            output_type="np",
            callback=lambda i, t, latents: last.append(latents.clone()),
            sld_guidance_scale=s.scale,
            sld_warmup_steps=warmup_steps(s.warmup, STEPS),
            sld_threshold=s.threshold,
            sld_momentum_scale=s.momentum_scale,
            sld_mom_beta=s.momentum_beta,
        )
    assert len(last) == STEPS
    return last[-1]


@pytest.mark.parametrize(
    ("preset", "fields"), [("weak", {}), ("weak", {"scale": 20.0}), ("medium", {}), ("strong", {}), ("max", {})]
)
def test_final_latents(pipe: Any, preset: str, fields: dict[str, float]) -> None:
    model = StableDiffusion(pipe, Spec("model", "tiny-sd", {"dtype": "float64"}))
    first = windows(HARM_WORDS, model.fits)[0]  # the deprecated pipeline cuts what is longer than its encoder reads
    defense = SafeLatentDiffusion(preset=preset, text=first, **fields)
    sampler = Sampler(steps=STEPS, guidance=7.5)
    ours = torch.stack([s.latents for s in model.generate(CASES, sampler, [defense], keep_latents=True)])
    base = torch.stack([s.latents for s in model.generate(CASES, sampler, keep_latents=True)])
    starts = torch.stack(
        [torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(c.seed)).double() for c in CASES]
    )
    reference = theirs(pipe, defense, starts)
    assert ours.dtype == reference.dtype == torch.float64
    assert float((ours - reference).abs().max()) <= 1e-6
    assert float((base - reference).abs().max()) > 1e-3, "the comparison would see a guard that does nothing"


def test_presets_are_the_published_ones() -> None:
    from diffusers.pipelines.deprecated.stable_diffusion_safe import SafetyConfig

    for preset, fields in (("weak", {"scale": 20.0}), ("medium", {}), ("strong", {}), ("max", {})):
        s = SafeLatentDiffusion(preset=preset, **fields).settings
        known = getattr(SafetyConfig, preset.upper())
        assert tuple(s) == tuple(
            known[f"sld_{k}"] for k in ("warmup_steps", "guidance_scale", "threshold", "momentum_scale", "mom_beta")
        )


def test_the_default_text_is_theirs_but_for_a_word(pipe: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

        parts = {k: v for k, v in pipe.components.items() if k != "image_encoder"}
        theirs = StableDiffusionPipelineSafe(**parts, requires_safety_checker=False).safety_concept
        assert re.sub(r"\w+ abuse", "abuse", theirs) == SafeLatentDiffusion().text, "one word of theirs is left out"
