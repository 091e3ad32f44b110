"""``protect`` on tiny pipelines of the real classes: the stock call bit for bit without defenses, and closed where a
guard fails."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from genward import lab
from genward.core import Artifact, Case, Frame, Sampler
from genward.errors import BadInput, Conflict, GuardError, Inapplicable, StoreError, UnguardedInput, UnknownName
from genward.serve.audit import Audit, read_audit
from genward.serve.protect import build, identity, protect
from genward.testing import EXAMPLES, tiny_pipeline, tiny_sd

PROMPTS = ["a red cat", "a blue dog", "a key"]
Stop, Rewrite, Mirror, Steer, SteerText, Shrink, Fade = (
    EXAMPLES[f"example-{n}"] for n in ("block", "prompts", "images", "tap", "text", "latents", "weights")
)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


@pytest.fixture(scope="module")
def pipe() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def img2img(pipe: Any) -> Any:
    from diffusers import StableDiffusionImg2ImgPipeline

    made = StableDiffusionImg2ImgPipeline(**pipe.components, requires_safety_checker=False)
    made.set_progress_bar_config(disable=True)
    return made


@dataclass(frozen=True)
class Words:
    """A text guard of the tests: the score is whether a prompt holds a word, read by the tokens of the text stage."""

    name: ClassVar[str] = "words"
    needs_guidance: ClassVar[bool] = False
    threshold: float = 0.5
    value: float = 1.0
    letter: str = "k"

    def attach(self, rig: Any) -> None:
        def fn(states: Any, frame: Frame) -> None:
            if frame.role != "prompt":
                return
            texts = ["".join(row) for row in rig.tokens(frame).strings]
            score = torch.tensor([self.value * (self.letter in t.replace("<|", "")) for t in texts])
            rig.note(frame, **{"words.score": score})
            rows = score > self.threshold
            if bool(rows.any()):
                rig.flag(
                    frame,
                    rows,
                    "a word",
                    score=score,
                    threshold=self.threshold,
                    category="weapons",
                    tokens=[[(self.letter, 1.0)]] * len(texts),
                )
                rig.block(frame, rows, "a word", score=score, threshold=self.threshold, category="weapons")

        rig.tap("text.0.heads", fn)


@dataclass(frozen=True)
class Port:
    """A guard of the tests that calls a function at a port."""

    name: ClassVar[str] = "port"
    kind_: str = "latents"
    fn: Callable[..., Any] = lambda *_: None

    def attach(self, rig: Any) -> None:
        getattr(rig, self.kind_)(lambda *args: self.fn(rig, *args))


SCHEDULERS = {
    "ddim": ("DDIMScheduler", {}),
    "ddim-eta": ("DDIMScheduler", {}),
    "dpm++": ("DPMSolverMultistepScheduler", {}),
    "dpm-sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "euler-a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


def scheduled(pipe: Any, name: str) -> Any:
    import diffusers

    kind, options = SCHEDULERS[name]
    config = dict(pipe.scheduler.config) | {"prediction_type": "epsilon"} | options
    made = type(pipe)(
        **{**pipe.components, "scheduler": getattr(diffusers, kind).from_config(config)}, requires_safety_checker=False
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.parametrize("name", SCHEDULERS)
def test_without_defenses_it_is_the_stock_pipeline_bit_for_bit(pipe: Any, name: str) -> None:
    mine = scheduled(pipe, name)
    kind = type(mine.scheduler)
    base: dict[str, Any] = {
        "num_inference_steps": 5,
        "guidance_scale": 3.0,
        "output_type": "np",
        "eta": 0.5 if name == "ddim-eta" else 0.0,
    }
    calls: list[dict[str, Any]] = [
        {"prompt": PROMPTS, "generator": lambda: seeded(1, 2, 3)},
        {
            "prompt": PROMPTS[:2],
            "num_images_per_prompt": 2,
            "negative_prompt": ["fog", ""],
            "generator": lambda: seeded(7)[0],
        },
        {"prompt": "a cat", "guidance_scale": 1.0, "generator": lambda: seeded(5)[0], "output_type": "latent"},
    ]
    for call in calls:
        made = {**base, **call}
        make = made.pop("generator")
        stock = mine(**made, generator=make()).images
        with protect(mine, "weapons", []) as guarded:
            ours = guarded(**made, generator=make())
        assert (
            type(mine.scheduler) is kind and len(ours.verdicts) == len(stock) and ours.index == list(range(len(stock)))
        )
        assert (torch.equal if torch.is_tensor(stock) else np.array_equal)(ours.images, stock)
        assert ours.nsfw_content_detected is None and {v.action for v in ours.verdicts} == {"released"}


@pytest.mark.parametrize("name", ["ddim", "euler-a", "dpm++"])
def test_guards_that_change_nothing_change_nothing(pipe: Any, name: str) -> None:
    mine = scheduled(pipe, name)
    call = {
        "prompt": PROMPTS[:2],
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "output_type": "latent",
        "num_images_per_prompt": 2,
    }
    stock = mine(**call, generator=seeded(3)[0]).images
    idle = [Rewrite(strength=0.0), Shrink(strength=0.0), Mirror(strength=0.0), Stop(strength=0.0)]
    with protect(mine, "weapons", idle) as guarded:
        assert torch.equal(guarded(**call, generator=seeded(3)[0]).images, stock)
    assert "prepare_latents" not in vars(mine)


def test_output_types_users_latents_and_tuples(pipe: Any) -> None:
    start = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    call: dict[str, Any] = {"prompt": PROMPTS[:2], "latents": start, "num_inference_steps": 3, "guidance_scale": 3.0}
    with protect(pipe, "weapons", []) as guarded:
        for kind in ("pil", "np", "pt", "latent"):
            stock, ours = pipe(**call, output_type=kind).images, guarded(**call, output_type=kind).images
            if kind == "pil":
                assert [i.tobytes() for i in ours] == [i.tobytes() for i in stock]
            else:
                assert type(ours) is type(stock) and ours.shape == stock.shape and bool((ours == stock).all())
        pair = guarded(**call, return_dict=False, output_type="latent")
        assert len(pair) == 2 and torch.equal(pair[0], stock) and pair[1] is None
        whole = guarded.last
        assert whole is not None and whole[0] is whole.images and whole["verdicts"] is whole.verdicts
        states = pipe.encode_prompt(PROMPTS[:2], "cpu", 1, True)
        embedded = {**call, "prompt": None, "prompt_embeds": states[0], "negative_prompt_embeds": states[1]}
        assert torch.equal(guarded(**embedded, output_type="latent").images, stock)


def test_a_masked_encoder(tmp_path: Path) -> None:
    masked = tiny_pipeline(encoder="bert", folder=tmp_path)
    call: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "latent"}
    with protect(masked, "weapons", []) as guarded:
        assert torch.equal(
            guarded(**call, generator=seeded(1)[0]).images, masked(**call, generator=seeded(1)[0]).images
        )


def test_img2img_is_the_stock_pipeline_and_can_be_blocked(img2img: Any) -> None:
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    call: dict[str, Any] = {
        "prompt": PROMPTS[:2],
        "image": pictures,
        "strength": 0.7,
        "num_inference_steps": 6,
        "guidance_scale": 3.0,
    }
    with protect(img2img, "weapons", []) as guarded:
        for make in (lambda: seeded(4)[0], lambda: seeded(4, 5)):
            ours = guarded(**call, generator=make(), output_type="np").images
            assert np.array_equal(ours, img2img(**call, generator=make(), output_type="np").images)
    opened = protect(img2img, "weapons", [Stop(), Shrink(strength=0.0)])
    with pytest.warns(UnguardedInput, match="start pictures"), opened as guarded:
        out = guarded(**call, generator=seeded(4, 5))
        assert out.index == [0] and out.images[1] is None and out.verdicts[1].step == 2 and out.verdicts[1].nfe == 2 * 3
        with pytest.raises(BadInput, match="3 pictures for 2 prompts"):
            guarded(**{**call, "image": [*pictures, pictures[0]]})
        with pytest.raises(BadInput, match="leaves no step"):
            guarded(**{**call, "strength": 0.0})


def test_the_users_callback_comes_first_and_is_told_what_it_asked_for(pipe: Any) -> None:
    seen: list[tuple[int, tuple[str, ...]]] = []

    def mine(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        assert p is pipe
        seen.append((i, tuple(kwargs)))
        return {"latents": kwargs["latents"] * 1.1} if i == 0 and "latents" in kwargs else {}

    call: dict[str, Any] = {
        "prompt": "a cat",
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "output_type": "latent",
        "callback_on_step_end": mine,
    }
    stock = pipe(**call, generator=seeded(1)[0]).images
    with protect(pipe, "weapons", [Shrink(strength=0.0)]) as guarded:
        assert torch.equal(guarded(**call, generator=seeded(1)[0]).images, stock)
        seen.clear()
        guarded(**call, callback_on_step_end_tensor_inputs=["prompt_embeds"])
    assert seen == [(k, ("prompt_embeds",)) for k in range(4)]

    def turn(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"prompt_embeds": kwargs["prompt_embeds"]}

    with protect(pipe, "weapons", [Words()]) as guarded, pytest.raises(Conflict, match="after the text guards"):
        guarded(
            "a cat",
            num_inference_steps=2,
            callback_on_step_end=turn,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )


def test_a_blocked_row_has_no_picture_and_a_verdict(pipe: Any) -> None:
    call: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 4, "guidance_scale": 3.0}
    with protect(pipe, "weapons", [Stop()]) as guarded:
        out = guarded(**call, generator=seeded(1, 2, 3))
        assert (
            [i is None for i in out.images] == [False, True, False]
            and out.index == [0, 2]
            and out.nsfw_content_detected == [False, True, False]
        )
        verdict = out.verdicts[1]
        assert (verdict.action, verdict.by, verdict.stage, verdict.step, verdict.category) == (
            "blocked",
            "example-block",
            "denoise",
            2,
            "weapons",
        )
        assert not verdict.failed and "every second row" in verdict.why and [v.nfe for v in out.verdicts] == [8, 6, 8]
        for kind, shape in (("np", (2, 64, 64, 3)), ("pt", (2, 3, 64, 64)), ("latent", (2, 4, 8, 8))):
            assert tuple(guarded(**call, generator=seeded(1, 2, 3), output_type=kind).images.shape) == shape
    with protect(pipe, "weapons", []) as guarded:
        base = guarded(**call, generator=seeded(1, 2, 3), output_type="np")
    with protect(pipe, "weapons", [Stop()]) as guarded:
        kept = guarded(**call, generator=seeded(1, 2, 3), output_type="np")
    assert np.allclose(kept.images, base.images[kept.index], atol=1e-5)


def test_text_guards_end_rows_before_the_denoiser(pipe: Any) -> None:
    with protect(pipe, "weapons", [Words()]) as guarded:
        out = guarded(PROMPTS, num_inference_steps=3, num_images_per_prompt=2)
        assert out.index == [0, 1, 2, 3]
        blocked = out.verdicts[5]
        assert (blocked.by, blocked.stage, blocked.step, blocked.score, blocked.threshold) == (
            "words",
            "text",
            -1,
            1.0,
            0.5,
        )
        assert blocked.tokens == (("k", 1.0),) and blocked.nfe == 0 and out.verdicts[0].notes == {"words.score": [0.0]}
        none = guarded(["a key", "an oak"], num_inference_steps=3)
        assert none.images == [None, None] and none.index == [] and none.verdicts[0].nfe == 0
        assert guarded("a key", num_inference_steps=3, output_type="latent").images.shape == (0, 4, 8, 8)
        with pytest.raises(Conflict, match="words reads the text"):
            guarded(prompt_embeds=torch.zeros(1, 77, 16), num_inference_steps=2)


def test_pictures_of_picture_guards_reach_every_output_type(pipe: Any) -> None:
    call: dict[str, Any] = {"prompt": "a cat", "num_inference_steps": 2, "guidance_scale": 3.0}
    plain = np.asarray(pipe(**call, generator=seeded(1)[0]).images[0])
    with protect(pipe, "weapons", [Mirror()]) as guarded:
        assert np.array_equal(np.asarray(guarded(**call, generator=seeded(1)[0]).images[0]), plain[:, ::-1])
        assert np.array_equal(
            np.rint(guarded(**call, generator=seeded(1)[0], output_type="np").images[0] * 255), plain[:, ::-1]
        )
        tensor = guarded(**call, generator=seeded(1)[0], output_type="pt").images[0]
        assert np.array_equal(np.rint(tensor.permute(1, 2, 0).numpy() * 255), plain[:, ::-1])


# ---------------------------------------------------------------------------------------------------------- fail closed


def raising(rig: Any, *_: Any) -> Any:
    raise ZeroDivisionError("on purpose")


def slow(rig: Any, value: Any, *_: Any) -> Any:
    time.sleep(0.6)
    rig.block(rig.now, torch.tensor([0]), "too late to matter")
    return value


@pytest.mark.parametrize("kind", ["prompts", "latents", "images", "inputs", "guidance"])
@pytest.mark.parametrize("fn", [raising, slow])
def test_a_guard_that_raises_or_hangs_refuses_its_rows(pipe: Any, kind: str, fn: Any) -> None:
    modules = [*pipe.unet.modules(), *pipe.text_encoder.modules()]
    count = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)
    with protect(pipe, "weapons", [Port(kind, fn)], timeout=0.15 if fn is slow else None) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2, guidance_scale=3.0)
        assert out.images == [None] * 3 and all(
            v.failed and v.by == "port" and v.action == "blocked" for v in out.verdicts
        )
        assert ("longer than 0.15 s" if fn is slow else "ZeroDivisionError") in out.verdicts[0].why
        assert out.verdicts[0].stage == {"prompts": "text", "images": "decode"}.get(kind, "denoise")
        for thread in threading.enumerate():
            if thread.name == "port":
                thread.join()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) == count


def test_a_guard_left_behind_changes_no_weight_and_no_later_picture(pipe: Any) -> None:
    """It hangs inside a denoiser call with the original weights, which other defenses edited: neither the next call nor
    the closed pipeline sees that."""
    entered, go, said = threading.Event(), threading.Event(), []

    def clean(rig: Any, latents: Any, frame: Frame) -> Any:
        name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
        module = rig.model.unet.get_submodule(name)

        def wait(*_: Any) -> None:
            entered.set()
            go.wait(10)

        handle = module.register_forward_pre_hook(wait)
        try:
            from genward.core.records import Call

            text = torch.zeros(len(latents), 4, module.in_features)
            rig.predict(Call(latents, frame.timestep, text), weights="clean")
            rig.predict(Call(latents, frame.timestep, text))
        except GuardError as error:
            said.append(str(error))
        finally:
            handle.remove()
        return latents

    before = {n: p.data.clone() for n, p in pipe.unet.named_parameters()}
    with protect(pipe, "weapons", [Fade(), Port("latents", clean)], timeout=0.3) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2, guidance_scale=3.0)
        assert entered.is_set() and all(v.failed for v in out.verdicts)
        with pytest.raises(GuardError, match="still runs"):
            guarded(PROMPTS, num_inference_steps=2, guidance_scale=3.0)
    with pytest.raises(GuardError, match="still runs"), protect(pipe, "weapons", []):
        pass
    go.set()
    for thread in threading.enumerate():
        if thread.name == "port":
            thread.join()
    assert said and "took too long" in said[0]
    assert all(torch.equal(p.data, before[n]) for n, p in pipe.unet.named_parameters())
    with protect(pipe, "weapons", []) as guarded:
        assert guarded(PROMPTS, num_inference_steps=2).index == [0, 1, 2]


def test_an_error_of_a_guards_own_refuses_its_rows_whatever_its_type(pipe: Any) -> None:
    def wrong(rig: Any, latents: Any, frame: Frame) -> Any:
        raise BadInput("a file that this guard wants")

    with protect(pipe, "weapons", [Port("latents", wrong)]) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2)
        assert (
            out.images == [None] * 3
            and all(v.failed and v.by == "port" for v in out.verdicts)
            and "a file that" in out.verdicts[0].why
        )


def test_a_guard_in_time_is_heard(pipe: Any) -> None:
    call: dict[str, Any] = {"prompt": PROMPTS, "num_inference_steps": 4, "guidance_scale": 3.0}
    with protect(pipe, "weapons", [Stop(), Words()], timeout=30.0) as guarded:
        out = guarded(**call)
        assert (
            out.index == [0]
            and [v.by for v in out.verdicts] == ["", "example-block", "words"]
            and not any(v.failed for v in out.verdicts)
        )


def test_scores_that_are_not_numbers_refuse(pipe: Any) -> None:
    def nan_score(rig: Any, z: Any, frame: Frame) -> Any:
        rig.note(frame, **{"port.score": torch.tensor([0.1, float("nan"), 0.2])[frame.case]})
        return z

    with protect(pipe, "weapons", [Port("latents", nan_score)]) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2)
        assert out.index == [0, 2] and out.verdicts[1].failed and "not a number" in out.verdicts[1].why

    def nan_block(rig: Any, z: Any, frame: Frame) -> Any:
        rig.block(frame, frame.case == 0, "?", score=torch.full((len(z),), float("nan")))
        return z

    from genward.serve.policy import parse_policy

    with protect(
        pipe, parse_policy('[categories.weapons]\naction = "flag"\n'), [Port("latents", nan_block)]
    ) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2)
        assert out.index == [1, 2] and out.verdicts[0].failed, "a score that is not a number is never only flagged"

    with protect(pipe, "weapons", [Port("latents", lambda rig, z, frame: z * float("nan"))]) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2)
        assert out.images == [None] * 3 and all(v.failed and "not finite" in v.why for v in out.verdicts)


def test_a_guard_that_never_ran_and_an_interrupted_loop_refuse(pipe: Any) -> None:
    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        guarded.rig._handles[-1].remove()
        out = guarded("a cat", num_inference_steps=2)
        assert out.images == [None] and out.verdicts[0].failed and "never called" in out.verdicts[0].why

    def interrupt(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._interrupt = i == 1
        return {}

    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        out = guarded("a cat", num_inference_steps=4, callback_on_step_end=interrupt)
        assert out.images == [None] and "interrupted after step 1" in out.verdicts[0].why
    with protect(pipe, "weapons", [Mirror()]) as guarded:
        assert guarded("a cat", num_inference_steps=4, callback_on_step_end=interrupt).images != [None]


def test_wrong_shapes_and_changed_guidance_refuse(pipe: Any) -> None:
    with protect(pipe, "weapons", [Port("latents", lambda rig, z, frame: z[:, :1])]) as guarded:
        out = guarded("a cat", num_inference_steps=2)
        assert out.verdicts[0].failed and out.verdicts[0].by == "port"

    def halve(p: Any, i: int, t: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
        p._guidance_scale = 0.0
        return {"prompt_embeds": kwargs["prompt_embeds"][-1:]}

    with protect(pipe, "weapons", [Steer(strength=0.0)]) as guarded:
        out = guarded(
            "a cat",
            num_inference_steps=3,
            callback_on_step_end=halve,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
        assert out.index == [0] and out.verdicts[0].nfe == 2 + 1 + 1, "rows follow the guidance of each call"
        out = guarded(
            ["a cat", "a dog"],
            num_inference_steps=3,
            callback_on_step_end=halve,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
        assert out.images == [None, None] and "row order" in out.verdicts[0].why


def test_what_the_pipeline_raises_is_raised_and_leaves_nothing(pipe: Any) -> None:
    def fails(*_: Any) -> Any:
        raise KeyError("the user's own")

    with protect(pipe, "weapons", [Shrink(strength=0.0)]) as guarded:
        with pytest.raises(KeyError):
            guarded("a cat", num_inference_steps=2, callback_on_step_end=fails)
        assert guarded.rig.run is None and guarded("a cat", num_inference_steps=2).index == [0]
    with pytest.raises(GuardError, match="closed"):
        guarded("a cat")


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ({"prompt": ["a cat", 3]}, "prompt 1 is int"),
        ({"prompt": ("a cat",)}, "tuple"),
        ({"prompt": []}, "empty"),
        ({"prompt": None}, "NoneType"),
        ({"prompt": "x" * 100_000}, "100,000 characters"),
        ({"prompt": "a \ud800 cat"}, "surrogate"),
        ({"prompt": "a \x07 cat"}, "U\\+0007"),
        ({"prompt": "a \u202e cat"}, "direction override"),
        ({"negative_prompt": ["a", "b"]}, "2 in a list for 1"),
        ({"negative_prompt": "\x00"}, "U\\+0000"),
        ({"generator": [torch.Generator(), torch.Generator()]}, "2 generators for 1"),
        ({"generator": 7}, "generator is int"),
        ({"latents": torch.zeros(2, 4, 8, 8)}, "one row a picture"),
        ({"latents": torch.zeros(1, 4, 9, 8)}, "one row a picture"),
        ({"num_images_per_prompt": 0}, "at least 1"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"guidance_scale": float("nan")}, "finite"),
        ({"output_type": "jpeg"}, "output_type"),
        ({"negative_promt": "fog"}, "negative_prompt"),
        ({"prompt_embeds": torch.zeros(1, 77, 16)}, "both given"),
    ],
)
def test_bad_calls_are_named_before_any_picture_is_made(pipe: Any, call: dict[str, Any], told: str) -> None:
    with protect(pipe, "weapons", [Fade(strength=0.0)]) as guarded:
        with pytest.raises((BadInput, UnknownName), match=told):
            guarded(**{"prompt": "a cat", "num_inference_steps": 2, **call})
        assert guarded.rig.calls == 0


def test_benign_texts_of_any_script_pass(pipe: Any) -> None:
    texts = ["", "кот\nи пёс", "猫と犬", "قطة", "a\u200fb", "🐈\u200d⬛"]
    with protect(pipe, "weapons", [Fade(strength=0.0)]) as guarded:
        assert guarded(texts, num_inference_steps=1).index == list(range(6))
        assert guarded(texts, num_inference_steps=1, negative_prompt="fog").index == list(range(6))


def test_pipelines_that_cannot_be_guarded(pipe: Any) -> None:
    from accelerate import cpu_offload

    with pytest.raises(BadInput, match="a dict cannot be guarded"), protect({}, "weapons", []):
        pass
    for part in ("text_encoder", "vae", "scheduler"):
        lacking = tiny_pipeline()
        setattr(lacking, part, None)
        with pytest.raises(BadInput, match=f"has no {part}"), protect(lacking, "weapons", []):
            pass
    for compile_ in (
        lambda p: p.unet.compile(backend="eager"),
        lambda p: setattr(p, "unet", torch.compile(p.unet, backend="eager")),
    ):
        compiled = tiny_pipeline()
        compile_(compiled)
        with pytest.raises(Conflict, match="compiled"), protect(compiled, "weapons", []):
            pass
    offloaded = tiny_pipeline()
    cpu_offload(offloaded.unet, execution_device=torch.device("cpu"))
    with pytest.raises(Conflict, match="offloaded"), protect(offloaded, "weapons", []):
        pass
    with (
        protect(pipe, "weapons", []) as guarded,
        pytest.raises(Conflict, match="open rig"),
        protect(guarded.model, "weapons", []),
    ):
        pass


def test_arguments_that_go_past_a_guard_are_conflicts(pipe: Any) -> None:
    with protect(pipe, "weapons", [EXAMPLES["example-guidance"](), "negative_prompt"]) as guarded:
        for more, told in (
            ({"ip_adapter_image": object()}, "picture prompt"),
            ({"cross_attention_kwargs": {"gligen": 1}}, "gligen"),
            ({"guidance_rescale": 0.7}, "example-guidance"),
        ):
            with pytest.raises(Conflict, match=told):
                guarded("a cat", num_inference_steps=2, **more)
        with pytest.raises(Inapplicable, match="negative_prompt"):
            guarded("a cat", num_inference_steps=2, guidance_scale=1.0)


# ---------------------------------------------------------------------------------------------- chain, policy, identity


def test_texts_take_the_policys_concept(pipe: Any) -> None:
    with protect(pipe, "weapons", "sld") as guarded:
        assert guarded.defenses[0].concept == "weapons" and "pistol" in guarded.defenses[0].text  # type: ignore[attr-defined]
    with protect(pipe, "all", ["negative_prompt,text=fog"]) as guarded:
        assert guarded.defenses[0].text == "fog"  # type: ignore[attr-defined]
    with protect(pipe, "all", ["sld"]) as guarded:
        assert guarded.defenses[0].concept == "weapons+substances+death+rude"  # type: ignore[attr-defined]
    with protect(pipe, "weapons", ["sld:rude", "none"], unguarded="weapons") as guarded:
        assert guarded.defenses[0].concept == "rude"  # type: ignore[attr-defined]
    with protect(lab.pipeline(), "all", ["image_filter"]) as guarded:
        assert list(guarded.named) == [f"image_filter:{c}" for c in ("weapons", "substances", "death", "rude")]
    for bad, error in (("aeio", UnknownName), ("sld,presett=max", UnknownName), ("sld:weapon", UnknownName)):
        with pytest.raises(error), protect(pipe, "weapons", [bad]):
            pass
    with pytest.raises(BadInput, match="no defense"), protect(pipe, "weapons", [object()]):  # type: ignore[list-item]
        pass
    with pytest.raises(BadInput, match="timeout"), protect(pipe, "weapons", [], timeout=0.0):
        pass


def test_policies_set_thresholds_and_turn_blocks_into_flags(pipe: Any) -> None:
    from genward.serve.policy import parse_policy

    rules = parse_policy('[categories.weapons]\naction = "flag"\nthresholds = { words = 0.7 }\n')
    with protect(pipe, rules, [Words(value=0.9)]) as guarded:
        out = guarded(PROMPTS, num_inference_steps=2)
        assert guarded.defenses[0].threshold == 0.7 and out.index == [0, 1, 2]  # type: ignore[attr-defined]
        assert [v.action for v in out.verdicts] == ["released", "released", "flagged"] and out.verdicts[
            2
        ].threshold == 0.7
    with protect(pipe, rules, [Words(value=0.6)]) as guarded:
        assert [v.action for v in guarded(PROMPTS, num_inference_steps=2).verdicts] == ["released"] * 3
    rules = parse_policy("[categories.weapons]\nthresholds = { example-tap = 0.7 }\n")
    with pytest.raises(BadInput, match="which has none"), protect(pipe, rules, [Steer()]):
        pass
    steer = parse_policy('[categories.weapons]\naction = "steer"\n')
    with pytest.raises(BadInput, match="wants image_filter to steer"), protect(pipe, steer, ["image_filter"]):
        pass


@dataclass(frozen=True)
class Taught:
    """A guard of the tests that learned several concepts at once; its artifact's card names them."""

    name: ClassVar[str] = "taught"
    threshold: float = 0.5
    action: str = "block"
    artifact: Artifact | None = None

    def attach(self, rig: Any) -> None:
        rig.latents(lambda z, frame: z)


@pytest.mark.parametrize("concepts", [("weapons", "rude"), ("rude", "mugs")])
def test_a_defense_of_several_concepts_follows_the_policy_of_each(pipe: Any, concepts: tuple[str, ...]) -> None:
    from genward.serve.policy import parse_policy

    rules = parse_policy(
        '[categories.death]\n[categories.impolite]\nconcept = "rude"\naction = "flag"\nthresholds = { taught = 0.9 }\n'
    )
    taught = Taught(artifact=Artifact({}, {"concepts": dict.fromkeys(concepts, "0")}, "0"))
    ((defense, rule),) = build([taught], rules, tiny_sd())
    assert (
        defense.threshold == 0.9
        and defense.action == "flag"
        and rule.actions == {"impolite": "flag"}
        and rule.category == "impolite"
    )  # type: ignore[attr-defined]


def test_a_genward_model_and_its_progress_bar_are_left_alone(pipe: Any) -> None:
    fresh = tiny_pipeline()
    del fresh._progress_bar_config
    with protect(fresh, "weapons", []):
        assert not hasattr(fresh, "_progress_bar_config")
    model = tiny_sd()
    with protect(model, "weapons", []) as guarded:
        assert guarded.model is model
        start = torch.randn((4, 8, 8), generator=torch.Generator().manual_seed(3))[None]
        ours = guarded("a red cat", latents=start, num_inference_steps=3, guidance_scale=3.0).images[0]
    theirs = model.generate([Case("x", "a red cat", seed=3)], Sampler(steps=3, guidance=3.0))[0].image
    assert ours.tobytes() == theirs.tobytes()  # type: ignore[union-attr]


def test_identity_follows_the_live_weights(tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    from genward.models.loading import load_pipeline

    pipe = tiny_pipeline()
    assert (
        identity(pipe).fields["source"] == "live"
        and identity(pipe).hash == identity(tiny_pipeline()).hash != identity(tiny_pipeline(seed=1)).hash
    )
    pipe.save_pretrained(tmp_path / "tiny", safe_serialization=True)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path / "tiny")
    assert identity(loaded).hash == load_pipeline(str(tmp_path / "tiny"), device="cpu").spec.hash
    loaded.unet.conv_in.bias.data += 1
    assert identity(loaded).fields["source"] == "live"


# ---------------------------------------------------------------------------------------------------------------- audit


def test_audit_records_hold_hashes_not_prompts(pipe: Any, tmp_path: Path) -> None:
    path = tmp_path / "logs" / "audit.jsonl"
    with protect(pipe, "weapons", [Words()], audit=path) as guarded:
        guarded(PROMPTS, num_inference_steps=2, negative_prompt="fog")
        name = guarded.hash
    rows = list(read_audit(path))
    assert [r["action"] for r in rows] == ["released", "released", "blocked"] and {r["guard"] for r in rows} == {name}
    assert rows[2]["score"] == 1.0 and rows[2]["by"] == "words" and rows[2]["nfe"] == 0 and rows[0]["score"] is None
    text = path.read_text()
    assert not any(word in text for word in ("red", "dog", "fog", "key", "tokens", "why"))
    assert rows[0]["prompt_hash"] == Audit(path).hashed("a red cat") != rows[1]["prompt_hash"]
    with protect(pipe, "weapons", [Words()], audit=Audit(path, prompts=True, key=b"secret")) as guarded:
        guarded("a key", num_inference_steps=2)
    last = list(read_audit(path))[-1]
    assert (
        last["prompt"] == "a key"
        and last["tokens"] == [["k", 1.0]]
        and last["prompt_hash"] == Audit(path, key=b"secret").hashed("a key")
    )
    assert (os.stat(path).st_mode & 0o077) == 0


def test_without_its_record_nothing_is_released(pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(StoreError, match="audit"),
        protect(pipe, "weapons", [], audit=tmp_path / "file" / "audit.jsonl"),
    ):
        pass
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"row": 0}\n{"cut sho')
    real = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) > 10:
            return real(handle, data[:10])
        raise OSError(28, "No space left on device")

    with protect(pipe, "weapons", [], audit=path) as guarded:
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="No space left"):
            guarded("a cat", num_inference_steps=2)
        monkeypatch.undo()
        assert path.read_bytes() == b'{"row": 0}\n{"cut sho', "what was written of it is taken back"
        guarded("a cat", num_inference_steps=2)
    assert [r["row"] for r in read_audit(path)] == [0, 0]


def test_many_writers_do_not_mix_lines(tmp_path: Path) -> None:
    log = Audit(tmp_path / "a.jsonl")
    threads = [
        threading.Thread(
            target=lambda k=k: [log.write([{"row": k, "prompt": "x" * 500, "fill": "y" * 3000}] * 3) for _ in range(5)]
        )
        for k in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (tmp_path / "a.jsonl").read_text().splitlines()
    assert len(lines) == 60 and all(json.loads(line)["fill"] == "y" * 3000 for line in lines)
