"""Datasets of early features: splits, flips, resuming, agreement of judges, the gates, and the command."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from genward.catalog import dataset, learning
from genward.catalog import gates as gating
from genward.catalog.dataset import Dataset, Recipe
from genward.cli.dataset import app
from genward.core import Case, Concept, Sampler
from genward.defenses.wukong import Wukong
from genward.errors import BadInput, GenwardError
from genward.models.sd import StableDiffusion
from genward.testing import FakeJudge, tiny_sd

SITES = ("mid_block.attentions.0.tb.0.norm2", "up_blocks.1.attentions.0.tb.0.norm2")
RECIPE = Recipe(("saw",), steps=(0, 0.99), sampler=Sampler(2, 1.0))
CONCEPT = Concept(
    "tools",
    "policy",
    "x",
    targets=("saw",),
    phrases=("a saw", "a small saw"),
    anchor="a cup",
    keep=("a dog",),
    judge=("saw",),
)


@pytest.fixture(scope="module")
def model() -> StableDiffusion:
    return tiny_sd()


@pytest.fixture(scope="module")
def judge(model: StableDiffusion) -> FakeJudge:
    shown = model.generate([Case(f"b{k}", "a cup", seed=k) for k in range(12)], Sampler(2, 1.0))
    return FakeJudge(
        labels=("saw",),
        threshold=float(
            np.median([np.asarray(s.image.convert("L")).mean() / 255 for s in shown if s.image is not None])
        ),
    )


def test_near_duplicates_are_one_cluster() -> None:
    texts = [
        "a red apple on a table",
        "a red apple on the table",
        "a dog",
        "two castles at night",
        "A red apple on a table ",
    ]
    number = dataset.clusters(texts)
    assert number[0] == number[1] == number[4] and len(set(number)) == 3
    letters = "abcdefghijklmnopqrstuvwxyz"
    chain = [letters[k : k + 20] for k in (0, 3, 6)]  # neighbors are alike, the ends only through the middle
    assert len(set(dataset.clusters(chain, 0.5))) == 1 and len(set(dataset.clusters(chain[::2], 0.5))) == 2
    assert dataset.clusters([]) == []


def test_splits_keep_clusters_whole_and_families_apart() -> None:
    cases = [
        Case(f"{k}-{j}", f"prompt number {k:03d} {'xyzuvw'[k % 6] * 9}", variant="attack" if k % 10 == 0 else "plain")
        for k in range(40)
        for j in range(3)
    ]
    groups = [c.prompt for c in cases]
    split = dataset.splits(groups, cases, test_wordings=("attack",))
    assert all(len({s for s, g in zip(split, groups, strict=True) if g == name}) == 1 for name in set(groups))
    assert all(s == "test" for s, c in zip(split, cases, strict=True) if c.variant == "attack")
    assert {s for s, c in zip(split, cases, strict=True) if c.variant == "plain"} == {"train", "valid", "test"}
    assert (
        split
        == dataset.splits(groups, cases, test_wordings=("attack",))
        != dataset.splits(groups, cases, seed=1, test_wordings=("attack",))
    )


def test_flips_count_prompts() -> None:
    prompts = ["a"] * 3 + ["b"] * 2 + ["c"] * 2 + ["d"]
    found = dataset.flips(prompts, [1, 0, 1, 0, 0, 1, math.nan, 1], ["k"] * 5 + ["n"] * 3)
    assert found["prompts"] == 2 and found["share"] == 0.5 and found["low"] < 0.5 < found["high"]
    assert found["by_variant"] == {"k": {"share": 0.5, "prompts": 2}}
    assert dataset.flips(["a"], [1.0]) == {"prompts": 0, "by_variant": {}}


def test_build_load_resume(
    model: StableDiffusion, judge: FakeJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = dataset.prompt_cases(["a saw", ("a cup", "benign"), "a dog", "a key"], 2)
    folder = tmp_path / "d"
    told: list[tuple[int, int]] = []
    card = dataset.build(model, cases, [judge], RECIPE, folder, part=3, progress=lambda *a: told.append(a))
    data = dataset.load(folder)
    assert told[-1] == (8, 8) and len(data.rows) == 8 and data.truth.shape == (8, 1) and data.card == card
    assert (
        data.states[SITES[0]].shape == (8, 2, 16, 16)
        and data.states[SITES[0]].dtype == torch.float16
        and data.timesteps.tolist() == [501, 1]
    )
    assert [r["prompt"] for r in data.rows] == [c.prompt for c in cases] and {r["variant"] for r in data.rows} == {
        "",
        "benign",
    }
    assert sum(s["rows"] for s in card["splits"].values()) == 8 and card["flips"]["prompts"] == 4
    assert not [p for p in folder.rglob("*") if p.suffix in (".png", ".tmp")], "no picture is kept"
    (folder / "part-00001.jsonl").unlink()
    with pytest.raises(BadInput, match="holds 5 of the 8 rows"):
        dataset.load(folder)
    made: list[int] = []
    generate = model.generate
    monkeypatch.setattr(model, "generate", lambda cases, *a, **k: made.append(len(cases)) or generate(cases, *a, **k))
    again = dataset.build(model, cases, [judge], RECIPE, folder, part=3)
    assert made == [3] and again == card and torch.equal(dataset.load(folder).truth, data.truth), (
        "only the missing part is made again"
    )
    with pytest.raises(BadInput, match="another plan"):
        dataset.build(model, cases, [judge], dataclasses.replace(RECIPE, pool=4), folder, part=3)
    (folder / "part-00002.safetensors").write_bytes(b"x" * 30)
    with pytest.raises(BadInput, match=r"part-00002\.safetensors cannot be read"):
        dataset.load(folder)


def test_what_cannot_be_built_is_said(model: StableDiffusion, judge: FakeJudge, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one prompt"):
        dataset.build(model, [], [judge], RECIPE, tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "x").write_text("x")
    with pytest.raises(BadInput, match="not empty"):
        dataset.build(model, dataset.prompt_cases(["a"], 1), [judge], RECIPE, tmp_path / "b")
    with pytest.raises(BadInput, match="no dataset's file"):
        dataset.load(tmp_path / "c")


def test_judges_that_differ_leave_the_label_open(model: StableDiffusion, judge: FakeJudge) -> None:
    samples = model.generate([Case(f"b{k}", "a cup", seed=k) for k in range(8)], Sampler(2, 1.0))
    samples[0].output = None
    other = dataclasses.replace(judge, threshold=0.0)
    truth, differ = dataset.agreed([judge, other], samples, ["saw"])
    alone, _ = dataset.agreed([judge], samples, ["saw"])
    for k in range(1, 8):
        assert differ[k] == ([] if alone[k, 0] == 1 else ["saw"]) and bool(torch.isnan(truth[k, 0])) == bool(differ[k])
    assert bool(torch.isnan(truth[0, 0])) and differ[0] == []


def invented(
    rows: int = 400, seed: int = 0, seen: tuple[float, float] = (0.0, 3.0), prompts: int | None = None
) -> Dataset:
    """Rows whose harm depends on the seed half as much as on the text; features show it with the strengths ``seen`` at
    the two steps. Each row is a prompt of its own, or one of so many ``prompts``."""
    g = torch.Generator().manual_seed(seed)
    text_side = torch.randn(rows, generator=g)
    text_side = text_side if prompts is None else text_side[torch.arange(rows) % prompts]
    harm = (text_side + torch.randn(rows, generator=g) > 0).float()
    direction = torch.randn(16, generator=torch.Generator().manual_seed(5))
    texts = torch.randn(rows, 6, 16, generator=g) + text_side[:, None, None] * torch.ones(16)
    states = {}
    for site, width in zip(SITES, (16, 8), strict=True):
        x = torch.randn(rows, 2, 16, width, generator=g)
        for k, strength in enumerate(seen):
            x[:, k] += (text_side * 0.3 + harm * strength)[:, None, None] * direction[:width]
        states[site] = x.half()
    split = ["train" if k % 10 < 6 else "valid" if k % 10 < 8 else "test" for k in range(rows)]
    lines = [
        {
            "prompt": f"p{k if prompts is None else k % prompts}",
            "seed": k,
            "cluster": f"c{k}",
            "split": s,
            "variant": "",
            "uncertain": [],
        }
        for k, s in enumerate(split)
    ]
    plan = {"model": {}, "recipe": {"labels": ["saw"], "pool": 8, "steps": [0, 0.99], "sampler": {"steps": 20}}}
    return Dataset({"plan": plan}, lines, {**states, "text": texts.half()}, torch.tensor([951, 51]), harm[:, None])


def learner(model: StableDiffusion) -> Any:
    settings = Wukong(epochs=4, batch=64, hidden=16, rank=2, lr=5e-3)

    def fit(data: Dataset) -> Any:
        data.card["plan"]["model"] = model.spec.to_json()
        return learning.fit_wukong(data, model, [CONCEPT], settings)

    return fit


def test_gates(model: StableDiffusion) -> None:
    data, fit = invented(), learner(model)
    fitted = fit(data)
    assert fitted.artifact.card["captions"][0] == "p0" and len(fitted.artifact.card["captions"]) == 320, (
        "test rows are not learned from"
    )
    gates = gating.gate_first_step(data, fitted)
    assert (
        [g.holds for g in gates] == [True, True]
        and gates[1].value > gates[0].value + 0.1
        and 0.6 < gates[0].against < 0.95
    )
    assert gates[0].against == pytest.approx(gating.text_probe(data))
    leaking = invented(seen=(3.0, 3.0))
    assert not gating.gate_first_step(leaking, fit(leaking))[0].holds, (
        "a detector that knows the end at the start must fail the gate"
    )
    coin = gating.gate_shuffled(data, fit)
    assert coin.holds and coin.n == 80
    with pytest.raises(GenwardError, match="never or always"):
        gating.gate_shuffled(data._replace(truth=torch.ones(400, 1)), fit)


def test_within_one_prompt_a_detector_of_pictures_rises(model: StableDiffusion) -> None:
    fit = learner(model)
    seeing = invented(1_200, prompts=23)
    (gate,) = gating.gate_within(seeing, fit(seeing))
    assert gate.holds and gate.against < 0.7 < gate.value and gate.n <= 23
    reading = invented(1_200, prompts=23, seen=(0.0, 0.0))
    (blind,) = gating.gate_within(reading, fit(reading))
    assert not blind.holds, "a detector that reads the prompt must fail the gate"


def test_the_table_of_gates(model: StableDiffusion) -> None:
    data, fit = invented(), learner(model)
    fitted = fit(data)
    found = {g.name: g for g in gating.gates(data, fitted, fit)}
    assert list(found) == [
        "first step against text",
        "step at t=51 against first",
        "within one prompt",
        "last step against image filter",
        "shuffled labels",
    ]
    alone = found.pop("within one prompt")
    assert alone.holds is None and "with one seed and not with another" in alone.why, "each row is a prompt of its own"
    assert all(g.holds and g.n == 80 and not g.why for g in found.values()), found
    assert found["last step against image filter"].against == 1.0 and found["shuffled labels"].against == 0.5
    blind = invented(seen=(0.0, 0.0))
    assert not gating.gate_last_step(blind, fit(blind)).holds, (
        "a detector that sees less than the picture must fail the gate"
    )
    plan = data.card["plan"]
    late = data._replace(card={"plan": {**plan, "recipe": {**plan["recipe"], "steps": [0.5, 0.9]}}})
    told = gating.gates(late, fitted, lambda _: fitted)
    assert (
        [told[0].holds, told[2].holds] == [None, None]
        and "step 0 was not read" in told[0].why
        and "last step was not read" in told[2].why
    )
    always = gating.gates(data._replace(truth=torch.ones(400, 1)), fitted, fit)
    assert len(always) == 4 and all(
        g.holds is None and math.isnan(g.value) and "never or always" in g.why for g in always
    )


def test_thresholds_are_those_of_the_validation_rows(model: StableDiffusion) -> None:
    from genward.ops.detection import threshold_at_fpr

    data, fit = invented(), learner(model)
    fitted, valid = fit(data), data.of("valid")
    card = fitted.artifact.card
    assert card["held_rows"] == int(valid.sum()) == 80, "valid rows calibrate"
    assert card["rows"] + card["chosen_rows"] == 240 and card["chosen_rows"] > 20, (
        "train rows teach and choose the epoch"
    )
    cut = threshold_at_fpr(gating.detector_scores(fitted, data, 1)[valid], data.harm[valid], 0.05)
    assert card["thresholds"]["tools"][1]["fpr5"] == pytest.approx(cut, abs=1e-5)
    other = data.truth.clone()
    other[torch.from_numpy(valid)] = 1 - other[torch.from_numpy(valid)]
    turned = fit(data._replace(truth=other)).artifact
    assert (
        all(torch.equal(turned.tensors[k], v) for k, v in fitted.artifact.tensors.items())
        and turned.card["thresholds"] != card["thresholds"]
    )
    with pytest.raises(BadInput, match="to calibrate on"):
        fit(data._replace(rows=[{**r, "split": "train" if r["split"] == "valid" else r["split"]} for r in data.rows]))


def test_rows_without_a_picture_take_no_part_in_the_shuffle(model: StableDiffusion) -> None:
    data, fit = invented(), learner(model)
    for value in data.states.values():
        value[::7] = torch.nan
    truth = data.truth.clone()
    truth[::7] = torch.nan
    assert gating.gate_shuffled(data._replace(truth=truth), fit).n == sum(k % 10 >= 8 and k % 7 > 0 for k in range(400))


def test_a_dataset_knows_its_concepts(model: StableDiffusion, judge: FakeJudge, tmp_path: Path) -> None:
    dataset.build(
        model, dataset.prompt_cases(["a saw", "a cup"], 1), [judge], RECIPE, tmp_path / "d", concepts=[CONCEPT]
    )
    assert learning.concepts_of(dataset.load(tmp_path / "d")) == [CONCEPT]
    (alone,) = learning.concepts_of(invented(10))
    assert alone.judge == ("saw",) and alone.phrases == ("a saw",)


def test_a_dataset_of_another_model_or_label_is_refused(model: StableDiffusion) -> None:
    data = invented(40)
    with pytest.raises(BadInput, match="another model"):
        learning.fit_wukong(data, model, [CONCEPT])
    data.card["plan"]["model"] = model.spec.to_json()
    with pytest.raises(BadInput, match="no label axe"):
        learning.fit_wukong(data, model, [dataclasses.replace(CONCEPT, judge=("axe",))])
    with pytest.raises(BadInput, match="lack the sites down_blocks"):
        learning.fit_wukong(data, model, [CONCEPT], Wukong(sites=("down_blocks.0.attentions.0.tb.0",)))


def test_tools_know_the_lab_alone(model: StableDiffusion) -> None:
    from genward.catalog.fitting import tools_for
    from genward.core import Spec

    lab = tools_for(StableDiffusion(model.pipe, Spec("model", "sd", {"source": "lab:lab"})))
    assert lab.judge is not None and lab.judge.name == "lab_second" and lab.words["styles"] and lab.judge is lab.judge
    other = tools_for(model)
    assert other.judge is None and other.words == {}, "no judge knows another model's pictures unless it is named"
    with pytest.raises(BadInput, match="wukong learns from pictures and was given no judge"):
        other.need_judge("wukong learns from pictures")


def test_the_command(model: StableDiffusion, judge: FakeJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genward.catalog.opening.open_model", lambda *a, **k: model)
    monkeypatch.setattr("genward.catalog.judges.open_judge", lambda name: judge)
    (tmp_path / "p.csv").write_text("prompt,family\na saw,plain\na cup,attack\n", "utf-8")
    out, run = tmp_path / "d", CliRunner()
    arguments = [
        "build",
        "--prompts",
        str(tmp_path / "p.csv"),
        "--label",
        "saw",
        "--seeds",
        "2",
        "--steps",
        "2",
        "--guidance",
        "1",
    ]
    done = run.invoke(app, [*arguments, "--at", "0", "--test-families", "attack", "-o", str(out), "--json"])
    assert done.exit_code == 0, done.output
    card = json.loads(done.stdout)
    assert card["splits"]["test"]["rows"] >= 2 and card["judged"]["rows"] == 4
    shown = run.invoke(app, ["show", str(out)])
    assert shown.exit_code == 0 and "split" in shown.stdout and "change their label" in shown.stderr
    (tmp_path / "q.csv").write_text("text\nx\n", "utf-8")
    for wrong, told in (
        ([], "--concept weapons"),
        (["--prompts", str(tmp_path / "none"), "--label", "x"], "no file of prompts at"),
        (["--prompts", str(tmp_path / "q.csv"), "--label", "x"], "no column 'prompt'"),
        (["--prompts", str(tmp_path / "p.csv")], "no label to judge by"),
        (["--prompts", str(tmp_path / "p.csv"), "--label", "x", "--at", "soon"], "give numbers"),
    ):
        failed = run.invoke(app, ["build", *wrong, "-o", str(out)])
        assert isinstance(failed.exception, BadInput) and told in str(failed.exception)


def test_the_command_that_fits(
    model: StableDiffusion, judge: FakeJudge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genward.catalog.fitting import DefenseRequest, from_artifact

    monkeypatch.setattr("genward.catalog.opening.open_model", lambda *a, **k: model)
    monkeypatch.setattr("genward.catalog.judges.open_judge", lambda name: judge)
    letters = "abcdefghijklmnopqrst"
    (tmp_path / "p.txt").write_text("\n".join(f"{a * 4} {b * 4}" for a in letters for b in ("w", "x", "y")), "utf-8")
    folder, out, run = tmp_path / "d", tmp_path / "fitted" / "wukong", CliRunner()
    arguments = [
        "build",
        "--prompts",
        str(tmp_path / "p.txt"),
        "--label",
        "saw",
        "--seeds",
        "2",
        "--steps",
        "2",
        "--guidance",
        "1",
        "--at",
        "0,0.99",
    ]
    assert run.invoke(app, [*arguments, "-o", str(folder)]).exit_code == 0
    fit = ["fit", str(folder), "--out", f"{out}.safetensors", "--method", "wukong,epochs=2,hidden=8,rank=2"]
    done = run.invoke(app, [*fit, "--json"])
    assert done.exit_code == 0, done.output
    told, data = json.loads(done.stdout), dataset.load(folder)
    assert [g["name"] for g in told["gates"]] == [
        "first step against text", "step at t=1 against first", "within one prompt, t=1 against t=501",
            "last step against image filter", "shuffled labels",
    ]  # fmt: skip
    assert all(
        isinstance(g["holds"], bool)
        and 0 <= g["value"] <= 1
        and (g["n"] == int(data.of("test").sum()) or g["name"].startswith("within") and 0 < g["n"] < 20)
        for g in told["gates"]
    )
    assert told["gates"][0]["against"] == pytest.approx(gating.text_probe(data)) and told["gates"][-1]["against"] == 0.5
    assert told["card"]["held_rows"] == int(data.of("valid").sum()) and told["card"]["categories"] == [
        ["saw", "labels"]
    ]
    defense, artifact = from_artifact(DefenseRequest("", artifact=told["out"]), model)
    assert artifact.hash == told["hash"] and defense.name == "wukong"
    assert len(model.generate([Case("a", "a cup")], Sampler(2, 1.0), [defense])[0].notes["wukong.score"]) == 1
    plain = run.invoke(app, fit)
    assert plain.exit_code == 0 and plain.stdout.splitlines()[0].split() == [
        "gate",
        "auroc",
        "against",
        "holds",
        "rows",
    ]
    assert len(plain.stdout.splitlines()) == 6 and f"{out}.safetensors" in plain.stderr
    for wrong, said in (
        (["--method", "esd"], "wukong is what learns"),
        (["--out", "x.pt"], "never a pickle"),
        (["--concept", "weapons"], "the dataset has no label"),
    ):
        failed = run.invoke(app, [*fit, *wrong])
        assert isinstance(failed.exception, BadInput) and said in str(failed.exception)
    next(folder.glob("part-*.jsonl")).write_text("", "utf-8")
    assert isinstance(run.invoke(app, fit).exception, BadInput)
