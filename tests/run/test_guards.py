"""The loop of guards on a tiny pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genward.benchmarks.guards import GuardsBenchmark
from genward.core.records import Sampler, load_concept
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


def test_the_shipped_recipe_can_be_planned() -> None:
    plan = make_plan("guards-quick")
    assert {"aeiou", "wukong", "saferedir"} <= {a.label for a in plan.arms}
    assert dry_run(plan)["rows"] == len(plan.arms) * 9 * plan.benchmark.n
