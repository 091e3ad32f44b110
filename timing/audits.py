"""What the detectors of ``genward audit`` say of clean derivatives of the lab and of its poisoned fixtures: the highest
score of each, the verdict, and the seconds it took. ``python timing/audits.py`` (about 15 minutes on one core);
``--size`` audits a Stable Diffusion 1.5 of random weights instead and prints its cost."""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from genward.audits import denoiser
from genward.audits._pair import THRESHOLD
from genward.catalog.auditing import audit
from genward.catalog.fitting import parse_defense, ready
from genward.catalog.opening import open_model
from genward.core.spec import Spec
from genward.models.sd import StableDiffusion
from genward.run.references import lab_references
from genward.testing.tiny import tiny_pipeline

FIXTURES = ("rickrolling", "personalization", "evil_edit")
EDITS = ("uce:weapons", "uce:banana", "uce:style-monotone", "esd:weapons", "esd:banana", "concept_ablation:banana")
STEPS, RATE, BATCH = 60, 1e-5, 8
LIMITS = (THRESHOLD, denoiser.THRESHOLD)


def pictures() -> tuple[list[Any], list[str]]:
    """The lab's reference pictures and their captions."""
    found = lab_references()
    return [image for *_, image in found], [f"a {thing} in {style} style" for thing, style, _ in found]


def tuned(part: str) -> Any:
    """The lab with its U-Net or text encoder trained further on honest pictures."""
    import numpy as np

    model = open_model("lab")
    images, captions = pictures()
    pixels = torch.stack([torch.from_numpy(np.asarray(i)).permute(2, 0, 1).float() / 127.5 - 1 for i in images])
    latents = model.encode_images(pixels)
    net = model.denoiser if part == "unet" else model.text_encoder
    net.requires_grad_(True)
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE)
    generator, rng = torch.Generator().manual_seed(0), random.Random(0)
    for _ in range(STEPS):
        rows = rng.sample(range(len(images)), BATCH)
        t = torch.randint(0, 1000, (BATCH,), generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        noisy = model.scheduler.add_noise(latents[rows], noise, t)
        with torch.enable_grad():
            states = model.encode([captions[k] for k in rows])
            found = model.unet(noisy, t, encoder_hidden_states=states, return_dict=False)[0]
            loss = (found - noise).square().mean()
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return model


def merged_lora(base: Any, rank: int = 4) -> Any:
    """The lab with a LoRA of that rank merged: the best one to the further trained U-Net, twice as strong."""
    model = tuned("unet")
    old = dict(base.denoiser.named_parameters())
    with torch.no_grad():
        for name, value in model.denoiser.named_parameters():
            if ".to_" in name and value.ndim == 2:
                u, s, v = torch.linalg.svd(value - old[name], full_matrices=False)
                value.copy_(old[name] + 2 * (u[:, :rank] * s[:rank]) @ v[:rank])
            else:
                value.copy_(old[name])
    return model


def derivatives(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and place of each clean derivative."""
    base = open_model("lab")
    yield "lab", "lab"
    yield "oracle", "lab:oracle"
    for text in EDITS:
        place = folder / text.replace(":", "-")
        base.export(place, ready(parse_defense(text), base, None, progress=lambda line: None).defenses)
        yield text, str(place)
    half = open_model("lab")
    with torch.no_grad():
        for net in (half.denoiser, half.text_encoder, half.pipe.vae):
            for value in net.parameters():
                value.copy_(value.half().float())
    for name, model in (
        ("fp16", half),
        ("fine-tuned U-Net", tuned("unet")),
        ("fine-tuned text encoder", tuned("text_encoder")),
        ("LoRA merged", merged_lora(base)),
    ):
        place = folder / name.replace(" ", "-")
        model.pipe.save_pretrained(place, safe_serialization=True)
        yield name, str(place)


def line(name: str, place: str, **how: Any) -> str:
    result = audit(place, "lab", **how)
    tops: dict[str, float] = {}
    for found in result["findings"]:
        if found["threshold"] in LIMITS and found["level"] != "changed":
            tops[found["detector"]] = max(found["score"], tops.get(found["detector"], -9.0))
    shown = ", ".join(f"{k} {v:.2f}" for k, v in tops.items()) or "nothing to look at"
    told = "".join(
        f"\n    {f['detector']}: {f['evidence'][0][0]} {f['evidence'][0][1]:.2f}"
        for f in result["findings"]
        if f["threshold"] in LIMITS and f["evidence"]
    )
    return f"{name:26} {result['verdict']:10} {result['seconds']:5.0f} s  {shown}{told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", action="store_true", help="cost of an audit of a full-size architecture")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if asked.size:
            full_size(Path(folder))
            return
        for name in FIXTURES:
            print(line(name, f"backdoor:{name}"), flush=True)
        for name, place in derivatives(Path(folder)):
            print(line(name, place), flush=True)


def full_sd() -> StableDiffusion:
    """Networks of Stable Diffusion 1.5's shape with random weights behind a tiny tokenizer."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    pipe = tiny_pipeline()
    torch.manual_seed(0)
    config = {**pipe.text_encoder.config.to_dict(), "hidden_size": 768, "intermediate_size": 3072}
    config |= {"num_hidden_layers": 12, "num_attention_heads": 12}
    pipe.register_modules(
        unet=UNet2DConditionModel(sample_size=64, cross_attention_dim=768).eval().requires_grad_(False),
        text_encoder=CLIPTextModel(CLIPTextConfig(**config)).eval().requires_grad_(False),
    )
    return StableDiffusion(pipe, Spec("model", "full", {}))


def full_size(folder: Path) -> None:
    """A U-Net and text encoder of Stable Diffusion 1.5's shape with random weights, against a copy whose value maps and
    text layers differ; what does not is held once. Seconds are the process's own: with one thread, those of an idle
    core."""
    import time

    from genward.audits import cross_attention, text_encoder, weights
    from genward.audits._pair import Pair

    base, model = full_sd(), full_sd()
    with torch.no_grad():
        for net in (model.denoiser, model.text_encoder):
            old = dict((base.denoiser if net is model.denoiser else base.text_encoder).named_parameters())
            for n, value in net.named_parameters():
                value.data = old[n].data
                if n.endswith("to_v.weight") or n.endswith("fc1.weight"):
                    value.data = value.clone()
                    value.add_(0.01 * value.std() * torch.randn_like(value))
    pair = Pair(model, base, [f"a {x}" for x in ("cat", "dog", "key", "lamp", "boat", "tree")], (), 40)
    for detector in (weights, text_encoder, cross_attention):
        began = time.process_time()
        found = detector.examine(pair)
        print(f"{detector.__name__.split('.')[-1]:18} {time.process_time() - began:7.1f} s  {found.cost}", flush=True)
    began = time.process_time()
    with torch.no_grad():
        denoiser.predictions(base, pair.plain[:1])
    took = (time.process_time() - began) / denoiser.SEEDS
    rows = 2 * denoiser.SEEDS * (denoiser.TEXTS + 120)
    print(f"denoiser           {took:7.2f} s a row: {rows} rows are {took * rows / 60:.0f} minutes (extrapolated)")


if __name__ == "__main__":
    main()
