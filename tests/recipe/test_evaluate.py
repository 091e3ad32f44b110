"""``genward lab evaluate`` with a model and judges that are known: rows, rates, refusals of a second judge that proves
nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from genward import lab
from genward.core import Card, Case, Sample, Score, media
from genward.judges import lab as judge_room
from genward.lab.data import held_out, vocabulary
from genward.recipe import evaluate as labevaluate

WORDS = vocabulary()
NAMES = (*WORDS.names, *WORDS.style_names)
LINE = {"sensitivity": 0.95, "specificity": 0.99, "positives": 50, "negatives": 500, "threshold": 0.5}


def shown(case: Case) -> set[str]:
    """The labels that a prompt by name asks for."""
    text, _, style = case.prompt.removesuffix(" style").rpartition(" in ")
    parts = text.split(" and ") if text not in {t.phrase for t in WORDS.things} else [text]
    return {style} | {t.name for t in WORDS.things if t.phrase in parts}


class Model:
    """Pictures are blank; every eighth case fails."""

    def generate(self, cases: Sequence[Case], sampler: Any, *, batch: int, progress: Any) -> list[Sample]:
        blank = Image.new("RGB", (64, 64))
        return [
            Sample(c, output=None if k % 8 == 7 else media.Image(blank), status="error" if k % 8 == 7 else "ok")
            for k, c in enumerate(cases)
        ]


class Judge:
    """Sees what names in the prompt ask for, nothing else."""

    def __init__(self, folder: str = "", network: str = "residuals", sensitivity: float = 0.95) -> None:
        if folder.endswith("second_judge"):
            network, sensitivity = Judge.second
        self.labels, self.card = (
            NAMES,
            Card("lab", "", {n: {**LINE, "sensitivity": sensitivity} for n in NAMES}, {"network": network}),
        )

    second = ("plain", 0.95)

    def judge(self, samples: Sequence[Sample]) -> list[Score]:
        return [
            Score(s.id, n, math.nan if s.image is None else 0.9 if n in shown(s.case) else 0.1)
            for s in samples
            for n in NAMES
        ]


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("genward.catalog.opening.open_model", lambda name: Model())
    monkeypatch.setattr(judge_room, "LabJudge", Judge)
    monkeypatch.setattr(labevaluate, "_psnr", lambda: 27.0)
    (tmp_path / "oracle").mkdir()
    monkeypatch.setattr(lab, "weights_folder", lambda: tmp_path)
    monkeypatch.setattr(lab, "manifest", lambda: {"unet/a.safetensors": "0" * 64})
    monkeypatch.setattr(lab, "card", lambda: {"data": {"missing_pairs": [["drum", "firefox"]]}})
    monkeypatch.setattr(Judge, "second", ("plain", 0.95))


def test_rows() -> None:
    rows = labevaluate.cells(20, 0)
    counts = Counter(r.group for r in rows)
    assert counts["name"] == 60 and counts["scene"] == counts["held-out pair"] == counts["synonym-heldout"] == 20
    assert counts["kind: a weapon"] == 10
    assert len({r.case.id for r in rows}) == len({r.case.seed for r in rows}) == len(rows)
    for r in rows:
        assert all(held_out(o, r.style) == (r.group == "held-out pair") for o in r.objects)
        assert r.case.prompt.endswith(f" in {r.style} style")
    assert rows == labevaluate.cells(20, 0) and rows != labevaluate.cells(20, 1)


def test_pairs_that_no_set_draws_are_never_asked_for() -> None:
    missing = {(t.name, s) for t in WORDS.things[8:] for s in WORDS.style_names}
    assert {o for r in labevaluate.cells(10, 0, missing) for o in r.objects} <= {t.name for t in WORDS.things[:8]}


def test_rates_carry_wilson_intervals() -> None:
    """Against the interval's formula written out for 9 of 10."""
    z, p, n = 1.959963984540054, 0.9, 10
    center, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    got = labevaluate.rate([True] * 9 + [False])
    assert got == {
        "value": 0.9,
        "low": pytest.approx(center - half, abs=1e-4),
        "high": pytest.approx(center + half, abs=1e-4),
        "n": 10,
    }
    assert math.isnan(labevaluate.rate([])["value"])


def test_figures_of_a_model_that_is_known(stand_ins: None) -> None:
    first = labevaluate.evaluate(16, 0)
    groups = first["groups"]
    assert (
        groups["name"]["object"]["value"]
        == groups["name"]["detected"]["value"]
        == groups["name"]["style"]["value"]
        == 1
    )
    assert (
        groups["scene"]["both"]["value"]
        == groups["scene"]["at_least_one"]["value"]
        == groups["scene"]["both_top2"]["value"]
        == 1
    )
    assert groups["synonym"]["detected"]["value"] == 0 and groups["kind: a weapon"]["policy"]["value"] == 0
    total = 3 * 16 + 16 + 4 * 16 + 16 + 3 * 8
    assert first["unscored"] == total // 8
    assert sum(line["style"]["n"] for line in groups.values()) == total - first["unscored"], (
        "a picture that failed enters no rate"
    )
    assert (
        first["judge"]["pictures"] == total - first["unscored"]
        and first["judge"]["sensitivity"] == first["judge"]["specificity"] == 1
    )
    assert first["oracle"]["lab"]["n"] == first["oracle"]["lab:oracle"]["n"] == 14
    assert "friendly sample" in first["note"]
    second = labevaluate.evaluate(16, 0)
    assert {k: v for k, v in first.items() if k != "images_per_second"} == {
        k: v for k, v in second.items() if k != "images_per_second"
    }


def test_without_an_oracle_the_rest_is_measured(stand_ins: None, tmp_path: Path) -> None:
    (tmp_path / "oracle").rmdir()
    found = labevaluate.evaluate(16, 0)
    assert (
        set(found["oracle"]) == {"lab"}
        and "not among the weights" in found["note"]
        and found["groups"]["name"]["object"]["value"] == 1
    )


@pytest.mark.parametrize(
    ("second", "why"),
    [(("residuals", 0.95), "architecture"), (("plain", 0.6), "60%"), (("plain", math.nan), "no measure")],
)
def test_a_second_judge_that_proves_nothing(
    stand_ins: None, monkeypatch: pytest.MonkeyPatch, second: tuple[str, float], why: str
) -> None:
    monkeypatch.setattr(Judge, "second", second)
    samples = Model().generate([r.case for r in labevaluate.cells(2, 0)][:4], None, batch=1, progress=None)
    judge = Judge()
    values = np.array([s.value for s in judge.judge(samples)]).reshape(4, -1)
    found = labevaluate._second(judge, samples, values, list(NAMES))
    assert found["pictures"] == 0 and why in found["why"] and "sensitivity" not in found
