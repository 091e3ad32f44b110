"""Image filters: any judge at the image port; diffusers' safety checker without its loop, equal to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from genward import lab
from genward.core import Sampler, Score, Spec, load_concept
from genward.defenses.image_filter import ImageFilter
from genward.errors import BadInput, UnknownName
from genward.models import safety_checker
from genward.models.sd import StableDiffusion
from genward.ops.asking import scores, thresholds
from genward.serve.protect import protect, with_probe
from genward.testing import defense_laws, tiny_pipeline
from genward.testing.judge import FakeJudge
from genward.testing.suites import CASES


def bright(**fields: Any) -> ImageFilter:
    return ImageFilter(**{"labels": ("bright",), "probe": FakeJudge(), "threshold": 0.0, **fields})


@dataclass(frozen=True)
class Numbers:
    """A judge that says given numbers, one a picture."""

    name: ClassVar[str] = "numbers"
    needs: ClassVar[frozenset[str]] = frozenset({"image"})
    values: tuple[float, ...] = ()
    card: Any = None

    def judge(self, samples: Sequence[Any]) -> list[Score]:
        return [Score(s.id, "x", v) for s, v in zip(samples, self.values, strict=False)]


def test_laws(model: StableDiffusion) -> None:
    defense_laws(model, bright, zero={"threshold": 2.0})


def test_a_label_at_its_threshold_refuses(model: StableDiffusion) -> None:
    sampler = Sampler(steps=2, guidance=3.0)
    probe = Numbers((0.4, 0.5, float("nan")))
    samples = model.generate(CASES, sampler, [ImageFilter(labels=("x",), threshold=0.5, probe=probe)])
    assert [s.status for s in samples] == ["ok", "refused", "error"]
    assert [s.notes["image_filter.score"][0] for s in samples[:2]] == [pytest.approx(0.4), 0.5]
    verdict = samples[1].verdicts[0]
    assert (verdict.stage, verdict.score, verdict.threshold, verdict.category) == (
        "decode",
        0.5,
        0.5,
        "x",
    ) and "not a number" in samples[2].why
    flagged = model.generate(CASES, sampler, [ImageFilter(labels=("x",), threshold=0.5, probe=probe, action="flag")])
    assert [s.status for s in flagged] == ["ok", "ok", "error"] and flagged[1].verdicts[0].action == "flagged"
    missing = model.generate(CASES, sampler, [ImageFilter(labels=("x",), threshold=0.5, probe=Numbers((0.1,)))])
    assert [s.status for s in missing] == ["ok", "error", "error"], "a picture without a score is not safe"


def test_the_judge_comes_with_the_chain() -> None:
    concept = load_concept("weapons")
    made = with_probe(ImageFilter.for_concept(concept))
    assert made.labels == concept.judge and made.probe.name == "lab_second" and made.judge_hash
    limits = thresholds(made.probe, made.labels, None, "image_filter")
    assert limits.tolist() == [made.probe.card.labels[label]["threshold"] for label in made.labels]
    assert thresholds(made.probe, made.labels, 0.25, "image_filter").tolist() == [0.25] * len(made.labels)
    assert Spec.from_json(Spec.of("defense", made).to_json()).hash == Spec.of("defense", made).hash
    assert Spec.of("defense", made).hash != Spec.of("defense", replace(made, judge_hash="other")).hash
    with protect(lab.pipeline(), "weapons", ["image_filter"]) as guarded:
        out = guarded(["a cat", "a key"], num_inference_steps=1)
        assert all("image_filter.score" in v.notes for v in out.verdicts) and guarded.defenses[0].concept == "weapons"  # type: ignore[attr-defined]
    with pytest.raises(UnknownName, match="lab"):
        with_probe(ImageFilter(judge="lap"))


def test_scores_are_the_judges_numbers() -> None:
    from PIL import Image

    images = [Image.new("L", (4, 4), v) for v in (0, 255, 51)]
    values = scores(FakeJudge(labels=("a", "b")), images, ("b", "c"))
    assert values[:, 0].tolist() == [0.0, 1.0, pytest.approx(0.2)] and np.isnan(values[:, 1]).all()


def test_bad_settings_are_named(model: StableDiffusion, concept: Any) -> None:
    for make, error, told in (
        (lambda: ImageFilter(threshold=float("nan")), BadInput, "finite"),
        (lambda: ImageFilter(action="steer"), UnknownName, "block"),
        (lambda: ImageFilter.for_concept(concept), BadInput, "names no judge labels"),
    ):
        with pytest.raises(error, match=told):
            make()
    for bad, error, told in (
        (ImageFilter(labels=("x",)), BadInput, "no judge to ask"),
        (ImageFilter(probe=FakeJudge()), BadInput, "no labels"),
        (ImageFilter(labels=("brigth",), probe=FakeJudge()), UnknownName, "bright"),
        (ImageFilter(labels=("x",), probe=Numbers()), BadInput, "states no threshold"),
    ):
        with pytest.raises(error, match=told):
            model.generate(CASES, Sampler(steps=1), [bad])


# ------------------------------------------------------------------------------------------------------- safety checker


@pytest.fixture(scope="module")
def checker() -> Any:
    from diffusers.pipelines.stable_diffusion import StableDiffusionSafetyChecker
    from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = CLIPVisionConfig(**sizes, image_size=16, patch_size=8)
    torch.manual_seed(0)
    made = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=CLIPTextConfig(**sizes).to_dict(), vision_config=vision.to_dict(), projection_dim=8)
    ).eval()
    made.concept_embeds.data = torch.randn(17, 8)
    made.special_care_embeds.data = torch.randn(3, 8)
    return made


def loop(special: Any, concepts: Any, special_thresholds: Any, concept_thresholds: Any) -> list[bool]:
    """diffusers' loop, row by row and concept by concept."""
    out = []
    for near, found in zip(special, concepts, strict=True):
        adjustment = 0.0
        for value, threshold in zip(near, special_thresholds, strict=True):
            if round(value - threshold.item() + adjustment, 3) > 0:
                adjustment = 0.01
        out.append(
            any(
                round(value - threshold.item() + adjustment, 3) > 0
                for value, threshold in zip(found, concept_thresholds, strict=True)
            )
        )
    return out


def test_decisions_equal_the_loop_also_where_they_are_close() -> None:
    draw = np.random.default_rng(0)
    for spread in (0.3, 0.01, 0.001):
        special_thresholds, concept_thresholds = (draw.uniform(0.1, 0.3, n).astype(np.float32) for n in (3, 17))
        special = (special_thresholds + draw.normal(-spread, spread, (400, 3))).astype(np.float32)
        concepts = (concept_thresholds + draw.normal(-2 * spread, spread, (400, 17))).astype(np.float32)
        wanted = loop(special, concepts, special_thresholds, concept_thresholds)
        decision = safety_checker.decide(special, concepts, special_thresholds, concept_thresholds)
        assert decision.flagged.tolist() == wanted and 0 < sum(wanted) < 400
    broken = safety_checker.decide(np.full((1, 3), np.nan), np.zeros((1, 17)), np.ones(3), np.ones(17))
    assert broken.flagged.tolist() == [True], "a number that is none is not safe"


@pytest.mark.parametrize("level", [0.0, 0.15, 0.3, 0.45, 0.6])
def test_the_whole_checker_equals_diffusers(checker: Any, level: float, caplog: pytest.LogCaptureFixture) -> None:
    checker.concept_embeds_weights.data = torch.full((17,), level + 0.25)
    checker.special_care_embeds_weights.data = torch.full((3,), level)
    pixels = torch.randn(24, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    _, wanted = checker(clip_input=pixels, images=np.zeros((24, 4, 4, 3)))
    decision = safety_checker.check(checker, pixels)
    assert (
        decision.flagged.tolist() == wanted
        and decision.concepts.shape == (24, 17)
        and safety_checker.like_diffusers(checker)
    )
    assert ((decision.score > 0) == decision.flagged).all() and not safety_checker.like_diffusers(object())


class Extractor:
    """The part of a feature extractor that a pipeline calls: pictures in, pixels out."""

    def __call__(self, images: Any, return_tensors: str = "pt") -> Any:
        from transformers import BatchFeature

        rows = [np.asarray(i.convert("RGB").resize((16, 16)), np.float32) / 127.5 - 1 for i in images]
        return BatchFeature({"pixel_values": torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2)})


def test_the_pipelines_own_checker_blocks_instead_of_painting_black(checker: Any) -> None:
    pipe = tiny_pipeline()
    pipe.register_modules(safety_checker=checker)
    pipe.feature_extractor = Extractor()
    call: dict[str, Any] = {
        "prompt": ["a cat", "a dog", "a key", "a cup"],
        "num_inference_steps": 2,
        "guidance_scale": 3.0,
        "output_type": "np",
    }

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(k) for k in range(4)]

    checker.special_care_embeds_weights.data = torch.ones(3)
    checker.concept_embeds_weights.data = torch.ones(17)
    assert not any(pipe(**call, generator=generators()).nsfw_content_detected)
    with protect(pipe, "weapons", []) as guarded:
        plain = guarded(**call, generator=generators())
        assert plain.nsfw_content_detected == [False] * 4 and np.array_equal(
            plain.images, pipe(**call, generator=generators()).images
        )
        clip = Extractor()(pipe.numpy_to_pil(plain.images)).pixel_values
        checker.concept_embeds_weights.data = torch.full(
            (17,), 1.0 + float(np.median(safety_checker.check(checker, clip).score))
        )
        stock = pipe(**call, generator=generators())
        ours = guarded(**call, generator=generators())
        assert ours.nsfw_content_detected == stock.nsfw_content_detected and 0 < sum(stock.nsfw_content_detected) < 4
        assert np.array_equal(ours.images, stock.images[ours.index])
        verdict = ours.verdicts[ours.nsfw_content_detected.index(True)]
        assert verdict.by == "safety_checker" and verdict.score is not None and verdict.score > 0 and not verdict.failed
        pictures = guarded(**{**call, "output_type": "pil"}, generator=generators()).images
        assert [p is None for p in pictures] == stock.nsfw_content_detected
    pipe.feature_extractor = None
    with protect(pipe, "weapons", []) as guarded:
        out = guarded(**call, generator=generators())
        assert len(out.images) == 0 and all(v.failed and v.by == "safety_checker" for v in out.verdicts)


def test_the_labs_judge_looks_at_the_labs_pictures_alone(tmp_path: Path) -> None:
    """And at those of the stand-ins in memory that tests use; one that was saved and loaded is a model as any other."""
    with protect(tiny_pipeline(), "weapons", ["image_filter:weapons"]) as guarded:
        assert guarded.named
    tiny_pipeline().save_pretrained(tmp_path)
    loaded = StableDiffusionPipeline.from_pretrained(tmp_path, use_safetensors=True)
    with pytest.raises(BadInput, match="knows the lab's drawings alone.*open_nsfw"):
        with protect(loaded, "weapons", ["image_filter:weapons"]):
            raise AssertionError("opened")


def test_real_pictures_have_an_embedded_judge_where_the_labels_are_its_own() -> None:
    chosen = with_probe(ImageFilter(labels=("nsfw",)))
    assert chosen.judge == "open_nsfw" and chosen.probe.name == "open_nsfw" and chosen.judge_hash
    assert with_probe(ImageFilter(labels=("nsfw", "bomb"))).judge == "lab_second"
    with protect(tiny_pipeline(), "weapons", [chosen]) as guarded:
        verdict = guarded("a red cat", num_inference_steps=2, guidance_scale=3.0).verdicts[0]
    assert 0 <= verdict.notes["image_filter.score"][0] <= 1 and not verdict.failed
