"""The lab's judge: calibration by hand, folders that are missing or broken, pictures that cannot be judged."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from genward.core import Case, Sample, media
from genward.errors import BadArtifact
from genward.judges.lab import LabJudge
from genward.judges.training import agreement, calibrate, disturb
from genward.ops.vision import SHAPES

NAMES = ["cat", "dog", "noto"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = SHAPES["residuals"](len(NAMES))
    save_file(
        {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()},
        str(tmp_path / "judge.safetensors"),
    )
    one = {"sensitivity": 0.9, "specificity": 0.99, "positives": 50, "negatives": 500, "threshold": 0.5}
    (tmp_path / "card.json").write_text(
        json.dumps({"network": "residuals", "names": NAMES, "summary": "s", "labels": {n: one for n in NAMES}})
    )
    return tmp_path


def picture(color: str, size: int = 64) -> Sample:
    return Sample(Case(color, "a cat"), output=media.Image(Image.new("RGB", (size, size), color)))


def test_scores_and_features(folder: Path) -> None:
    judge = LabJudge(folder=str(folder))
    samples = [picture("red"), Sample(Case("none", "a cat"), status="refused", why="x: y"), picture("blue", 100)]
    scores = judge.judge(samples)
    assert [s.label for s in scores] == NAMES * 3 and all(0 <= s.value <= 1 for s in scores[:3] + scores[6:])
    assert all(math.isnan(s.value) and "refused" in s.why for s in scores[3:6])
    features = judge.features(samples)
    assert features.shape == (3, 160) and np.isnan(features[1]).all() and np.isfinite(features[[0, 2]]).all()
    alone = LabJudge(folder=str(folder), batch=1).judge(samples)
    assert np.allclose([s.value for s in alone[:3]], [s.value for s in scores[:3]], atol=1e-6)
    assert judge.card.labels["cat"]["threshold"] == 0.5


def test_missing_and_broken_folders(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="no judge in"):
        LabJudge(folder=str(tmp_path / "nowhere")).judge([picture("red")])
    other = tmp_path / "broken"
    other.mkdir()
    (other / "card.json").write_text((folder / "card.json").read_text())
    (other / "judge.safetensors").write_bytes((folder / "judge.safetensors").read_bytes()[:2000])
    with pytest.raises(BadArtifact, match="cannot be loaded"):
        LabJudge(folder=str(other)).judge([picture("red")])


def test_calibration_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    truth = (rng.random((4000, 2)) < 0.2).astype(float)
    truth[rng.random((4000, 2)) < 0.05] = np.nan
    values = np.clip(0.35 * np.nan_to_num(truth) + 0.3 + 0.12 * rng.standard_normal((4000, 2)), 0, 1)
    card = calibrate(values, truth, ["a", "b"], specificity=0.98, floor=0.3)
    for k, name in enumerate(("a", "b")):
        absent = sorted(values[i, k] for i in range(0, 4000, 2) if truth[i, k] == 0)
        position = 0.98 * (len(absent) - 1)
        low = int(position)
        threshold = absent[low] + (position - low) * (absent[low + 1] - absent[low])
        hits = [values[i, k] >= threshold for i in range(1, 4000, 2) if truth[i, k] == 1]
        clear = [values[i, k] < threshold for i in range(1, 4000, 2) if truth[i, k] == 0]
        got = card[name]
        assert (
            got["threshold"] == pytest.approx(threshold)
            and got["positives"] == len(hits)
            and got["negatives"] == len(clear)
        )
        assert got["sensitivity"] == pytest.approx(sum(hits) / len(hits)) and got["specificity"] == pytest.approx(
            sum(clear) / len(clear)
        )
        assert 0.96 < got["specificity"] < 1


def test_agreement_counts() -> None:
    card = {"a": {"threshold": 0.5}, "b": {"threshold": 0.5}}
    first = np.array([[0.9, 0.1], [0.9, 0.9], [0.1, 0.1], [0.1, 0.9]])
    second = np.array([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1], [0.1, 0.1]])
    found = agreement(first, second, card, card, ["a", "b"])
    assert found["positives"] == 3 and found["negatives"] == 5
    assert found["sensitivity"] == pytest.approx(2 / 3) and found["specificity"] == pytest.approx(3 / 5)


def test_disturb_stays_in_range_and_keeps_white_nearly_white() -> None:
    x = torch.ones(8, 3, 64, 64)
    y = disturb(x, torch.Generator().manual_seed(0))
    assert y.max() <= 1 and y.min() >= -1 and y.mean() > 0.85


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_networks_take_64_pixels(shape: str) -> None:
    net = SHAPES[shape](69).eval()
    with torch.no_grad():
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 69)
    assert sum(p.numel() for p in net.parameters()) < 1_000_000
