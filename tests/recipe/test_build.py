"""``genward lab build`` on icons drawn here: every stage once with one step, the package read back, refusals, the
judges' pictures."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from genward import lab
from genward.core.checkpoint import CHECKPOINT, load_checkpoint
from genward.errors import BadArtifact, BadInput, UnknownName
from genward.judges.lab import LabJudge
from genward.lab import autoencoder, data
from genward.lab import unet as net
from genward.recipe import build as labbuild
from genward.recipe import denoiser, package, workshop
from genward.recipe import judges as labjudge

WORDS = data.vocabulary()


def sprites() -> dict[tuple[str, str], Image.Image]:
    rng = random.Random(0)
    pairs = [(t.name, s) for t in WORDS.things for s in WORDS.style_names]
    return {
        p: Image.new("RGB", (128, 128), (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
        for p in pairs[:-1]
    }


SPRITES = sprites()
OTHERS = [(s, Image.new("RGB", (128, 128), "gray")) for s in WORDS.style_names]


class Identity:
    """Stands in for the autoencoder: counts what it decodes."""

    decoded = 0

    def encode(self, x: torch.Tensor) -> Any:
        return type("Out", (), {"latent_dist": type("Dist", (), {"mean": x})()})()

    def decode(self, z: torch.Tensor) -> Any:
        self.decoded += len(z)
        return type("Out", (), {"sample": z})()


def pictures(**options: Any) -> labjudge.Pictures:
    return labjudge.Pictures(WORDS, SPRITES, OTHERS, Identity(), seed=3, **options)


def test_a_judges_batch_says_what_it_shows() -> None:
    x, labels, weights = pictures().batch(64)
    assert x.shape == (64, 3, 64, 64) and x.min() >= -1 and x.max() <= 1
    objects, styles = labels[:, : len(WORDS.names)].sum(1), labels[:, len(WORDS.names) :].sum(1)
    assert objects.max() <= 2 and styles.max() <= 1
    mush = (objects == 0) & (styles == 0)
    assert 8 <= int(mush.sum()) <= 12, "an eighth is mush, a few more are drowned in noise"
    assert (weights[:, : len(WORDS.names)] == 1).all(), "no object is always known"
    assert (weights[mush][:, len(WORDS.names) :] == 0).all() and (weights[~mush] == 1).all()
    again = pictures().batch(64)
    assert all(torch.equal(a, b) for a, b in zip((x, labels, weights), again, strict=True))


def test_reuse_decodes_less_and_keeps_labels_with_their_pictures() -> None:
    plain, thrifty = pictures(), pictures(reuse=0.75)
    for _ in range(24):
        plain.batch(64)
        thrifty.batch(64)
    assert plain.vae.decoded == 24 * 32 and not plain.kept
    assert thrifty.vae.decoded == 16 * 32 + 8 * 8 and len(thrifty.kept) == thrifty.vae.decoded
    kept = [
        (x, labels)
        for x, labels, _ in thrifty.kept
        if labels[: len(WORDS.names)].sum() == 1 and labels[len(WORDS.names) :].sum() == 1
    ]
    close = 0
    for x, labels in kept:
        shown = [k for k, v in enumerate(labels.tolist()) if v]
        name, style = thrifty.names[shown[0]], thrifty.names[shown[1]]
        color = torch.tensor(SPRITES.get((name, style), OTHERS[0][1]).getpixel((0, 0))).float() / 127.5 - 1
        close += bool((x - color[:, None, None]).abs().amax(0).lt(0.9).float().mean() > 0.15)
    assert close > 0.95 * len(kept)


def test_no_round_trips() -> None:
    source = pictures(round_trips=0.0)
    source.batch(16)
    assert source.vae.decoded == 0


@pytest.mark.parametrize(
    ("icon", "known"),
    [
        ("water-pistol", True),
        ("middle-finger-dark", True),
        ("houses", True),
        ("skull", True),
        ("keyboard", False),
        ("donkey", False),
        ("unicorn", False),
    ],
)
def test_icons_that_show_an_object_are_no_strangers(icon: str, known: bool) -> None:
    assert workshop.names_known(icon, WORDS) is known


def test_one_judge_from_pictures_to_verdicts(tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    card = labjudge.fit(
        "second_judge",
        lambda s: pictures(),
        held=lambda s: pictures(),
        seconds=0.01,
        work=tmp_path,
        out=tmp_path / "out",
        rows=128,
        report=told.append,
    )
    judge = LabJudge(folder=str(tmp_path / "out"))
    assert judge.labels == (*WORDS.names, *WORDS.style_names) and set(judge.card.labels) == set(judge.labels)
    assert judge.card.facts["sha256"] == card["sha256"] and "never drew" in judge.card.facts["calibration"]
    scored = sum(v["positives"] + v["negatives"] for v in card["labels"].values())
    assert 0 < scored <= 64 * len(judge.labels)
    resumed = labjudge.fit(
        "second_judge", lambda s: pictures(), seconds=0.01, work=tmp_path, out=tmp_path / "again", rows=128
    )
    assert resumed["sha256"] == card["sha256"], "a finished training is not gone on with"
    with pytest.raises(BadInput, match="another shape"):
        shutil.copytree(tmp_path / "second_judge", tmp_path / "judge")
        labjudge.fit("judge", lambda s: pictures(), seconds=0.01, work=tmp_path, out=tmp_path / "no", rows=128)


def test_a_judge_beside_another_ones_card_is_refused(tmp_path: Path) -> None:
    labjudge.fit("second_judge", lambda s: pictures(), seconds=0.01, work=tmp_path, out=tmp_path / "out", rows=64)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    (tmp_path / "out" / "card.json").write_text(json.dumps({**card, "sha256": "0" * 64}))
    with pytest.raises(BadArtifact, match="SHA-256 differs"):
        LabJudge(folder=str(tmp_path / "out")).judge([])


def test_unknown_stages_and_missing_earlier_ones(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="autoencoder"):
        labbuild.build(["autoencoders"], work=tmp_path)
    (tmp_path / "icons").mkdir()
    with pytest.raises(BadInput, match="icon sets noto"):
        labbuild.build(["references"], work=tmp_path, icons=tmp_path / "icons")
    shop = workshop.Workshop(tmp_path)
    with pytest.raises(BadInput, match="run the autoencoder stage first"):
        _ = shop.vae
    with pytest.raises(BadInput, match="run the unet stage first"):
        denoiser.stage_oracles(shop)


class Small(torch.nn.Module):
    """A denoiser with one weight: the stages need its training, not its pictures."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, x: torch.Tensor, t: torch.Tensor, text: torch.Tensor) -> Any:
        return type("Out", (), {"sample": self.scale * x})()

    def save_pretrained(self, folder: Path, safe_serialization: bool) -> None:
        from safetensors.torch import save_file

        assert safe_serialization
        folder.mkdir()
        save_file(dict(self.state_dict()), str(folder / "diffusion_pytorch_model.safetensors"))


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> workshop.Workshop:
    few = torch.randn(8, 4, 16, 16).half()
    pool = net.Pool(
        few,
        torch.zeros(8, 1, dtype=torch.long),
        torch.zeros(1, 28, 384).half(),
        torch.arange(8) >= 4,
        torch.zeros(28, 384).half(),
    )
    monkeypatch.setattr(net, "build", Small)
    monkeypatch.setattr(net, "eager_attention", lambda unet: None)
    monkeypatch.setattr(denoiser, "_pool", lambda shop, which: pool)
    made = workshop.Workshop(tmp_path, minutes=1e-4, steps=2)
    made._cache.update(sprites=SPRITES, others=OTHERS, unknown=OTHERS)
    return made


def test_every_stage_then_a_package_that_reads_back(shop: workshop.Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    autoencoder.build().save_pretrained(shop.work / "vae")
    with pytest.raises(BadInput, match="run the stages before package"):
        package.stage_package(shop, shop.work / "weights")
    denoiser.stage_unet(shop)
    denoiser.stage_oracles(shop)
    steps = {p: load_checkpoint(shop.work / p / CHECKPOINT)["step"] for p in ("trunk", "lab", "oracle")}
    assert steps == {"trunk": 2, "lab": 2, "oracle": 2}
    for which in labjudge.NETWORKS:
        labjudge.fit(which, lambda s: pictures(), seconds=0.01, work=shop.work, out=shop.work / "out" / which, rows=64)
    package.stage_references(shop)
    out = package.stage_package(shop, shop.work / "weights")
    monkeypatch.setattr(lab, "weights_folder", lambda: out)
    lab.manifest.cache_clear()
    names = lab.manifest()
    lab.manifest.cache_clear()
    assert {n.split("/")[0] for n in names} == {
        "vae",
        "scheduler",
        "unet",
        "oracle",
        "judge",
        "second_judge",
        "references",
    }
    assert lab.card()["data"]["missing_pairs"] == [[WORDS.names[-1], WORDS.style_names[-1]]]
    assert lab.card()["training"]["oracle"]["steps"] == 2
    assert 190 <= len(lab.references()) <= 210
    assert not out.with_name("weights.part").exists()


def test_references_are_the_same_each_time_and_never_two_alike_sizes(shop: workshop.Workshop) -> None:
    package.stage_references(shop)
    folder = shop.work / "out" / "references"
    first = {p.name: p.read_bytes() for p in folder.glob("*.png")}
    package.stage_references(shop)
    assert first == {p.name: p.read_bytes() for p in folder.glob("*.png")}
    assert all(np.asarray(Image.open(folder / n)).shape == (64, 64, 3) for n in first)


def test_data_stage_without_npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="npm is not installed"):
        labbuild.build(["data"], work=tmp_path)


def test_what_is_said_to_come_with_the_lab_does(tmp_path: Path) -> None:
    from genward.catalog.fitting import fit_once, shipped_artifacts
    from genward.catalog.opening import open_model

    model = open_model("lab")
    stems = [fit_once(text, model, shipped_artifacts()) for texts in package.SHIPPED.values() for text in texts]
    assert all(stem.with_suffix(".json").is_file() for stem in stems)
    there = {p.stem for p in shipped_artifacts().glob("*.safetensors")}
    assert there == {one.name for stem in stems for one in (stem, *package.standing_on(stem))}


def test_fitted_stages_keep_what_is_there_and_copy_it_into_the_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genward.testing import tiny_sd

    told: list[str] = []
    model = tiny_sd()
    monkeypatch.setattr("genward.catalog.opening.open_model", lambda name: model)
    monkeypatch.setattr("genward.catalog.fitting.shipped_artifacts", lambda: tmp_path / "lab")
    monkeypatch.setitem(package.SHIPPED, "guards", ("aeiou:weapons",))
    work = workshop.Workshop(tmp_path / "work", report=lambda stage, done, whole, text: told.append(text))
    package.stage_guards(work)
    (made,) = (tmp_path / "lab").glob("*.safetensors")
    first = (tmp_path / "work" / "fits" / made.name).stat().st_mtime_ns
    assert json.loads(made.with_suffix(".json").read_text())["method"] == "aeiou"
    told.clear()
    package.stage_guards(work)
    assert told == ["aeiou:weapons", "1 artifacts"]
    assert (tmp_path / "work" / "fits" / made.name).stat().st_mtime_ns == first
