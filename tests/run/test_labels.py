"""Sheets of pictures to label by hand: weights, what the sheet shows, and error rates read back."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.core.records import Sampler
from genward.errors import BadInput
from genward.run.labels import rates, read_labels, sheet
from genward.run.loop import run_plan
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan
from genward.store import Store
from genward.testing import tiny_sd


def test_rates_of_a_stratified_sample_are_those_of_all() -> None:
    """Of 4,000 pictures 200 a stratum are labelled; weighted, they give the rates that all have."""
    rng = np.random.default_rng(0)
    truth = rng.random(4000) < 0.2
    said = np.where(truth, rng.random(4000) < 0.7, rng.random(4000) < 0.03)
    rows = []
    for answer in (0, 1):
        there = np.flatnonzero(said == answer)
        chosen = rng.choice(there, 200, replace=False)
        rows += [(float(answer), float(truth[k]), len(there) / 200) for k in chosen]
    found = rates(rows)
    assert found["sensitivity"] == pytest.approx(said[truth].mean(), abs=0.08)
    assert found["specificity"] == pytest.approx(1 - said[~truth].mean(), abs=0.01)
    plain = [row for row in rows if row[1] == 1]
    assert 1 < found["positives"] < len(plain), "unequal weights are worth fewer pictures"


def test_rates_without_weights_are_counts() -> None:
    found = rates([(1, 1, 1), (0, 1, 1), (0, 0, 1), (0, 0, 1)])
    assert found == {"sensitivity": 0.5, "positives": 2.0, "specificity": 1.0, "negatives": 2.0}
    nothing = rates([(1, 1, 1)])
    assert math.isnan(nothing["specificity"]) and nothing["negatives"] == 0


def test_a_sheet_is_filled_in_and_read_back(tmp_path: Path) -> None:
    plan = Plan("l", (ArmPlan("base", control="base"),), ErasureBenchmark(("banana",), n=1), sampler=Sampler(steps=1))
    store, model = Store(tmp_path / "s"), tiny_sd()
    run_plan(plan, store, models=lambda name: model)
    with pytest.raises(BadInput, match="no sheet"):
        read_labels(store, "l", tmp_path / "labels.csv")
    count = sheet(store, "l", tmp_path, per=4)
    page, path = (tmp_path / "sheet.html").read_text(), tmp_path / "labels.csv"
    assert page.count("<img") == count >= 4 and "base" not in page.replace("base64", ""), "it does not tell the arm"
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [int(x["row"]) for x in lines] == list(range(1, count + 1)) and not any(x["shows"] for x in lines)

    def fill(shows: list[str]) -> None:
        texts = [f"{x['row']},{x['concept']},{s}" for x, s in zip(lines, shows, strict=True)]
        path.write_text("\n".join(["row,concept,shows", *texts]) + "\n")

    fill(["1", "0", "", *["0"] * (count - 3)])
    found = read_labels(store, "l", path)
    assert found["banana"]["undefended"]["positives"] == 1
    (told,) = measure(store, "l")["judge_errors"]
    hand = found["banana"]["undefended"]
    if hand["sensitivity"] + hand["specificity"] > 1.06:
        assert told["source"] == "labels by hand"
    else:
        assert told["source"] == "renders" and "labels by hand" in told["why"]
    for wrong in ("2", "yes"):
        fill([wrong, *[""] * (count - 1)])
        with pytest.raises(BadInput, match="1, 0 or nothing"):
            read_labels(store, "l", path)
    head, *rest = path.read_text().splitlines()
    for lines, told_ in ((rest[1:], "1 of the sheet's"), ([*rest, rest[0]], "there twice"), (['1,"banana,1'], "quote")):
        path.write_text("\n".join([head, *(line.replace("yes", "") for line in lines)]) + "\n")
        with pytest.raises(BadInput, match=told_):
            read_labels(store, "l", path)
    path.write_text("row,concept,shows\n1,cat,1\n")
    with pytest.raises(BadInput, match="made again"):
        read_labels(store, "l", path)


def test_sheets_are_of_the_labs_pictures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("x", (ArmPlan("base", control="base"),), ErasureBenchmark(("banana",), n=1))
    monkeypatch.setattr("genward.run.labels.load_plan", lambda *_: replace(plan, model="somewhere/else"))
    with pytest.raises(BadInput, match="lab's pictures alone"):
        sheet(Store(tmp_path), "x", tmp_path)
