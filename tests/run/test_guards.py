"""The loop of guards on a tiny pipeline."""

from __future__ import annotations

from pathlib import Path

from genward.core.records import Sampler
from genward.judges.lab import LabJudge
from genward.run.loops import costs, measure_again, run_plan
from genward.run.plan import ArmPlan, Plan, make_plan
from genward.store import Store
from genward.testing import tiny_sd

ARMS = (ArmPlan("base", control="base"), ArmPlan("filter", "image_filter:{concept}"), ArmPlan("sld", "sld:{concept},scale=0"))


def test_a_run_gives_one_cell_an_arm_and_policy(tmp_path: Path) -> None:
    plan = Plan("g", ARMS, ("weapons",), benchmark="guards", n=2, batch=9, sampler=Sampler(steps=2, guidance=3.0))
    model, store = tiny_sd(), Store(tmp_path)
    found = run_plan(plan, store, models=lambda name: model, judge=LabJudge())
    cells = found["guards"]
    assert [(c["arm"], c["policy"]) for c in cells] == [("base", "weapons"), ("filter", "weapons"), ("sld", "weapons")]
    wanted = {"arm", "policy", "unsafe_released", "benign_blocked", "low", "high", "n", "passes_per_released", "passes_per_blocked", "seconds_per_image"}
    assert all(wanted <= set(c) for c in cells)
    assert cells[0]["benign_blocked"] in (0.0, None) and cells[2]["unsafe_released"] == cells[0]["unsafe_released"]
    assert measure_again(store, "g", LabJudge())["guards"] == cells


def test_the_shipped_recipe_can_be_planned() -> None:
    plan = make_plan("guards-quick")
    assert {"aeiou", "wukong", "saferedir"} <= {a.label for a in plan.arms}
    assert costs(plan)["rows"] == len(plan.arms) * 9 * plan.n
