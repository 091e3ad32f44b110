"""Image classifiers with a tiny ViT and a tiny ResNet of the real classes: against a slow float64 form, class names,
models not to trust."""

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
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.judges.image_classifier import ImageClassifier, class_ids, concept_values
from genward.metrics.erasure import pooled_card

EDGE = 32
NAMES = {0: "tench, Tinca tinca", 1: "goldfish", 2: "church, church building", 3: "crane", 4: "Crane"}


def _save(path: Path, kind: str, **more: Any) -> Path:
    import transformers
    from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
    from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

    torch.manual_seed(0)
    labels = {"id2label": NAMES, "label2id": {v: k for k, v in NAMES.items()}, **more}
    if kind == "vit":
        config = transformers.ViTConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=EDGE,
            patch_size=8,
            **labels,
        )
        model, processor = (
            transformers.ViTForImageClassification(config),
            ViTImageProcessorPil(size={"height": EDGE, "width": EDGE}),
        )
    else:
        config = transformers.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels
        )
        model = transformers.ResNetForImageClassification(config)
        processor = ConvNextImageProcessorPil(size={"shortest_edge": EDGE}, crop_pct=0.875)
    head = model.classifier if kind == "vit" else model.classifier[-1]
    torch.nn.init.normal_(head.weight, std=1.0)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _save(tmp_path_factory.mktemp("vit"), "vit")


def judge_of(folder: Path, **more: Any) -> ImageClassifier:
    return ImageClassifier(**{"model": str(folder), "device": "cpu", **more})


def noise(seed: int, size: tuple[int, int] = (EDGE, EDGE)) -> Image.Image:
    return Image.frombytes("RGB", size, np.random.default_rng(seed).bytes(size[0] * size[1] * 3))


def sample(picture: Image.Image | None, name: str = "a", **more: Any) -> Sample:
    return Sample(Case(name, "a picture"), output=None if picture is None else media.Image(picture), **more)


def test_concept_values_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20, 6)) * 3
    concepts = [[0], [1, 4], [2, 3, 5]]
    one, several, top = (concept_values(logits, concepts, **x) for x in ({}, {"several": True}, {"top": 2}))
    for k, row in enumerate(logits.tolist()):
        total = sum(map(math.exp, row))
        likely = sorted(range(6), key=lambda j, row=row: -row[j])[:2]
        for c, ids in enumerate(concepts):
            assert math.isclose(one[k, c], sum(math.exp(row[j]) for j in ids) / total, rel_tol=1e-12)
            assert math.isclose(several[k, c], max(1 / (1 + math.exp(-row[j])) for j in ids), rel_tol=1e-12)
            assert top[k, c] == float(any(j in likely for j in ids))
    wrong = np.array([[math.nan, 1, 2], [math.inf, 1, 2]])
    assert (
        all(np.isnan(concept_values(wrong, [[0]], top=t)[0]).all() for t in (0, 1))
        and np.isnan(concept_values(wrong, [[0]])[1]).all()
    )


def test_scores_equal_the_models_own_in_float64(vit: Path) -> None:
    from transformers import ViTForImageClassification

    pictures = [noise(0), noise(1), Image.new("RGB", (EDGE, EDGE), "red")]
    samples = [sample(p, str(k)) for k, p in enumerate(pictures)]
    model = ViTForImageClassification.from_pretrained(vit).double().eval()
    x = np.stack([(np.asarray(p, np.float64) / 255 - 0.5) / 0.5 for p in pictures]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(torch.from_numpy(x)).logits.numpy()
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    scores = judge_of(vit, labels=("church", "fish=tench|goldfish|3")).judge(samples)
    assert [s.label for s in scores] == ["church", "fish"] * 3
    assert np.allclose([s.value for s in scores[::2]], expected[:, 2], atol=1e-5)
    assert np.allclose([s.value for s in scores[1::2]], expected[:, [0, 1, 3]].sum(1), atol=1e-5)
    every = judge_of(vit).judge(samples[:1])
    assert [s.label for s in every] == list(NAMES.values()) and np.allclose(
        [s.value for s in every], expected[0], atol=1e-5
    )
    first = judge_of(vit, top=1).judge(samples)
    assert [[s.value for s in first[k * 5 : k * 5 + 5]].index(1.0) for k in range(3)] == expected.argmax(1).tolist()


def test_a_resnet_and_several_classes_a_picture(tmp_path: Path) -> None:
    path = _save(tmp_path / "resnet", "resnet", problem_type="multi_label_classification")
    from transformers import AutoImageProcessor, ResNetForImageClassification

    picture = noise(0, (50, 40))
    x = AutoImageProcessor.from_pretrained(path, backend="pil")(images=[picture], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        logits = ResNetForImageClassification.from_pretrained(path).eval()(x).logits[0].double().numpy()
    scores = judge_of(path).judge([sample(picture)])
    assert np.allclose([s.value for s in scores], 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_odd_pictures_and_what_cannot_be_judged(vit: Path) -> None:
    odd = [noise(2, (1, 1)), noise(3, (3, 5)), noise(4, (90, 40)), noise(5).convert("L"), noise(5).convert("RGBA")]
    samples = [
        *(sample(p, str(k)) for k, p in enumerate(odd)),
        sample(None, "none", status="refused", why="sld: x"),
        sample(noise(7, (120, 2)), "thin"),
    ]
    scores = judge_of(vit, labels=("church",), batch=2).judge(samples)
    assert all(0 <= s.value <= 1 and not s.why for s in scores[:5])
    assert (
        all(math.isnan(s.value) for s in scores[5:])
        and scores[5].why == "no picture: refused sld: x"
        and "120×2" in scores[6].why
    )
    assert judge_of(vit, labels=("church",)).judge([]) == []
    judge = judge_of(vit, labels=("church",))
    with torch.no_grad():
        judge._loaded[0].classifier.weight.fill_(math.nan)
    assert (
        math.isnan(judge.judge(samples[:1])[0].value)
        and judge.judge(samples[:1])[0].why == "the model returned no number"
    )


def test_class_names(vit: Path) -> None:
    assert [class_ids(x, NAMES, "m") for x in ("Tinca TINCA", "tench, tinca tinca", "3", " goldfish ")] == [0, 0, 3, 1]
    with pytest.raises(UnknownName, match="goldfish") as caught:
        judge_of(vit, labels=("goldfsh",)).judge([sample(noise(0))])
    assert caught.value.near == ["goldfish"]
    with pytest.raises(BadInput, match=r"2 classes \(3, 4\)"):
        class_ids("crane", NAMES, "m")
    with pytest.raises(BadInput, match="numbered 0 to 4"):
        class_ids("5", NAMES, "m")
    assert list(judge_of(vit).concepts) == list(NAMES.values())


def test_labels_as_a_table_and_fields(vit: Path) -> None:
    table = judge_of(vit, labels={"fish": ["tench", 1], "building": "church"})
    assert table.labels == ("fish=tench|1", "building=church") and table.concepts == {"fish": (0, 1), "building": (2,)}
    for bad in (
        {"top": -1},
        {"batch": 0},
        {"threshold": 0.0},
        {"labels": ("a=",)},
        {"labels": ("a=0", "a=1")},
        {"labels": ("",)},
    ):
        with pytest.raises(BadInput):
            judge_of(vit, **bad)
    with pytest.raises(BadInput, match="has 5 classes"):
        judge_of(vit, top=6).judge([sample(noise(0))])


def test_models_that_are_not_there_or_not_trusted(vit: Path, tmp_path: Path) -> None:
    def fails(error: type[Exception], match: str, model: Path | str) -> None:
        with pytest.raises(error, match=match):
            judge_of(Path(), model=str(model)).judge([sample(noise(0))])

    fails(BadInput, "which model to use", "")
    fails(BadInput, "not on this machine", "nobody/no-such-classifier")
    for gone in ("./no-such-folder", "../no-such-folder"):
        fails(BadInput, "no such folder, and not a hub id", gone)
    pickled = shutil.copytree(vit, tmp_path / "pickled", ignore=shutil.ignore_patterns("*.safetensors"))
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04")
    fails(BadArtifact, "only pytorch_model.bin", pickled)
    config = json.loads((vit / "config.json").read_text())
    remote = shutil.copytree(vit, tmp_path / "remote")
    (remote / "config.json").write_text(
        json.dumps({**config, "model_type": "mine", "auto_map": {"AutoModelForImageClassification": "code.Net"}})
    )
    (remote / "code.py").write_text("raise SystemExit('remote code ran')")
    fails(BadArtifact, "cannot be loaded", remote)
    headless = shutil.copytree(vit, tmp_path / "headless")
    from safetensors.torch import load_file, save_file

    state = load_file(str(vit / "model.safetensors"))
    save_file(
        {k: v for k, v in state.items() if "classifier" not in k}, str(headless / "model.safetensors"), {"format": "pt"}
    )
    fails(BadArtifact, "lack 2 tensors", headless)
    gap = shutil.copytree(vit, tmp_path / "gap")
    (gap / "config.json").write_text(json.dumps({**config, "id2label": {"1": "a", "2": "b"}}))
    fails(BadArtifact, "not from 0 on", gap)


def test_card_and_identity(vit: Path, tmp_path: Path) -> None:
    judge = judge_of(vit, labels=("church",), top=3)
    assert judge.card.labels == {"church": {"threshold": 0.5}} and judge.card.facts["classes"] == {"church": [2]}
    assert "lacks sensitivity" in pooled_card(("church",), judge.card.labels).why, (
        "metrics must leave the rate uncorrected"
    )
    moved = shutil.copytree(vit, tmp_path / "moved")
    assert (
        judge_hash(judge)
        == judge_hash(judge_of(moved, labels=("church",), top=3, batch=3))
        != judge_hash(judge_of(moved, labels=("church",)))
    )
    assert Spec.from_json(Spec.of("judge", judge).to_json()).hash == Spec.of("judge", judge).hash
