"""The loop of guards on a tiny pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genward.benchmarks.guards import GuardsBenchmark
from genward.core.records import Sampler, load_concept
from genward.errors import BadInput
from genward.models.sd import StableDiffusion
from genward.run.costs import dry_run
from genward.run.loop import run_plan
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan, make_plan, plan_cases
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (
    ArmPlan("base", control="base"),
    ArmPlan("filter", "image_filter:{concept}"),
    ArmPlan("sld", "sld:{concept},scale=0"),
)
PLAN = Plan("g", ARMS, GuardsBenchmark(("weapons",), n=2), batch=9, sampler=Sampler(steps=2, guidance=3.0))


def seeing_half(model: StableDiffusion, plan: Plan) -> FakeJudge:
    """A judge to whom the brighter half of the plan's undefended pictures shows the concept and every group."""
    cases = plan_cases(plan)
    concept = load_concept("weapons")
    labels = tuple(dict.fromkeys([*concept.judge, *concept.neighbors, *(c.group for c in cases if c.group)]))
    values = [s.value for s in FakeJudge(("x",)).judge(model.generate(cases, plan.sampler, [], batch=plan.batch))]
    return FakeJudge(labels, float(np.median(values)))


def test_a_run_gives_one_cell_an_arm_and_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, store = tiny_sd(), Store(tmp_path)
    judge = seeing_half(model, PLAN)
    monkeypatch.setattr("genward.catalog.judges.open_judge", lambda text: judge)
    found = run_plan(PLAN, store, models=lambda name: model, judge=judge)
    cells = found["guards"]
    assert [(c["arm"], c["policy"]) for c in cells] == [("base", "weapons"), ("filter", "weapons"), ("sld", "weapons")]
    wanted = {
        "arm",
        "policy",
        "unsafe_released",
        "benign_blocked",
        "low",
        "high",
        "n",
        "nfe_per_released",
        "nfe_per_blocked",
        "seconds_per_image",
    }
    assert all(wanted <= set(c) for c in cells)
    base, guarded, idle = cells
    assert base["n"] == guarded["n"] == idle["n"] > 0 and base["n_benign"] == guarded["n_benign"] > 0
    assert base["unsafe_released"] == 1 and base["benign_blocked"] == 0 and base["nfe_per_blocked"] is None
    assert guarded["unsafe_released"] == 0 and guarded["benign_blocked"] == 0, (
        "the filter asks the judge that the run is judged by"
    )
    assert guarded["nfe_per_blocked"] == 4 < guarded["nfe_per_released"], (
        "what is blocked at the end has cost all its passes"
    )
    assert idle["unsafe_released"] == 1, "guidance of scale 0 changes nothing"
    assert measure(store, "g", judge)["guards"] == cells


def test_prompts_of_kinds_come_with_several_seeds() -> None:
    lab = make_plan("guards-quick")
    once = plan_cases(lab)
    many = plan_cases(replace(lab, benchmark=replace(lab.benchmark, seeds=3)))
    kinds = [c for c in many if c.variant == "kind"]
    assert len(kinds) == 3 * sum(c.variant == "kind" for c in once) == 36 and len(many) == len(once) + 24
    assert len({c.seed for c in kinds}) == len({c.id for c in kinds}) == 36
    assert {(c.id, c.prompt, c.seed) for c in once} <= {(c.id, c.prompt, c.seed) for c in many}, (
        "pictures stay shared with erasure"
    )
    assert max(sum(c.prompt == k.prompt for c in kinds) for k in kinds) >= 3
    with pytest.raises(BadInput, match="seeds a prompt"):
        replace(lab.benchmark, seeds=0)


def test_the_shipped_recipe_can_be_planned() -> None:
    plan = make_plan("guards-quick")
    assert {"aeiou", "wukong", "saferedir"} <= {a.label for a in plan.arms}
    assert dry_run(plan)["rows"] == len(plan.arms) * (9 + 2) * plan.benchmark.n, "two kinds of start pictures"


def test_rows_that_start_from_pictures_have_columns_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    for name, count in (("weapons", 3), ("keep", 2)):
        (tmp_path / "held" / name).mkdir(parents=True)
        for k in range(count):
            pixels = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "held" / name / f"{k}.png")
    benchmark = GuardsBenchmark(
        ("weapons",), n=2, attacks=("start_picture,strengths=0.5",), references=str(tmp_path / "held")
    )
    plan = replace(PLAN, name="p", benchmark=benchmark)
    model, judge = tiny_sd(), seeing_half(tiny_sd(), PLAN)
    monkeypatch.setattr("genward.catalog.judges.open_judge", lambda text: judge)
    found = run_plan(plan, Store(tmp_path / "s"), models=lambda name: model, judge=judge)
    without = run_plan(PLAN, Store(tmp_path / "s"), models=lambda name: model, judge=judge)
    for cell, plain in zip(found["guards"], without["guards"], strict=True):
        assert {k: v for k, v in plain.items() if k != "seconds_per_image"}.items() <= cell.items()
        assert cell["n_img2img"] > 0 == cell["n_img2img_unread"]
    assert [c["img2img_released"] for c in found["guards"]] == [1, 0, 1]
    assert all("img2img_released" not in cell for cell in without["guards"])
    assert all(c["variant"] != "img2img" for c in found["cells"])
    assert dry_run(plan)["rows"] == dry_run(PLAN)["rows"] + len(ARMS) * 4


def test_guards_knows_start_pictures_only(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="start_picture"):
        plan_cases(replace(PLAN, benchmark=GuardsBenchmark(("weapons",), attacks=("ddim_inversion",))))
    with pytest.raises(BadInput, match="one attack"):
        GuardsBenchmark(("weapons",), attacks=("start_picture", "start_picture,strengths=0.5"))
