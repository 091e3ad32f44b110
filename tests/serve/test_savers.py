"""What users do to a pipeline to save time or memory, and what they write into negative prompts: verdicts stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

from genward import lab, protect
from genward.errors import GenwardError

PROMPTS = ["a cat in noto style", "a tool in noto style"]
CHAIN = ["aeiou", "wukong", "irece"]


def seeds(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(k) for k in range(count)]


def judged(change: Callable[[Any], Any]) -> list[tuple[str, dict[str, list[float]]]]:
    pipe = lab.pipeline()
    change(pipe)
    with protect(pipe, "weapons", CHAIN) as guarded:
        out = guarded(PROMPTS, num_inference_steps=10, guidance_scale=4.0, generator=seeds())
    assert not any(v.failed for v in out.verdicts), [v.why for v in out.verdicts]
    return [(v.action, {k: list(map(float, x)) for k, x in v.notes.items()}) for v in out.verdicts]


@pytest.fixture(scope="module")
def plain() -> list[tuple[str, dict[str, list[float]]]]:
    return judged(lambda pipe: None)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.enable_attention_slicing(1),
        lambda p: p.unet.set_attn_processor(AttnProcessor()),
        lambda p: p.unet.to(memory_format=torch.channels_last),
        lambda p: p.vae.enable_tiling(),
    ],
    ids=["slicing", "plain processor", "channels last", "tiling"],
)
def test_savers_of_memory_change_no_verdict(change: Any, plain: list[tuple[str, dict[str, list[float]]]]) -> None:
    now = judged(change)
    assert [action for action, _ in now] == [action for action, _ in plain]
    for (_, mine), (_, base) in zip(now, plain, strict=True):
        assert mine.keys() == base.keys()
        for name in base:
            assert mine[name] == pytest.approx(base[name], rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("name", ["aeiou", "wukong", "noise_probe", "preview_filter", "saferedir", "irece", "sld"])
def test_few_steps_are_judged_or_refused(name: str) -> None:
    """Distilled models take one to four steps and no guidance: a defense works, or says why it cannot."""
    with protect(lab.pipeline(), "weapons", [name]) as guarded:
        for steps, scale in ((1, 0.0), (2, 1.0), (4, 1.0), (1, 4.0)):
            call = {"num_inference_steps": steps, "guidance_scale": scale, "generator": seeds()}
            try:
                out = guarded(["a cat in noto style", "a bomb in noto style"], **call)
            except GenwardError:
                continue
            assert len(out.verdicts) == 2
            for verdict in out.verdicts:
                assert verdict.notes or verdict.action == "blocked" or name == "sld", verdict


@pytest.mark.parametrize("chain", [["aeiou"], ["normalize", "aeiou"], ["negative_prompt"]])
def test_a_negative_prompt_that_names_the_concept_is_no_harm(chain: list[str]) -> None:
    with protect(lab.pipeline(), "weapons", chain) as guarded:
        out = guarded(
            "a cat in noto style",
            negative_prompt="a bomb, a pistol, weapons, lowres",
            num_inference_steps=2,
            guidance_scale=4.0,
            generator=seeds(1)[0],
        )
        assert out.index == [0], out.verdicts
