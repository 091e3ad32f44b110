"""Guards of the text and of the finished picture around pipelines that genward does not step into: tiny ones of the
real classes, and the lab's parts in diffusers' inpainting pipeline and under ``torch.compile``."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLImg2ImgPipeline
from PIL import Image

from genward import lab
from genward.core import Frame
from genward.defenses.image_filter import ImageFilter
from genward.errors import BadInput, Conflict, Inapplicable, Unguarded, UnguardedInput, UnknownName
from genward.models.outside import kind_of
from genward.serve.protect import protect
from genward.testing import EXAMPLES, FakeJudge, tiny_inpaint, tiny_pipeline, tiny_xl

PROMPTS = ["a red cat", "a blue dog", "a key"]
CALL: dict[str, Any] = {"num_inference_steps": 2, "guidance_scale": 3.0}
WHITE, MASK = Image.new("RGB", (64, 64), "white"), Image.new("L", (64, 64), 255)


@dataclass(frozen=True)
class Words:
    """A text guard of the tests: a row whose text has the letter is blocked."""

    name: ClassVar[str] = "words"
    needs_denoiser: ClassVar[bool] = False
    letter: str = "k"
    value: float = 1.0

    def attach(self, rig: Any) -> None:
        def fn(states: Any, frame: Frame) -> None:
            hit = torch.tensor([self.letter in text for text in rig.texts(frame)])
            score = torch.where(hit, self.value, 0.0)
            rig.note(frame, **{"words.score": score})
            if bool((score > 0.5).any()):
                rig.block(frame, score > 0.5, "a word", score=score, threshold=0.5, category="weapons")

        rig.tap("text.0.heads", fn)


@dataclass(frozen=True)
class Says:
    """A defense that denies that it needs the denoiser, and attaches to a port."""

    name: ClassVar[str] = "says"
    needs_denoiser: ClassVar[bool] = False
    port: str = "latents"

    def attach(self, rig: Any) -> None:
        if self.port == "weights":
            rig.weights("attn2", lambda name, tensor: tensor)
        elif self.port == "tap":
            rig.tap("text.0.heads", lambda *_: 1 / 0)
        else:
            getattr(rig, self.port)(lambda *args: args[0])


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(s) for s in seeds]


def filtered(threshold: float) -> ImageFilter:
    return ImageFilter(labels=("bright",), probe=FakeJudge(), threshold=threshold)


def same(a: Any, b: Any) -> bool:
    return bool(a.tobytes() == b.tobytes())


def hooks(module: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


@pytest.fixture(scope="module")
def xl() -> Any:
    return tiny_xl()


@pytest.fixture(scope="module")
def inpaint() -> Any:
    return tiny_inpaint()


@pytest.fixture
def compiled() -> Iterator[Any]:
    pipe = tiny_pipeline()
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    yield pipe
    torch.compiler.reset()


@pytest.mark.parametrize("kind", ["pil", "np", "pt"])
@pytest.mark.parametrize("own", [True, False], ids=["a generator a row", "one generator"])
def test_a_blocked_prompt_leaves_the_other_rows_their_stock_pictures(xl: Any, own: bool, kind: str) -> None:
    def noise() -> Any:
        return seeded(1, 2, 3) if own else torch.Generator().manual_seed(5)

    stock = xl(PROMPTS, generator=noise(), output_type=kind, **CALL).images
    before = hooks(xl.text_encoder), hooks(xl.unet)  # transformers puts its own on in the first call
    with protect(xl, "weapons", [Words(), filtered(2.0)]) as guarded:
        out = guarded(PROMPTS, generator=noise(), output_type=kind, **CALL)
    assert [v.action for v in out.verdicts] == ["released", "released", "blocked"] and out.index == [0, 1]
    assert (out.verdicts[2].by, out.verdicts[2].score, out.verdicts[2].failed) == ("words", 1.0, False)
    if kind == "pil":
        assert same(out.images[0], stock[0]) and same(out.images[1], stock[1]) and out.images[2] is None
    else:
        assert len(out.images) == 2 and np.array_equal(np.asarray(out.images), np.asarray(stock[:2]))
    assert (hooks(xl.text_encoder), hooks(xl.unet)) == before


def test_copies_of_a_prompt_share_its_fate_and_what_a_second_encoder_is_given_is_read(xl: Any) -> None:
    with protect(xl, "weapons", [Words()]) as guarded:
        out = guarded(["a cat", "a key"], num_images_per_prompt=2, generator=seeded(1, 2, 3, 4), **CALL)
        assert [v.action for v in out.verdicts] == ["released", "released", "blocked", "blocked"]
        out = guarded(["a cat", "a dog"], prompt_2=["a cat", "a key"], generator=seeded(1, 2), **CALL)
        assert [v.action for v in out.verdicts] == ["released", "blocked"] and out.images[0] is not None
        assert guarded("a key", **CALL).images == [None]
        with pytest.raises(BadInput, match="1 texts for 2 prompts"):
            guarded(["a cat", "a dog"], prompt_2=["a cat"], **CALL)


def test_pictures_are_looked_at_and_what_an_inpainting_starts_from_too(xl: Any, inpaint: Any) -> None:
    with protect(xl, "weapons", [filtered(0.0)]) as guarded:
        out = guarded(PROMPTS, **CALL)
        assert out.images == [None] * 3 and {v.stage for v in out.verdicts} == {"decode"}
    with protect(inpaint, "weapons", [filtered(0.9)]) as guarded:
        dark = Image.new("RGB", (64, 64), "black")
        out = guarded(["a cat", "a dog"], image=[dark, WHITE], mask_image=[MASK, MASK], strength=1.0, **CALL)
        assert [(v.action, v.stage) for v in out.verdicts] == [("released", ""), ("blocked", "start")]
        assert guarded("a cat", image=WHITE, mask_image=MASK, **CALL).images == [None]
        with pytest.raises(BadInput, match="one picture of three channels"):
            guarded(["a", "b"], image=[dark, WHITE], mask_image=[MASK, MASK], num_images_per_prompt=2, **CALL)
    with pytest.warns(UnguardedInput, match="no guard looks at start pictures"):
        protect(inpaint, "weapons", [Words()]).open().close()


def test_a_compiled_denoiser_is_called_and_never_hooked(compiled: Any) -> None:
    stock = compiled(PROMPTS, generator=seeded(1, 2, 3), **CALL).images
    with protect(compiled, "weapons", [Words(), filtered(2.0)]) as guarded:
        out = guarded(PROMPTS, generator=seeded(1, 2, 3), **CALL)
        assert [v.action for v in out.verdicts] == ["released", "released", "blocked"]
        assert same(out.images[0], stock[0]) and out.verdicts[0].nfe == -1
    with pytest.raises(Conflict, match="compiled.*aeiou, normalize, image_filter"), protect(compiled, "weapons"):
        raise AssertionError("opened")
    compiled.text_encoder = torch.compile(compiled.text_encoder, backend="eager")
    with protect(compiled, "weapons", [Words()]) as guarded:
        assert guarded(PROMPTS, **CALL).index == [0, 1]
    compiled.text_encoder._orig_mod.compile(backend="eager")
    with pytest.raises(Conflict, match="compiled in place"), protect(compiled, "weapons", [Words()]):
        raise AssertionError("opened")


def test_what_needs_the_denoiser_is_refused(xl: Any) -> None:
    for chain in (["wukong"], ["aeiou", "uce"], [EXAMPLES["example-tap"]()]):
        with pytest.raises(BadInput, match="Guards of the text and the finished picture alone"):
            protect(xl, "weapons", chain).open()
    for port in ("latents", "inputs", "guidance", "prompts", "weights"):
        with pytest.raises(Inapplicable, match=f"says acts inside the denoiser \\(its {port}"):
            protect(xl, "weapons", [Says(port)]).open()
    with protect(xl, "weapons", [Words()]) as guarded:  # and nothing of them stays open
        assert guarded("a cat", **CALL).index == [0]


def test_other_kinds_of_pipeline_are_refused(xl: Any) -> None:
    from diffusers import FluxControlPipeline, StableDiffusionControlNetPipeline, StableVideoDiffusionPipeline

    made = StableDiffusionXLImg2ImgPipeline(**xl.components)
    with pytest.raises(BadInput, match="Img2ImgPipeline cannot be guarded: its call takes image"):
        protect(made, "weapons", [Words()]).open()
    for cls in (StableDiffusionControlNetPipeline, FluxControlPipeline, StableVideoDiffusionPipeline):
        with pytest.raises(BadInput, match="cannot be guarded"):
            kind_of(object.__new__(cls))
    with pytest.raises(BadInput, match="pipeline of diffusers"):
        kind_of(object())


def test_kinds_are_read_from_what_a_call_takes() -> None:
    import diffusers

    for name in ("StableDiffusionXL", "StableDiffusion3", "Flux", "PixArtSigma", "Sana", "QwenImage", "ZImage"):
        assert kind_of(object.__new__(getattr(diffusers, f"{name}Pipeline"))) == "text-to-image"
    for name in ("StableDiffusion", "StableDiffusionXL", "StableDiffusion3", "Flux", "QwenImage"):
        assert kind_of(object.__new__(getattr(diffusers, f"{name}InpaintPipeline"))) == "inpainting"


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        ({"prompt_embeds": torch.zeros(1, 77, 32)}, Conflict, "embeddings have none"),
        ({"negative_pooled_prompt_embeds": torch.zeros(1, 16)}, Conflict, "embeddings have none"),
        ({"ip_adapter_image": WHITE}, Conflict, "shown to no guard"),
        ({"latents": torch.zeros(1, 4, 8, 8)}, Unguarded, "may hold a picture"),
        ({"cross_attention_kwargs": {"ip_adapter_masks": 1}}, Conflict, "only scale"),
        ({"original_size": ["a bomb"]}, Conflict, "read by no guard"),
        ({"output_type": "jpeg"}, UnknownName, "output_type"),
        ({"promt": "a cat"}, UnknownName, "prompt"),
        ({"num_images_per_prompt": 0}, BadInput, "at least 1"),
    ],
)
def test_what_would_go_past_a_text_guard_is_refused(xl: Any, call: dict[str, Any], error: Any, told: str) -> None:
    with protect(xl, "weapons", [Words()]) as guarded:
        with pytest.raises(error, match=told):
            guarded(**{"prompt": "a cat", **CALL, **call})
        with pytest.raises(BadInput, match="prompt is missing"):
            guarded(prompt_embeds=torch.zeros(1, 77, 32), **CALL)
    with protect(xl, "weapons", [filtered(2.0)]) as guarded:
        with pytest.raises(Conflict, match="none to look at"):
            guarded("a cat", output_type="latent", **CALL)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("text_model_output", (torch.zeros(1, 16), torch.zeros(1, 77, 16)), Conflict),  # UnCLIP's, in the text's place
        ("editing_prompt_embeddings", torch.zeros(1, 77, 16), Conflict),  # SEGA's
        ("encoder_hidden_states", np.zeros((1, 77, 16)), Conflict),  # Amused's
        ("reference", {"picture": WHITE}, Conflict),
        ("prior_latents", torch.zeros(1, 4, 8, 8), Unguarded),  # UnCLIP's
        ("guidance_scale", torch.tensor(3.0), None),
        ("guidance_scale", np.float32(3.0), None),
    ],
)
def test_what_comes_in_as_numbers_under_any_name_is_refused(
    xl: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, error: Any
) -> None:
    stock = type(xl).__call__

    def call(  # noqa: PLR0913 - the arguments that other pipelines of diffusers have
        self: Any,
        prompt: Any = None,
        num_images_per_prompt: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        text_model_output: Any = None,
        editing_prompt_embeddings: Any = None,
        encoder_hidden_states: Any = None,
        reference: Any = None,
        prior_latents: Any = None,
        num_inference_steps: int = 2,
        guidance_scale: float = 3.0,
    ) -> Any:
        return stock(self, prompt, num_inference_steps=num_inference_steps, guidance_scale=guidance_scale)

    monkeypatch.setattr(type(xl), "__call__", call)
    with protect(xl, "weapons", [Words()]) as guarded:
        if error is None:
            assert guarded("a cat", **{**CALL, name: value}).index == [0]
            return
        with pytest.raises(error, match=name):
            guarded("a cat", **CALL, **{name: value})


def test_a_pipeline_that_gives_back_no_pictures_releases_nothing(xl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = type(xl).__call__

    @functools.wraps(stock)
    def depth(self: Any, *args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(rgb=stock(self, *args, **kwargs).images)

    with protect(xl, "weapons", [Words()]) as guarded:
        monkeypatch.setattr(type(xl), "__call__", depth)
        out = guarded("a cat", **CALL)
    assert out.images == [None] and out.verdicts[0].failed and "gives back no images" in out.verdicts[0].why


def test_closed_where_a_guard_or_the_pipeline_fails(xl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for chain, told in (([Says("tap")], "ZeroDivisionError"), ([Words(value=float("nan"))], "not a number")):
        with protect(xl, "weapons", chain) as guarded:
            out = guarded(["a key", "a kite"], **CALL)
            assert out.images == [None, None] and all(v.failed and told in v.why for v in out.verdicts)
    kind = type(xl)
    stock = kind.__call__

    @functools.wraps(stock)
    def short(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = stock(self, *args, **kwargs)
        found.images = found.images[:1]
        return found

    with protect(xl, "weapons", [Words()]) as guarded:
        monkeypatch.setattr(kind, "__call__", short)
        out = guarded(["a cat", "a dog"], **CALL)
        assert out.images == [None, None] and "1 pictures for 2 rows" in out.verdicts[0].why
        monkeypatch.undo()
        encoder = xl.text_encoder
        xl.text_encoder = tiny_pipeline(seed=9).text_encoder
        try:
            assert "not the one that the guard was opened on" in guarded("a cat", **CALL).verdicts[0].why
        finally:
            xl.text_encoder = encoder
        assert guarded("a cat", **CALL).index == [0]


def test_the_pipelines_own_checker_ends_rows(xl: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stock = type(xl).__call__

    @functools.wraps(stock)
    def flagged(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = stock(self, *args, **kwargs)
        return SimpleNamespace(images=found.images, nsfw_content_detected=[True, False])

    with protect(xl, "weapons", [Words()]) as guarded:
        monkeypatch.setattr(type(xl), "__call__", flagged)
        out = guarded(["a cat", "a dog"], **CALL)
    assert out.index == [1] and out.verdicts[0].by == "safety_checker" and not out.verdicts[0].failed


def test_aeiou_fits_and_guards_a_pipeline_of_two_encoders(xl: Any, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    with protect(xl, "weapons", ["normalize", "aeiou"], store=tmp_path, fit=True, audit=log) as guarded:
        out = guarded(["a bomb", "a cat"], **CALL)
        assert len(out.verdicts) == 2 and all("aeiou.score" in v.notes for v in out.verdicts)
        seen = guarded.observe(["a bomb"])
        assert seen.images == [] or seen.images == [None]
        assert seen.verdicts[0].notes["aeiou.score"][-1] == pytest.approx(out.verdicts[0].notes["aeiou.score"][-1])
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    assert [r["nfe"] for r in rows] == [-1, -1] and len({r["guard"] for r in rows}) == 1


def test_the_labs_parts_keep_the_labs_fits() -> None:
    from diffusers import StableDiffusionInpaintPipeline

    pipe = lab.pipeline()
    painting = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    with protect(painting, "weapons", ["normalize", "aeiou", "image_filter"]) as guarded:
        given: dict[str, Any] = {"image": WHITE, "mask_image": MASK, "num_inference_steps": 2}
        out = guarded(["a cat in noto style", "a b0mb in noto style"], generator=seeded(1, 2), **given)
        assert out.verdicts[1].by == "aeiou" and out.images[1] is None
        assert "image_filter.score" in out.verdicts[0].notes
    pipe.unet = torch.compile(pipe.unet, backend="eager")
    with protect(pipe, "weapons", ["aeiou"]) as guarded:
        out = guarded(["a cat in noto style", "a bomb in noto style"], generator=seeded(1, 2), num_inference_steps=2)
        assert [v.action for v in out.verdicts] == ["released", "blocked"] and out.verdicts[1].tokens
    torch.compiler.reset()
