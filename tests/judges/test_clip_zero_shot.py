"""CLIP zero-shot with a tiny CLIP of the real classes: against a slow float64 form, and everything that cannot be
judged or trusted."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genward.catalog.judges import judge_hash
from genward.core import Case, Sample, Spec, media
from genward.errors import BadArtifact, BadInput
from genward.judges.clip_zero_shot import ClipZeroShot, against_neutral
from genward.metrics.erasure import pooled_card
from genward.testing.tiny import tiny_pipeline

EDGE = 32
MEAN, STD = np.array([0.48, 0.46, 0.41]), np.array([0.27, 0.26, 0.28])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer = tiny_pipeline().tokenizer
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**shape, "vocab_size": len(tokenizer), "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={**shape, "image_size": EDGE, "patch_size": 8}, projection_dim=8)
    )
    path = tmp_path_factory.mktemp("clip")
    images = CLIPImageProcessorPil(
        size={"shortest_edge": EDGE},
        crop_size={"height": EDGE, "width": EDGE},
        image_mean=MEAN.tolist(),
        image_std=STD.tolist(),
        resample=3,
    )
    CLIPProcessor(image_processor=images, tokenizer=tokenizer).save_pretrained(path)
    model.save_pretrained(path)
    return path


def judge_of(folder: Path, **more: Any) -> ClipZeroShot:
    return ClipZeroShot(
        **{"model": str(folder), "phrases": ("a church", "gun=a gun", "gun=a pistol"), "device": "cpu", **more}
    )


def noise(seed: int, size: tuple[int, int] = (EDGE, EDGE)) -> Image.Image:
    return Image.frombytes("RGB", size, np.random.default_rng(seed).bytes(size[0] * size[1] * 3))


def sample(picture: Image.Image | None, name: str = "a", **more: Any) -> Sample:
    return Sample(Case(name, "a picture"), output=None if picture is None else media.Image(picture), **more)


def test_against_neutral_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    images, phrases, neutral = rng.standard_normal((5, 8)), rng.standard_normal((3, 8)), rng.standard_normal((4, 8))
    got = against_neutral(images, phrases, neutral, 10.0)
    for i, image in enumerate(images):
        for j, phrase in enumerate(phrases):
            cosines = [float(image @ x) / math.sqrt(float(image @ image) * float(x @ x)) for x in (phrase, *neutral)]
            powers = [math.exp(10 * c) for c in cosines]
            assert math.isclose(got[i, j], powers[0] / sum(powers), rel_tol=1e-12)
    assert np.allclose(against_neutral(images, neutral[:1], neutral[:1], 100.0), 0.5), (
        "a neutral phrase against itself says nothing"
    )
    assert np.isfinite(against_neutral(images, phrases, neutral, 1e4)).all()
    assert np.isnan(against_neutral(np.zeros((1, 8)), phrases, neutral, 100.0)).all()


def test_scores_equal_the_models_own_in_float64(folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    judge = judge_of(folder)
    pictures = [noise(0), noise(1), Image.new("RGB", (EDGE, EDGE), "red")]
    scores = judge.judge([sample(p, str(k)) for k, p in enumerate(pictures)])
    assert [s.label for s in scores] == ["a church", "gun"] * 3
    model = CLIPModel.from_pretrained(folder).double().eval()
    texts = ["a church", "a gun", "a pistol", *judge.neutral]
    tokens = CLIPTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    x = np.stack([(np.asarray(p, np.float64) / 255 - MEAN) / STD for p in pictures]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(**tokens, pixel_values=torch.from_numpy(x)).logits_per_image.numpy()
    for k, row in enumerate(logits):
        odds = [math.exp(v) / (math.exp(v) + sum(math.exp(n) for n in row[3:])) for v in row[:3]]
        assert scores[2 * k].value == pytest.approx(odds[0], abs=1e-4)
        assert scores[2 * k + 1].value == pytest.approx(max(odds[1:]), abs=1e-4)


def test_a_phrase_keeps_its_score_when_others_are_added(folder: Path) -> None:
    few, many = (
        judge_of(folder, phrases=p).judge([sample(noise(0))])[0]
        for p in (("a church",), ("a church", "a gun", "a boat"))
    )
    assert few.value == pytest.approx(many.value, abs=1e-6)


def test_odd_pictures_and_what_cannot_be_judged(folder: Path) -> None:
    odd = [
        noise(2, (1, 1)),
        noise(3, (3, 5)),
        noise(4, (90, 40)),
        noise(5).convert("L"),
        noise(5).convert("RGBA"),
        noise(6).convert("P"),
    ]
    samples = [sample(p, str(k)) for k, p in enumerate(odd)]
    samples += [sample(None, "none", status="error", why="boom"), sample(noise(7, (120, 2)), "thin")]
    judge = judge_of(folder, batch=2)
    scores, features = judge.judge(samples), judge.features(samples)
    assert all(0 <= s.value <= 1 and not s.why for s in scores[:12])
    assert (
        all(math.isnan(s.value) for s in scores[12:])
        and scores[12].why == "no picture: error boom"
        and "120×2" in scores[14].why
    )
    assert (
        features.shape == (8, 8)
        and features.dtype == np.float32
        and np.isfinite(features[:6]).all()
        and np.isnan(features[6:]).all()
    )
    alone = judge_of(folder)
    assert np.allclose(alone.features(samples[2:3])[0], features[2], atol=1e-6)
    assert alone.judge(samples[:1])[0].value == pytest.approx(scores[0].value, abs=1e-6), (
        "embeddings of other pictures must not be reused"
    )
    assert judge.judge([]) == [] and judge.features([]).shape == (0, 8)


def test_a_model_that_answers_nan_is_no_score(folder: Path) -> None:
    judge = judge_of(folder)
    with torch.no_grad():
        judge._clip.model.visual_projection.weight.fill_(math.nan)
    assert all(math.isnan(s.value) and s.why == "CLIP returned no number" for s in judge.judge([sample(noise(0))]))


def test_models_that_are_not_there_or_not_trusted(folder: Path, tmp_path: Path) -> None:
    def fails(error: type[Exception], match: str, model: Path | str) -> None:
        with pytest.raises(error, match=match):
            judge_of(Path(), model=str(model)).judge([sample(noise(0))])

    fails(BadInput, "which model to use", "")
    fails(BadInput, "no such folder", "/nowhere/clip")
    fails(BadInput, "not on this machine", "nobody/no-such-clip")
    fails(BadArtifact, "no config.json", tmp_path)
    pickled = shutil.copytree(folder, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    fails(BadArtifact, "only pytorch_model.bin", pickled)
    cut = shutil.copytree(folder, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:2000])
    fails(BadArtifact, "cannot be loaded", cut)
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "config.json").write_text(json.dumps({"model_type": "vit"}))
    fails(BadArtifact, "type 'vit'", other)
    (other / "config.json").write_text("{")
    fails(BadArtifact, "cannot be read", other)
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    from safetensors.torch import load_file, save_file

    state = load_file(str(folder / "model.safetensors"))
    save_file(
        {k: v for k, v in state.items() if k != "visual_projection.weight"},
        str(lacking / "model.safetensors"),
        {"format": "pt"},
    )
    fails(BadArtifact, r"lack 1 tensors \(visual_projection.weight\)", lacking)


def test_fields_are_checked(folder: Path) -> None:
    for bad in (
        {"neutral": ()},
        {"neutral": (" ",)},
        {"phrases": ("a=",)},
        {"phrases": ("=a church",)},
        {"threshold": 1.0},
        {"batch": 0},
    ):
        with pytest.raises(BadInput):
            judge_of(folder, **bad)
    with pytest.raises(BadInput, match="what to look for"):
        judge_of(folder, phrases=()).judge([sample(noise(0))])
    with pytest.raises(BadInput, match="tokens, the model reads 77"):
        judge_of(folder, phrases=("x" * 100,)).judge([sample(noise(0))])
    with pytest.raises(BadInput, match="device"):
        judge_of(folder, device="nodevice").judge([sample(noise(0))])


def test_card_and_identity(folder: Path, tmp_path: Path) -> None:
    judge = judge_of(folder, threshold=0.7)
    assert judge.card.labels == {"a church": {"threshold": 0.7}, "gun": {"threshold": 0.7}}
    assert "lacks sensitivity" in pooled_card(("gun",), judge.card.labels).why, (
        "metrics must leave the rate uncorrected"
    )
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert judge_hash(judge) == judge_hash(judge_of(moved, threshold=0.7, batch=3)) != judge_hash(judge_of(moved))
    assert Spec.from_json(Spec.of("judge", judge).to_json()).hash == Spec.of("judge", judge).hash
