"""The backdoor benchmark from plan to metrics on a tiny model: every arm draws its own fixture's rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from genward.catalog.opening import words_of
from genward.run.loop import run_plan
from genward.run.plan import make_plan
from genward.testing import FakeJudge, tiny_sd


def test_from_plan_to_metrics(tmp_path: Path) -> None:
    whole = make_plan("backdoor-quick", benchmark="backdoor", n=1, clean=2, steps=1, guidance=1.0)
    wanted = ("clean", "rickrolling", "evil_edit + pepper", "rickrolling + activation scan")
    plan = replace(whole, arms=tuple(a for a in whole.arms if a.label in wanted), judge="fake")
    words = words_of("lab")
    judge = FakeJudge(labels=(*words["things"], *words["styles"]))
    model = tiny_sd()
    found = run_plan(plan, tmp_path / "store", models=lambda name: model, judge=judge)
    cells = found["cells"]
    assert len(cells) == 2 + 6 + 6 + 6 and found["run"]["errors"] == 0
    attacked = [c for c in cells if c["fixture"]]
    assert {c["n"] for c in attacked} == {1} and all(c["clean_accuracy"] is not None for c in cells)
    assert {(c["caption_length"], c["trigger_place"]) for c in attacked} == {
        (length, place) for length in ("short", "long") for place in ("start", "middle", "end")
    }
    assert found["grids"]
    seen = [c for c in cells if c.get("detector")]
    assert {c["detector"] for c in seen} == {"activation_scan"} and len(seen) == 6
    assert all(0 <= c["auroc"] <= 1 and c["fpr"] is not None and c["n_undetected"] == 0 for c in seen)
    assert all(abs(c["drift"]) < 1e-6 for c in cells if c["arm"] == "rickrolling"), (
        "a fixture's own arm has not drifted"
    )
