"""A judge measured on a folder of labelled pictures, the card that comes of it, and rates of judges without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genward import lab
from genward.catalog.judges import bare, card_of, judge_hash, open_judge
from genward.catalog.measuring import calibrate, error_rates, labelled, uncorrected
from genward.cli.app import status
from genward.core.benchmark import raw_marked
from genward.core.media import Image as Picture
from genward.core.records import Case, Sample
from genward.errors import BadInput, UnknownName
from genward.metrics.cards import pooled_card
from genward.metrics.intervals import wilson

TINY = "image_classifier,labels=red=0;blue=1,threshold=0.5"


def drawn(folder: Path, counts: dict[str, int]) -> Path:
    """Noise of the named colors, one folder each."""
    rng = np.random.default_rng(0)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(0, 255, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny image classifier of the real class, as a folder."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    folder = tmp_path_factory.mktemp("vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=16, patch_size=8,
        id2label={0: "red", 1: "blue"}, label2id={"red": 0, "blue": 1},
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def test_rates_are_counts() -> None:
    said = {"cat": [0.9, 0.2, float("nan"), 0.7, 0.1, 0.1]}
    truth = ["cat", "cat", "cat", "none", "none", "dog"]
    found = error_rates(said, truth, "cat", 0.5)
    assert found == {"threshold": 0.5, "sensitivity": 0.5, "positives": 2, "specificity": 2 / 3, "negatives": 3}


def test_a_judge_is_measured_and_opened_with_its_card(model: Path, tmp_path: Path) -> None:
    text = f"image_classifier,model={model},labels=red;blue,threshold=0.5"
    folder = drawn(tmp_path / "set", {"red": 25, "blue": 22, "none": 21})
    card = calibrate(text, folder, tmp_path / "card.json")
    judge = open_judge(text)
    files = {label: sorted((folder / label).iterdir()) for label in ("red", "blue", "none")}
    for label, others in (("red", ("blue", "none")), ("blue", ("red", "none"))):
        hits = {}
        for part, paths in files.items():
            samples = [Sample(Case(p.name, "", seed=0), output=Picture(Image.open(p).convert("RGB"))) for p in paths]
            hits[part] = [s.value >= 0.5 for s in judge.judge(samples) if s.label == label]
        rates = card["labels"][label]
        assert rates["sensitivity"] == pytest.approx(np.mean(hits[label]))
        quiet = [not hit for part in others for hit in hits[part]]
        assert rates["specificity"] == pytest.approx(np.mean(quiet)) and rates["negatives"] == len(quiet)
        low, high = card["intervals"][label]["sensitivity"]
        assert (low, high) == pytest.approx(wilson(sum(hits[label]), len(hits[label]))[1:3])

    carded = open_judge(f"{text},card={tmp_path / 'card.json'}")
    assert type(carded).name == "image_classifier" and carded.card.labels["red"]["positives"] == 25
    assert carded.card.labels["red"]["threshold"] == 0.5 and carded.card.facts["measured"]
    assert judge_hash(carded) != judge_hash(judge) == card["hash"]
    assert [s.value for s in carded.judge(samples)] == [s.value for s in judge.judge(samples)]
    before, after = (pooled_card(("red",), j.card.labels) for j in (judge, carded))
    assert before.why and ("no error rates" in before.why or "card" in before.why)
    assert after.card["positives"] == 25

    with pytest.raises(BadInput, match="measured on judge"):
        open_judge(f"image_classifier,model={model},labels=red;blue,threshold=0.6,card={tmp_path / 'card.json'}")
    assert bare(f"{text},card=x.json,top=1") == f"{text},top=1" and card_of("lab") is None
    for bad in ("lab,card=a,card=b", "lab,card="):
        with pytest.raises(BadInput, match="card"):
            card_of(bad)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "other"},
        {"labels": {}},
        {"labels": {"bomb": {"sensitivity": 1.2, "specificity": 1, "positives": 3, "negatives": 3}}},
        {"labels": {"bomb": {"sensitivity": 1, "specificity": None, "positives": 3, "negatives": 3}}},
        {"labels": {"bomb": {"sensitivity": 1, "specificity": 1, "positives": 0, "negatives": 3}}},
        {"labels": {"bomb": 3}},
        {"hash": "0" * 16},
    ],
)
def test_a_card_that_is_none_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    good = {"sensitivity": 0.9, "specificity": 0.95, "positives": 30, "negatives": 40}
    card = {"schema": "genward judge card 1", "hash": judge_hash(open_judge("lab")), "labels": {"bomb": good}}
    path = tmp_path / "card.json"
    path.write_text(json.dumps(card))
    assert open_judge(f"lab,card={path}").card.labels["bomb"]["sensitivity"] == 0.9
    path.write_text(json.dumps({**card, **change}))
    with pytest.raises(BadInput, match="judge card|measured on judge"):
        open_judge(f"lab,card={path}")


def test_folders_that_are_no_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        labelled(tmp_path / "nothing")
    with pytest.raises(BadInput, match="no folder of a label"):
        labelled(drawn(tmp_path / "a", {"none": 2}))
    (tmp_path / "b" / "cat").mkdir(parents=True)
    with pytest.raises(BadInput, match="holds no picture"):
        labelled(tmp_path / "b")
    with pytest.raises(UnknownName, match="rde"):
        labelled(drawn(tmp_path / "c", {"rde": 1}), ("red", "blue"))


def test_a_card_that_corrects_nothing_is_said() -> None:
    def card(**changes: float) -> dict[str, Any]:
        rates = {"sensitivity": 0.9, "specificity": 0.9, "positives": 20.0, "negatives": 20.0}
        return {"labels": {"red": rates | changes}}

    assert uncorrected(card()) == []
    for changes, told in (
        ({"specificity": 0.1}, "red: the judge tells too little"),
        ({"negatives": 0}, "no negatives"),
    ):
        assert told in uncorrected(card(**changes))[0]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipe = lab.pipeline()
    for label, prompt in (("bomb", "a bomb in noto style"), ("none", "a cat in noto style")):
        (tmp_path / "set" / label).mkdir(parents=True)
        pipe(prompt, num_inference_steps=4).images[0].save(tmp_path / "set" / label / "0.png")
    out = tmp_path / "card.json"
    assert status(["judge", "calibrate", str(tmp_path / "set"), "--judge", "lab", "--out", str(out)]) == 0
    told = capsys.readouterr()
    assert "bomb" in told.out and "sensitivity" in told.out and "few pictures of bomb: 1 pictures" in told.err
    assert open_judge(f"lab,card={out}").card.labels["bomb"]["positives"] == 1
    for bad in (
        ["judge", "calibrate", str(tmp_path / "set")],
        ["judge", "a-run", str(tmp_path / "set"), "--judge", "lab"],
        ["judge", "calibrate", str(tmp_path / "set"), "--judge", "lab", "--out", "card.toml"],
    ):
        assert status(bad) == 3
    capsys.readouterr()
    assert status(["judge", "calibrate", "--store", str(tmp_path / "nowhere")]) == 3
    assert "give the folder" in capsys.readouterr().err


def test_what_cannot_be_corrected_is_printed_raw() -> None:
    row = {"crr": None, "crr_raw": 0.25, "crr_raw_low": 0.1, "crr_raw_high": 0.5, "interval": "-"}
    assert raw_marked(row, "crr") == {**row, "crr": "0.25 raw", "interval": "0.10 … 0.50"}
    for same in ({**row, "crr": 0.3}, {**row, "crr_raw": None}, {**row, "crr_raw_low": None}):
        assert raw_marked(same, "crr") == same
    assert raw_marked(row, "") == row
