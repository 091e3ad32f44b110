"""Speed as ratios measured in one run: ``python timing/speed.py [part …] --out results.json``.

Parts: ``uce`` (one shared solve against a per-layer loop), ``overhead`` (the rig with no defense against the bare
pipeline call), ``denoiser`` (seconds an image as a multiple of the bare denoiser's forward time), ``judge`` (batched
against one by one), ``recipe`` (the quick recipe against a script that samples one prompt at a time and makes the base
arm again for each method), ``textual_inversion`` and ``ddim_inversion`` (searches side by side against one after the
other), ``irece`` (its cost by window), ``grid`` (m-erasure over its denoiser time), ``guard_text`` (what AEIOU adds to
the text encoding), ``guard_block`` (seconds and passes per blocked image against an image filter), ``guard_benign``
(the guarded against the bare call where all passes), ``safety_checker`` (vectorized against diffusers' loop),
``prompt_guard`` (batched against one by one, and without padding against with it), ``gradient_row`` (a denoiser row
with its way back over one without), ``sld`` (against diffusers' own Safe Latent Diffusion), ``ufid`` (its
generations in common batches against one by one), ``sae_edit`` and ``sae_training`` (sparse against dense),
``acterase`` and ``safepatch`` (what they add to a picture). Each timing is the minimum of several repeats, pairs are
measured alternately, so that a busy machine hits both sides."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from turns import CLOCK, alternately  # beside this file

from genward import lab
from genward.catalog.opening import open_model
from genward.core import Call, Case, Sampler
from genward.ops.closed_form import edit_delta

LAB_MAPS = [(c, 384) for c in (64, 128, 192, 128, 128, 64, 64) for _ in "kv"]
SD15_MAPS = [(c, 768) for c, n in ((320, 5), (640, 5), (1280, 6)) for _ in range(n) for _ in "kv"]


def naive_uce(
    maps: list[torch.Tensor], concepts: torch.Tensor, guides: torch.Tensor, lam: float = 0.5
) -> list[torch.Tensor]:
    """The plain rule, one layer and one concept row at a time, with an inverse a layer."""
    out = []
    for w in maps:
        left, right = lam * w, lam * torch.eye(w.shape[1], dtype=w.dtype)
        for c, g in zip(concepts, guides, strict=True):
            left = left + torch.outer(w @ g, c)
            right = right + torch.outer(c, c)
        out.append(left @ torch.inverse(right))
    return out


def shared_uce(
    maps: list[torch.Tensor], concepts: torch.Tensor, guides: torch.Tensor, lam: float = 0.5
) -> list[torch.Tensor]:
    delta = edit_delta(concepts, guides, lam=lam)
    return [(w.double() + w.double() @ delta).to(w.dtype) for w in maps]


def part_uce() -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, shapes in (("lab", LAB_MAPS), ("sd15", SD15_MAPS)):
        generator = torch.Generator().manual_seed(0)
        maps = [torch.randn(s, generator=generator, dtype=torch.float64) / s[1] ** 0.5 for s in shapes]
        for count in (1, 10, 100, 1000):
            c, g = (torch.randn(count, shapes[0][1], generator=generator, dtype=torch.float64) for _ in range(2))
            fast, slow = alternately(
                lambda: shared_uce(maps, c, g),  # noqa: B023
                lambda: naive_uce(maps, c, g),  # noqa: B023
                1 if name == "sd15" and count == 1000 else 3,
            )  # noqa: B023
            worst = (
                max(
                    float((a - b).abs().max())
                    for a, b in zip(shared_uce(maps, c, g), naive_uce(maps, c, g), strict=True)
                )
                if count <= 100
                else None
            )
            out[f"{name}-{count}"] = {
                "concepts": count,
                "shared_seconds": fast,
                "loop_seconds": slow,
                "ratio": slow / fast,
                "largest_difference": worst,
            }
    return out


def cases(count: int) -> list[Case]:
    words = lab.data.vocabulary()
    return [
        Case(
            id=str(k),
            prompt=f"{words.things[k % len(words.things)].phrase} in {words.styles[k % 9].name} style",
            seed=k,
        )
        for k in range(count)
    ]


def part_overhead(model: Any, images: int = 32) -> dict[str, Any]:
    rows, sampler = cases(images), Sampler()
    start = torch.stack([torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(c.seed)) for c in rows])

    def bare() -> Any:
        return model.pipe(
            [c.prompt for c in rows], latents=start, num_inference_steps=sampler.steps, guidance_scale=sampler.guidance
        ).images

    rig, pipe = alternately(lambda: model.generate(rows, sampler), bare, 5)
    return {"images": images, "rig_seconds": rig, "pipeline_seconds": pipe, "overhead": rig / pipe - 1}


def part_denoiser(model: Any, images: int = 32) -> dict[str, Any]:
    rows, sampler = cases(images), Sampler()
    text = model.encode([c.prompt for c in rows]).repeat(2, 1, 1)
    call = Call(torch.randn(2 * images, 4, 16, 16), torch.full((2 * images,), 500), text)

    def forward() -> None:
        with torch.no_grad():
            for _ in range(sampler.steps):
                model.denoise(call)

    whole, pure = alternately(lambda: model.generate(rows, sampler), forward)
    return {
        "images": images,
        "seconds_per_image": whole / images,
        "denoiser_seconds_per_image": pure / images,
        "multiple": whole / pure,
        "images_per_second": images / whole,
    }


def part_judge(model: Any, images: int = 64) -> dict[str, Any]:
    from genward.judges.lab import LabJudge

    judge, samples = LabJudge(), model.generate(cases(images), Sampler(steps=2))
    batch, single = alternately(lambda: list(judge.judge(samples)), lambda: [list(judge.judge([s])) for s in samples])
    return {
        "images": images,
        "batch_images_per_second": images / batch,
        "single_images_per_second": images / single,
        "ratio": single / batch,
    }


def elsewhere(module: str, name: str, *, timed: bool = True) -> Callable[[Any], Any]:
    """A part in a file beside this one, imported when it is run; ``timed`` ones take the model and ``alternately``, the
    others open their own."""

    def part(model: Any) -> Any:
        work = getattr(importlib.import_module(module), f"part_{name}")
        return work(model, alternately) if timed else work()

    return part


PARTS: dict[str, Callable[[Any], Any]] = {
    "uce": lambda _: part_uce(),
    "overhead": part_overhead,
    "denoiser": part_denoiser,
    "judge": part_judge,
    "recipe": elsewhere("recipe", "recipe", timed=False),
    **{name: elsewhere("attacks", name) for name in ("textual_inversion", "ddim_inversion", "irece", "gradient_row")},
    "sld": elsewhere("guidance", "sld"),
    "ufid": elsewhere("scans", "ufid"),
    "grid": elsewhere("attacks", "grid", timed=False),
    **{name: elsewhere("edits", name) for name in ("sae_edit", "sae_training", "acterase", "safepatch")},
    **{
        name: elsewhere("guards", name)
        for name in ("guard_text", "guard_block", "guard_benign", "safety_checker", "prompt_guard")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=[*PARTS])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--cpu", action="store_true", help="the process's seconds in the place of the clock's")
    arguments = parser.parse_args()
    if arguments.cpu:
        CLOCK[0] = time.process_time
    unknown = [part for part in arguments.parts if part not in PARTS]
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; there are {', '.join(PARTS)}")
    done: dict[str, Any] = {
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "seconds": "of the process" if arguments.cpu else "of the clock",
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
    }
    model = open_model("lab")
    for part in arguments.parts:
        print(f"{part} …", file=sys.stderr, flush=True)
        done[part] = PARTS[part](model)
        print(json.dumps(done[part]), file=sys.stderr, flush=True)
    text = json.dumps(done, indent=1)
    if arguments.out:
        arguments.out.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()
