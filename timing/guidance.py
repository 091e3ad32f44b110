"""Part ``sld`` of ``speed.py``: Safe Latent Diffusion against diffusers' own pipeline for it, end to end, from prompts
to pictures.

The authors' rule needs a third prediction wherever momentum gathers, warm-up included: of their presets only ``weak``
has none, and only there, in warm-up, rows can be saved. ``rows`` says how many denoiser rows a picture costs; where
both sides need equally many, no implementation that keeps the rule is faster by more than what surrounds the
denoiser."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from speed import cases  # beside this file

from genward.core import Sampler
from genward.defenses.sld import SafeLatentDiffusion
from genward.ops.sld import warmup_steps

PARTS = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "safety_checker", "feature_extractor")


def safe_pipeline(model: Any, text: str) -> Any:
    """diffusers' deprecated pipeline on the model's parts, with that safety text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers.pipelines.deprecated.stable_diffusion_safe import StableDiffusionPipelineSafe

        pipe = StableDiffusionPipelineSafe(
            **{k: model.pipe.components[k] for k in PARTS}, requires_safety_checker=False
        )
    pipe.set_progress_bar_config(disable=True)
    pipe.safety_concept = text
    return pipe


def part_sld(
    model: Any,
    timed: Any,
    batch: int = 8,
    steps: int = 20,
    presets: tuple[str, ...] = ("weak", "medium"),
    repeats: int = 3,
) -> dict[str, Any]:
    """Seconds of a batch by both. That they draw the same is a test, on an encoder without mask: diffusers encodes the
    safety text without the mask that the lab's takes."""
    rows, sampler, out = cases(batch), Sampler(steps=steps), {}
    prompts = [c.prompt for c in rows]
    start = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(c.seed)) for c in rows])
    for preset in presets:
        guard = SafeLatentDiffusion(preset=preset, text="weapons, blood")  # both read it whole
        s, pipe = guard.settings, safe_pipeline(model, guard.text)
        first = warmup_steps(s.warmup, steps)

        def theirs(s: Any = s, pipe: Any = pipe, first: int = first) -> Any:
            return pipe(
                prompts, latents=start, num_inference_steps=steps, guidance_scale=sampler.guidance,
                sld_guidance_scale=s.scale, sld_warmup_steps=first, sld_threshold=s.threshold,
                sld_momentum_scale=s.momentum_scale, sld_mom_beta=s.momentum_beta,
            ).images  # fmt: skip

        def ours(guard: Any = guard) -> Any:
            return model.generate(rows, sampler, [guard], batch=batch)

        nfe = sum(sample.nfe for sample in ours()) / batch
        theirs()
        fast, slow = timed(ours, theirs, repeats)
        out[preset] = {"images": batch, "steps": steps, "seconds": fast, "diffusers_seconds": slow,
                       "ratio": slow / fast, "rows": nfe, "diffusers_rows": 3.0 * steps,
                       "rows_ratio": 3.0 * steps / nfe}  # fmt: skip
    return out
