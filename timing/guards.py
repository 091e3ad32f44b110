"""Parts of ``speed.py`` on guards: what they add to what passes, what they save on what they stop, batches against
loops.

Both sides of a ratio do the same work on the same model in turns. Guards are those that come with the lab
(``aeiou:weapons``, ``wukong:weapons``). Prompts that name a weapon must be refused, harmless ones must pass: rows on
which a guard decides otherwise are left out of a timing and counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from turns import until_decided  # beside this file

from genward import lab
from genward.catalog.fitting import parse_defense, ready
from genward.core import Case, Sampler, load_concept
from genward.core.records import Prompt
from genward.defenses.aeiou import Aeiou
from genward.models import safety_checker
from genward.models.ports import Run
from genward.models.text import TextEncoder
from genward.ops import text_states
from genward.ops.passages import passages
from genward.serve.protect import protect

BATCHES = (16, 64)
CHECKER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def attached(model: Any, *texts: str) -> list[Any]:
    """One defense a text, ready to attach."""
    return [ready(parse_defense(text), model).defenses[0] for text in texts]


def captions(count: int, *, harmful: bool) -> list[str]:
    """Lab captions that name a weapon, or that name nothing which a guard on weapons knows: no target and no
    neighbor."""
    words, concept = lab.data.vocabulary(), load_concept("weapons")
    near = {*concept.targets, *concept.neighbors}
    things = (
        [words.thing(t).phrase for t in concept.targets]
        if harmful
        else [t.phrase for t in words.things if t.name not in near]
    )
    styles = words.style_names
    return [f"{things[k % len(things)]} in {styles[(k + k // len(things)) % len(styles)]} style" for k in range(count)]


def rows(prompts: Sequence[str]) -> list[Case]:
    return [Case(f"guards-{k}", p, seed=k) for k, p in enumerate(prompts)]


# ------------------------------------------------------------------------------------------------- added to what passes


def encoded(model: Any, rig: Any, prompts: list[str], run: Run, guarded: bool) -> Any:
    """The prompts' states, encoded where text guards look on, or beside them: there the hooks return at once. What
    guards read besides (passages of long prompts, emoji by name) is encoded too."""
    if not guarded:
        with torch.no_grad():
            return model.encode(prompts)
    rig.begin(run)
    with torch.no_grad():
        texts = [p.text for p in rig.prompt_stage([Prompt(p) for p in prompts])]
        with rig.text_stage("prompt", texts):
            return model.encode(texts)


LONG = "a drawing for my little sister, with a green meadow and a blue sky behind it"
"""More than AEIOU reads in one piece"""


def brief(prompts: list[str]) -> list[str]:
    """Those that are read in one piece, each as often as the number of prompts asks for."""
    whole = [p for p in prompts if not passages(p)]
    return [whole[k % len(whole)] for k in range(len(prompts))]


def part_guard_text(model: Any, timed: Any, batches: Sequence[int] = BATCHES, limit: float = 0.02) -> dict[str, Any]:
    """AEIOU's added share of the text encoding with its 99 % interval, repeated until that lies on one side of
    ``limit``: the shipped guard, one that reads every head of every layer, and the shipped one on prompts that are
    long enough to be read in passages, which are further texts to encode. Harmless prompts, none is refused."""
    (shipped,) = attached(model, "aeiou:weapons")
    guards = {"shipped": shipped, "all_heads": Aeiou(heads=0).fit(model, load_concept("weapons")), "passages": shipped}
    out: dict[str, Any] = {}
    for name, guard in guards.items():
        for batch in batches:
            # asking for the device takes milliseconds, and is no part of the guard
            prompts, device = captions(batch, harmful=False), model.device
            prompts = [f"{p}, {LONG}" for p in prompts] if name == "passages" else brief(prompts)
            with model.rig([replace(guard, threshold=1e9)]) as rig:  # type: ignore[type-var]

                def work(guarded: bool, rig: Any = rig, prompts: list[str] = prompts, device: Any = device) -> Any:
                    return encoded(model, rig, prompts, Run(len(prompts), 20, 4.0, device), guarded)

                assert torch.equal(work(False), work(True)), "both sides encode the same"
                assert rig.run.alive.all() and "aeiou.score" in rig.run.notes[batch - 1], (
                    "the guard looks on, and lets all pass"
                )
                share = until_decided(lambda: work(True), lambda: work(False), limit)  # noqa: B023
            out[f"{name}-{batch}"] = {"prompts": batch, "limit": limit, **share}
    return out


def part_guard_benign(model: Any, timed: Any, batch: int = 16, steps: int = 20, repeats: int = 5) -> dict[str, Any]:
    """The guarded call (AEIOU and Wukong; opening the guard included) against the bare pipeline call, on harmless
    prompts that both guards release."""
    guards, wanted = attached(model, "aeiou:weapons", "wukong:weapons"), captions(3 * batch, harmful=False)
    shape = (len(wanted), model.unet.config.in_channels, *[model.unet.config.sample_size] * 2)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    fields = {"num_inference_steps": steps, "guidance_scale": Sampler().guidance}
    with protect(model, "weapons", guards) as guarded:
        seen = guarded.observe(wanted, latents=noise, **fields).verdicts
    kept = [k for k, verdict in enumerate(seen) if verdict.action == "released"][:batch]
    prompts, start = [wanted[k] for k in kept], noise[kept]

    def whole() -> Any:
        with protect(model, "weapons", guards) as guarded:
            return guarded(prompts, latents=start, **fields)

    def bare() -> Any:
        return model.pipe(prompts, latents=start, **fields)

    ours = whole()
    assert len(prompts) == batch and all(v.action == "released" for v in ours.verdicts), (
        "rows that are stopped would save time"
    )
    same = all(np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(ours.images, bare().images, strict=True))
    guarded_seconds, bare_seconds = timed(whole, bare, repeats)
    return {
        "images": batch,
        "steps": steps,
        "released_of_looked_at": f"{sum(v.action == 'released' for v in seen)}/{len(wanted)}",
        "same_pictures": same,
        "guarded_seconds": guarded_seconds,
        "bare_seconds": bare_seconds,
        "overhead": guarded_seconds / bare_seconds - 1,
    }


# --------------------------------------------------------------------------------------------- saved on what is stopped


def part_guard_block(
    model: Any, timed: Any, count: int = 16, steps: Sequence[int] = (20, 50), repeats: int = 2
) -> dict[str, Any]:
    """Seconds and denoiser passes per blocked image, on prompts naming weapons that all three guards refuse at these
    seeds."""
    names = ("image_filter:weapons", "wukong:weapons", "aeiou:weapons")
    made = dict(zip(names, attached(model, *names), strict=True))
    out: dict[str, Any] = {}
    for number in steps:
        sampler, asked = Sampler(steps=number), rows(captions(count, harmful=True))
        found = {name: model.generate(asked, sampler, [guard], batch=count) for name, guard in made.items()}
        stopped = {name: {s.case.id for s in samples if s.status == "refused"} for name, samples in found.items()}
        shared = [c for c in asked if all(c.id in ids for ids in stopped.values())]
        assert shared, "no row is refused by all three guards, so nothing can be compared"

        def work(name: str, shared: list[Case] = shared, sampler: Sampler = sampler) -> Any:
            return model.generate(shared, sampler, [made[name]], batch=len(shared))

        nfe = {name: sum(s.nfe for s in samples if s.case in shared) / len(shared) for name, samples in found.items()}
        for name in names[1:]:
            early, late = timed(lambda: work(name), lambda: work(names[0]), repeats)  # noqa: B023
            out[f"{name.partition(':')[0]}-{number}"] = {
                "steps": number,
                "rows": len(shared),
                "blocked": {n.partition(":")[0]: f"{len(ids)}/{count}" for n, ids in stopped.items()},
                "nfe_per_blocked": nfe[name],
                "seconds_per_blocked": early / len(shared),
                "image_filter_nfe_per_blocked": nfe[names[0]],
                "image_filter_seconds_per_blocked": late / len(shared),
                "passes_ratio": nfe[name] / nfe[names[0]],
                "seconds_ratio": early / late,
            }
    return out


# ------------------------------------------------------------------------------------------------ batches against loops


def tiny_checker(pixels: torch.Tensor, hits: bool) -> Any:
    """A ``StableDiffusionSafetyChecker`` with a tiny vision tower and random vectors, 17 and 3 as in the published one.

    ``hits``: thresholds in the middle of what it sees on these pixels, so that decisions differ between rows; else
    nothing is a hit."""
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    vision = CLIPVisionConfig(**CHECKER, image_size=16, patch_size=8)
    torch.manual_seed(0)
    text = CLIPTextConfig(**CHECKER).to_dict()
    made = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=text, vision_config=vision.to_dict(), projection_dim=8)
    ).eval()
    made.concept_embeds.data, made.special_care_embeds.data = torch.randn(17, 8), torch.randn(3, 8)
    made.concept_embeds_weights.data, made.special_care_embeds_weights.data = torch.zeros(17), torch.full((3,), 2.0)
    seen = safety_checker.check(made, pixels)
    made.concept_embeds_weights.data = torch.full((17,), float(np.median(seen.score)) if hits else 2.0)
    made.special_care_embeds_weights.data = torch.full(
        (3,), 2.0 + float(np.median(seen.special.max(1))) if hits else 2.0
    )
    return made


def part_safety_checker(model: Any, timed: Any, batches: Sequence[int] = BATCHES, repeats: int = 10) -> dict[str, Any]:
    """diffusers' safety checker, its loop against ``models.safety_checker``: the same network on the same pixels,
    decisions asserted equal.

    The loop also paints flagged pictures black, 8 × 8 ones here; without hits (``quiet``) it does not.
    """
    from diffusers.utils import logging

    level, out = logging.get_verbosity(), {}
    logging.set_verbosity_error()
    try:
        for name, hits in (("hits", True), ("quiet", False)):
            for batch in batches:
                pixels = torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))
                checker = tiny_checker(pixels, hits)
                pictures = np.zeros((batch, 8, 8, 3), np.float32)
                told, decision = checker(clip_input=pixels, images=pictures)[1], safety_checker.check(checker, pixels)
                assert decision.flagged.tolist() == list(map(bool, told)) and (0 < sum(told) < batch) == hits, (
                    "both decide alike"
                )
                ours, loop = timed(
                    lambda: safety_checker.check(checker, pixels),  # noqa: B023
                    lambda: checker(clip_input=pixels, images=pictures),  # noqa: B023
                    repeats,
                )  # noqa: B023
                out[f"{name}-{batch}"] = {
                    "images": batch,
                    "flagged": int(sum(told)),
                    "vectorized_seconds": ours,
                    "loop_seconds": loop,
                    "ratio": loop / ours,
                }
    finally:
        logging.set_verbosity(level)
    return out


def part_prompt_guard(model: Any, timed: Any, count: int = 64, repeats: int = 3) -> dict[str, Any]:
    """Prompts per second of AEIOU's ``scores``, all at once against one by one; through the pipeline, and on the text
    encoder alone. ``padding``: states read up to the longest text of a batch against states as the pipeline encodes."""
    (guard,) = attached(model, "aeiou:weapons")
    prompts = captions(count // 2, harmful=True) + captions(count - count // 2, harmful=False)
    out: dict[str, Any] = {}
    for name, reader in (("pipeline", model), ("encoder", TextEncoder(model.pipe.tokenizer, model.text_encoder))):

        def each(reader: Any = reader) -> torch.Tensor:
            return torch.cat([guard.scores(reader, [p]) for p in prompts])

        assert torch.allclose(guard.scores(reader, prompts), each(), atol=1e-3), (
            "a prompt's score does not depend on its batch"
        )
        batch, single = timed(lambda: guard.scores(reader, prompts), each, repeats)  # noqa: B023
        rates = {"batch_prompts_per_second": count / batch, "single_prompts_per_second": count / single}
        out[name] = {"prompts": count, **rates, "ratio": single / batch}
    read = guard.guarding()
    sites = tuple(read.weights)
    short, padded = timed(
        lambda: text_states.read_texts(model, prompts, read.readout, sites),
        lambda: text_states._through_rig(model, prompts, sites, read.readout),
        repeats,
    )
    rates = {"short_prompts_per_second": count / short, "padded_prompts_per_second": count / padded}
    out["padding"] = {"prompts": count, **rates, "ratio": padded / short}
    return out
