"""The prompt-guard run on made-up sets and a tiny random encoder: rows never shared, cells complete, states cached,
nothing quoted."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from genward.benchmarks.prompt_guard import PromptGuardBenchmark, figures, guards
from genward.benchmarks.prompt_guard.questions import layout_of, questions
from genward.benchmarks.prompt_guard.sets import PromptRow, read_sets
from genward.defenses.aeiou import Aeiou
from genward.errors import BadInput, UnknownName
from genward.models.text import TextEncoder
from genward.ops import artifacts
from genward.run import workbench
from genward.run.loop import run_plan
from genward.run.measure import measure
from genward.run.plan import Plan
from genward.store import Store
from genward.testing import tiny_sd

GOOD = "cup bowl dog apple tree lamp chair boat cloud river".split()
BAD = "zzaw zzaxe zzgrip zzedge zzfuse".split()
PLACES = "park room street field shop hall yard lane cove barn".split()


def sentence(rng: random.Random, word: str) -> str:
    words = [word, *(rng.choice([*GOOD, *PLACES]) for _ in range(9))]
    rng.shuffle(words)
    return " ".join(words)


def make(folder: Path) -> Path:
    folder.mkdir()
    for name, harmful, benign in (("mixed", 60, 60), ("other", 60, 60), ("danger", 90, 0), ("calm", 0, 90)):
        rng = random.Random(name)
        rows = [(sentence(rng, rng.choice(BAD)), "unsafe", rng.choice(["x", "y"])) for _ in range(harmful)]
        rows += [(sentence(rng, rng.choice(GOOD)), "safe", "") for _ in range(benign)]
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("prompt", "label", "category"), *rows])
    return folder


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    pipe = tiny_sd(encoder="bert", folder=tmp_path_factory.mktemp("words")).pipe
    return TextEncoder(pipe.tokenizer, pipe.text_encoder, name="tiny", tokens=28)


def run(
    folder: Path,
    store: Path,
    coder: TextEncoder,
    progress: Any = None,
    others: dict[str, Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """The whole loop with an encoder of one's own, and guards of other makers by name."""
    plan = Plan("pg", (), PromptGuardBenchmark(data=str(folder), others=tuple(others or ()), **fields))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workbench.Bench, "text_encoder", lambda self, tokens: coder)
        patch.setattr(workbench.Bench, "text_guard", lambda self, text: (others or {})[text])
        return run_plan(plan, store, progress=progress, command="genward run prompt-guard")


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, coder: TextEncoder) -> tuple[Path, Path, dict[str, Any]]:
    base = tmp_path_factory.mktemp("sets")
    folder = make(base / "data")
    return folder, base / "out" / "runs" / "pg", run(folder, base / "out", coder)


FIGURES = {
    "guard",
    "dataset",
    "auroc",
    "auprc",
    "accuracy",
    "tpr_at_fpr1",
    "tpr_at_fpr5",
    "fpr",
    "low",
    "high",
    "n",
    "ms_per_prompt",
}
RANKED = ("auprc", "tpr_at_fpr1", "tpr_at_fpr5")


def test_cells(ran: tuple[Path, Path, dict[str, Any]]) -> None:
    result = ran[2]
    whole = [c for c in result["cells"] if not c["category"]]
    assert all(set(c) >= FIGURES for c in result["cells"])
    asked = {(d, s) for d in ("mixed", "other", "danger", "calm") for s in ("own", "in", "out")} - {("calm", "own")}
    for guard in result["run"]["guards"]:
        assert {(c["dataset"], c["split"]) for c in whole if c["guard"] == guard} == asked
    for cell in whole:
        if cell["dataset"] == "calm":
            assert cell["auroc"] is None and cell["interval_of"] == "fpr" and cell["low"] <= cell["fpr"] <= cell["high"]
        else:
            assert cell["low"] <= cell["auroc"] <= cell["high"] and 0 < cell["n_harmful"] < cell["n"]
        for name in RANKED:
            low, value, high = cell[f"{name}_low"], cell[name], cell[f"{name}_high"]
            assert (low is value is high is None) if cell["dataset"] == "calm" else 0 <= low <= value <= high <= 1
    assert any(c[f"{name}_low"] < c[f"{name}_high"] for c in whole for name in RANKED if c[name] is not None)
    assert len({frozenset(c) for c in result["cells"] if not c["category"]}) == 1, "every cell has the same columns"
    assert {c["category"] for c in result["cells"] if c["dataset"] == "danger"} == {"", "x", "y"}
    aeiou = [c["auroc"] for c in whole if c["guard"] == "aeiou" and c["auroc"] is not None]
    assert sum(aeiou) / len(aeiou) > 0.6, "letters that only harmful words have are found even by a random encoder"
    json.dumps(result, allow_nan=False)


def test_figures_by_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.4
    scores = rng.normal(size=200).round(1) + labels
    units = [f"u{k // 2}" for k in range(200)]
    found = figures.figures(scores, labels, units, 0.5, draws=200)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert found["auroc"] == round(roc_auc_score(labels, scores), 6) and found["auprc"] == round(
        average_precision_score(labels, scores), 6
    )
    assert found["tpr_at_fpr1"] == round(true[false <= 0.01].max(), 6) and found["tpr_at_fpr5"] == round(
        true[false <= 0.05].max(), 6
    )
    assert (
        found["auprc_low"] < found["auprc"] < found["auprc_high"]
        and found["tpr_at_fpr5_low"] < found["tpr_at_fpr5"] < found["tpr_at_fpr5_high"]
    )
    wide = figures.figures(
        np.repeat(scores, 4), np.repeat(labels, 4), [u for u in units for _ in range(4)], 0.5, draws=200
    )
    assert wide["auprc_high"] - wide["auprc_low"] > 0.9 * (found["auprc_high"] - found["auprc_low"]), (
        "units are resampled whole"
    )


def test_every_guard_sees_the_same_rows(ran: tuple[Path, Path, dict[str, Any]]) -> None:
    groups: dict[tuple[str, str, str], set[tuple[int, int]]] = {}
    for c in ran[2]["cells"]:
        groups.setdefault((c["dataset"], c["split"], c["category"]), set()).add((c["n"], c["n_harmful"]))
    assert all(len(v) == 1 for v in groups.values())


def test_nothing_measured_was_fitted_on(ran: tuple[Path, Path, dict[str, Any]]) -> None:
    sets = read_sets(ran[0], (), 1000, 0)
    rows = [r for found in sets.values() for r in found]
    layout = layout_of(rows, sets, 0)
    for question in questions(rows, layout):
        assert not {rows[k].unit for k in question.rows} & {rows[k].unit for k in question.fit}
        seen = {rows[k].set for k in question.fit}
        assert (
            question.dataset not in seen
            if question.split == "out"
            else question.split == "in" or seen <= {question.dataset, "calm"}
        )
    assert {rows[k].set for k in layout.pool} == {"calm"}


def test_states_are_read_again_and_give_the_same(
    ran: tuple[Path, Path, dict[str, Any]], coder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out, first = ran
    kept = sorted((out / "states").iterdir())
    assert len(kept) == 4 and all(p.suffix == ".safetensors" for p in kept)
    stages: list[str] = []
    again = run(folder, out.parents[1], coder, progress=lambda stage, *_: stages.append(stage))
    drop = ("ms_per_prompt", "added_ms")
    assert [{k: v for k, v in c.items() if k not in drop} for c in again["cells"]] == [
        {k: v for k, v in c.items() if k not in drop} for c in first["cells"]
    ]
    assert {"encode", "measure"} <= set(stages) and sorted((out / "states").iterdir()) == kept


def test_the_fitted_guard_is_an_artifact_without_text(
    ran: tuple[Path, Path, dict[str, Any]], coder: TextEncoder
) -> None:
    folder, out, result = ran
    artifact = artifacts.load(out / "aeiou")
    assert artifact.hash == result["run"]["artifact"]
    guard = Aeiou(artifact=artifact)
    scores = guard.scores(coder, ["a cup in a park", "a zzaxe and a zzfuse in a yard"])
    assert bool(torch.isfinite(scores).all()) and scores[1] > scores[0]
    with (folder / "mixed.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["prompt"] for row in csv.DictReader(stream)]
    told = (out / "aeiou.json").read_text("utf-8") + json.dumps(result)
    assert not any(t in told for t in texts)


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_a_threshold_lets_every_source_weigh_the_same(rate: float) -> None:
    rng = np.random.default_rng(5)
    sizes = {"a": 200, "b": 20, "c": 3, "d": 57}
    sets = [name for name, n in sizes.items() for _ in range(n)]
    scores = rng.normal(size=len(sets)) + np.array([3.0 * (name == "b") for name in sets])
    found = guards.threshold_of_sources(scores, sets, rate)

    def flagged(limit: float) -> float:
        shares = [[scores[k] > limit for k in range(len(sets)) if sets[k] == name] for name in sizes]
        return sum(sum(part) / len(part) for part in shares) / len(sizes)

    assert flagged(found) <= rate + 1e-9
    lower = [s for s in scores if s < found]
    assert all(flagged(s) > rate for s in sorted(lower)[-3:]), "no smaller score would do"


def test_folds_hold_whole_sources_and_leave_both_classes_to_fit_on() -> None:
    rows = [PromptRow(f"{name} {k}", k % 3 == 0, "", (), f"{name}{k}", name) for name in "abcdefg" for k in range(9)]
    rows += [PromptRow(f"h {k}", True, "", (), f"h{k}", "h") for k in range(9)]
    fold = guards.source_folds(rows, range(len(rows)))
    assert set(fold) == {0, 1, 2, 3}
    for name in "abcdefgh":
        assert len({f for f, r in zip(fold, rows, strict=True) if r.set == name}) == 1
    few = [k for k, r in enumerate(rows) if r.set in "abch"]
    assert set(guards.source_folds(rows, few)) == {-1}, "three sets with benign rows are too few"
    apart = [PromptRow(str(k), name == "a", "", (), f"{name}{k}", name) for name in "abcde" for k in range(4)]
    assert set(guards.source_folds(apart, range(len(apart)))) == {-1}, "without a there is nothing harmful"


def test_labels_at_random_tell_nothing(tmp_path: Path, coder: TextEncoder) -> None:
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        rng = random.Random(name)
        rows = [(sentence(rng, rng.choice([*GOOD, *BAD])), rng.choice(["safe", "unsafe"]), "") for _ in range(300)]
        with (tmp_path / "data" / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("prompt", "label", "category"), *rows])
    result = run(tmp_path / "data", tmp_path / "store", coder, guards=("aeiou", "aeiou-heads"))
    values = [c["auroc"] for c in result["cells"] if c["split"] == "out"]
    assert len(values) == 4 and all(abs(v - 0.5) < 0.12 for v in values)


def test_bad_input(tmp_path: Path, coder: TextEncoder) -> None:
    folder = make(tmp_path / "data")
    with pytest.raises(UnknownName, match="aeiou"):
        run(folder, tmp_path / "store", coder, guards=("aeio",))
    with pytest.raises(UnknownName, match="mixed"):
        run(folder, tmp_path / "store", coder, sets=("mixd",))
    with pytest.raises(BadInput, match="no folder"):
        run(tmp_path / "none", tmp_path / "store", coder)
    with pytest.raises(BadInput, match="nothing is left"):
        run(folder, tmp_path / "store", coder, sets=("danger",))


def test_guards_of_other_makers_see_the_rows_that_are_measured(tmp_path: Path, coder: TextEncoder) -> None:
    class Other:
        name, threshold = "other", 0.5

        def __init__(self) -> None:
            self.seen: list[str] = []

        def scores(self, texts: Any) -> list[float]:
            self.seen += texts
            return [float(any(w in t.split() for w in BAD)) for t in texts]

    other = Other()
    found = run(
        make(tmp_path / "data"),
        tmp_path / "store",
        coder,
        others={"other": other},
        sets=("mixed", "other"),
        guards=("keywords",),
    )
    cells = [c for c in found["cells"] if c["guard"] == "other" and not c["category"]]
    assert (
        {c["auroc"] for c in cells} == {1.0}
        and {c["accuracy"] for c in cells} == {1.0}
        and found["run"]["guards"] == ["keywords", "other"]
    )
    mine = {(c["dataset"], c["split"]): c["n"] for c in cells}
    assert mine == {
        (c["dataset"], c["split"]): c["n"] for c in found["cells"] if c["guard"] == "keywords" and not c["category"]
    }
    assert len(other.seen) <= 240, "a row is scored once"


def test_measuring_again_needs_no_encoder_and_claims_are_told(ran: tuple[Path, Path, dict[str, Any]]) -> None:
    _, out, first = ran
    again = measure(Store(out.parents[1]), "pg")
    drop = ("ms_per_prompt", "added_ms")  # of the last run in this folder
    cells, before = ([{k: v for k, v in c.items() if k not in drop} for c in x["cells"]] for x in (again, first))
    assert cells == before and again["run"]["means"] == first["run"]["means"]
    assert {c["id"] for c in first["claims"]} == {"aeiou-accurate-at-home", "aeiou-beats-keywords"}
    assert all(c["low"] <= c["ours"] <= c["high"] for c in first["claims"])
    assert first["arms"] == first["judges"] == [] and first["run"]["rows"] == 420


def test_the_store_keeps_no_prompt_but_the_files_that_it_was_given(
    ran: tuple[Path, Path, dict[str, Any]], tmp_path: Path
) -> None:
    folder, out, first = ran
    root = out.parents[1]
    with (folder / "mixed.csv").open(encoding="utf-8", newline="") as stream:
        texts = [row["prompt"].encode() for row in csv.DictReader(stream)]
    for file in (p for p in root.rglob("*") if p.is_file() and not {"reserved", "given"} & set(p.parts)):
        data = file.read_bytes()
        assert not any(t in data for t in texts), file.name
    (kept,) = (root / "given").glob("*/data")
    assert {p.name: p.read_bytes() for p in kept.iterdir()} == {p.name: p.read_bytes() for p in folder.glob("*.csv")}
    copy = Store(shutil.copytree(root, tmp_path / "elsewhere"), create=False)
    folder.rename(folder.with_name("gone"))
    try:
        assert copy.check() == []
        again = measure(copy, "pg")
        assert again["run"]["plan"] == first["run"]["plan"] and len(again["cells"]) == len(first["cells"])
    finally:
        folder.with_name("gone").rename(folder)
