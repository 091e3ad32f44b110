"""Parts of ``speed.py`` on erasure inside the network: the sparse edit of a sparse autoencoder against its dense form,
its training against a plain loop, and what ActErase and SafePatch add to a picture.

Both sides of a ratio do the same work in turns, and equality of what they give is checked first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from genward.core import Case, Sampler, load_concept
from genward.defenses.acterase import ActErase
from genward.defenses.safepatch import SafePatch
from genward.ops.tools import QUIET
from genward.sae.autoencoder import Sae, decode, edited, encode
from genward.sae.training import Maps, Training, tangent, train, unit_rows

WIDTH, PLACES, ROWS, K = 128, 64, 72, 32
"""Of the lab's default site: channels, places of a map, rows of a batch of 36 pictures under guidance."""
SHARE = 0.05
"""Share of the tokens that an edit touches: an object covers some of a picture, in half of the rows."""


def some_sae(expansion: int, seed: int = 0) -> Sae:
    """Random weights: what an edit costs does not depend on them, only on how many tokens it touches."""
    draw = torch.Generator().manual_seed(seed)
    encoder = unit_rows(torch.randn(expansion * WIDTH, WIDTH, generator=draw))
    return Sae(encoder, torch.zeros(len(encoder)), encoder.clone(), torch.zeros(WIDTH), K)


def dense(x: Tensor, sae: Sae, latents: Tensor, floor: Tensor, factor: float) -> Tensor:
    """The same edit as a script writes it: every token encoded, edited and decoded, the error added again."""
    code = encode(x, sae)
    changed = code.clone()
    mine = code[:, latents]
    changed[:, latents] = torch.where(mine > floor, factor * mine, mine)
    return decode(changed, sae) + (x - decode(code, sae))


def part_sae_edit(_: Any, timed: Any) -> dict[str, Any]:
    """One call of a step: ``ROWS`` maps of ``PLACES`` tokens, one latent turned."""
    out: dict[str, Any] = {"tokens": ROWS * PLACES, "width": WIDTH, "k": K}
    for expansion in (16, 64):
        sae = some_sae(expansion)
        x = torch.randn(ROWS * PLACES, WIDTH, generator=torch.Generator().manual_seed(1))
        latents = torch.tensor([7])
        code = encode(x, sae)[:, latents]
        floor = torch.quantile(code, 1 - SHARE, dim=0).clamp_min(1e-6)
        factor = torch.full((1,), -10.0)
        with torch.no_grad():
            gap = float((edited(x, sae, latents, floor, factor) - dense(x, sae, latents, floor, -10.0)).abs().max())
            sparse, plain = timed(
                lambda a=(x, sae, latents, floor, factor): edited(*a),
                lambda a=(x, sae, latents, floor): dense(*a, -10.0),
                15,
            )
        out[f"expansion_{expansion}"] = {
            "touched": float((code > floor).float().mean()), "largest_difference": gap, "sparse_ms": 1e3 * sparse,
            "dense_ms": 1e3 * plain, "ratio": plain / sparse,
        }  # fmt: skip
    return out


def plain_training(batches: list[Maps], sae: Sae, lr: float) -> None:
    """A dense loop with autograd: TopK per token by a mask, the whole code decoded, Adam, unit rows."""
    weights = [torch.nn.Parameter(t.clone()) for t in sae[:4]]
    adam = torch.optim.Adam(weights, lr=lr)
    for maps in batches:
        x = maps.x.flatten(0, 1)
        values = ((x - weights[3]) @ weights[0].T + weights[1]).relu()
        least = values.topk(K, dim=1).values[:, -1:]
        back = (values * (values >= least)) @ weights[2] + weights[3]
        loss = (x - back).square().sum() / (x - x.mean(0)).square().sum()
        adam.zero_grad()
        loss.backward()
        weights[2].grad = tangent(weights[2].grad, weights[2].detach())  # type: ignore[arg-type]
        adam.step()
        with torch.no_grad():
            weights[2].copy_(unit_rows(weights[2]))


def part_sae_training(_: Any, timed: Any) -> dict[str, Any]:
    """Steps of 4,096 tokens at expansion 16; genward's side counts dead latents and checks for what is not finite."""
    draw = torch.Generator().manual_seed(2)
    batches = [
        Maps(torch.randn(64, PLACES, WIDTH, generator=draw), torch.arange(64), torch.zeros(64)) for _ in range(6)
    ]
    sae = some_sae(16)
    plan = Training(latents=sae.latents, k=K, activation="topk", epochs=1, maps=64)
    sample = batches[0].x.flatten(0, 1)

    def epoch(_: int) -> Iterator[Maps]:
        return iter(batches)

    ours, plain = timed(
        lambda: train(epoch, sample, len(batches), plan, QUIET), lambda: plain_training(batches, sae, plan.lr)
    )
    tokens = len(batches) * 64 * PLACES
    return {"tokens": tokens, "tokens_per_second": tokens / ours, "plain": tokens / plain, "ratio": plain / ours}


def drawn(count: int) -> list[Case]:
    return [Case(f"edits-{k}", "a banana" if k % 2 else "a red apple", seed=k) for k in range(count)]


def part_acterase(model: Any, timed: Any, images: int = 36) -> dict[str, Any]:
    """What patching adds to a picture: the setting that acts on the lab, fitted on four pairs (its cost does not depend
    on their number)."""
    guard = ActErase(tau=0.2, average="timestep", pairs=4).fit(model, load_concept("banana"))
    rows, sampler = drawn(images), Sampler()
    patched, bare = timed(lambda: model.generate(rows, sampler, (guard,)), lambda: model.generate(rows, sampler), 5)
    return {"images": images, "seconds": patched, "bare_seconds": bare, "overhead": patched / bare - 1}


def part_safepatch(model: Any, timed: Any, images: int = 36) -> dict[str, Any]:
    """A picture with the patch against one without, and against diffusers' own pipeline with one ControlNet of the same
    shape. The patch is trained for one step: what it costs does not depend on that."""
    from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

    patch = SafePatch(steps=1, pairs=4, batch=4, judged=False).fit(model, load_concept("banana"))
    rows, sampler = drawn(images), Sampler()
    pipe = model.pipe
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(16, 32, 96)).eval()
    stock = StableDiffusionControlNetPipeline(**pipe.components, controlnet=net, requires_safety_checker=False)
    stock.set_progress_bar_config(disable=True)
    hint = torch.zeros(images, 3, 64, 64)
    prompts = [c.prompt for c in rows]

    def controlled() -> Any:
        return stock(
            prompts, image=hint, num_inference_steps=sampler.steps, guidance_scale=sampler.guidance
        ).images  # fmt: skip

    patched, bare = timed(lambda: model.generate(rows, sampler, (patch,)), lambda: model.generate(rows, sampler))
    again, control = timed(lambda: model.generate(rows, sampler, (patch,)), controlled)
    half = replace(patch, halves="conditional")
    cheap, _ = timed(lambda: model.generate(rows, sampler, (half,)), lambda: None)
    return {
        "images": images, "over_bare": patched / bare, "over_controlnet": again / control,
        "conditional_half_over_bare": cheap / bare,
    }  # fmt: skip
