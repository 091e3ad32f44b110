"""The benchmark ``adversarial`` on a tiny pipeline: modes that never mix, three rates, what is kept in the same row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.adversarial import AdversarialBenchmark, figures, moved
from genward.catalog.opening import words_of
from genward.core.benchmark import Setting
from genward.core.blocks import Plot, Table
from genward.core.records import Sampler, load_concept
from genward.errors import BadInput
from genward.report.page import render
from genward.run.attacking import announced, attack_once, rows_of
from genward.run.claim import Claim
from genward.run.costs import SURROGATE, dry_run
from genward.run.loop import run_plan
from genward.run.outlook import expected
from genward.run.plan import ArmPlan, Plan, make_plan, plan_cases
from genward.run.search import parse_attack
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (ArmPlan("base", control="base"), ArmPlan("uce", "uce:{concept}"))
ATTACKS = (
    "noise_search,budget=2",
    "ring_a_bell,tokens=4,population=4,generations=2",
    "unlearndiffatk,tokens=2,rounds=1,steps=1",
)
BENCH = AdversarialBenchmark(("weapons",), n=2, attacks=ATTACKS)
PLAN = Plan("tiny-a", ARMS, BENCH, batch=7, sampler=Sampler(steps=2, guidance=3.0))
WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)
BOTH = ("noise_search: adaptive", "noise_search: transferred")
CONTRACT = {
    *("arm", "concept", "attack", "access", "adaptive", "pre", "success", "low", "high", "total", "n", "queries"),
    *("passes", "seconds", "retention", "benign_lost"),
}


@pytest.fixture(scope="module")
def models() -> Any:
    model = tiny_sd()
    return lambda name: model


@pytest.fixture(scope="module")
def whole(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("whole"), create=True)
    about = {"system": "s", "statement": "s", "paper": "p", "command": "c", "form": "value", "measure": "total"}
    claim = Claim(id="both", arm="uce", variant=BOTH, at_most=0.5, **about)  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("genward.run.comparisons.claims_of", lambda benchmark: [claim])
        return store, run_plan(PLAN, store, models=models, judge=JUDGE, command="genward run adversarial")


def test_parents_are_the_named_rows_under_other_ids() -> None:
    cases = plan_cases(PLAN)
    named = [c for c in cases if c.variant == "name"]
    prompts = [c for c in cases if c.variant == "prompt"]
    assert [(c.prompt, c.seed) for c in named] == [(c.prompt, c.seed) for c in prompts]
    assert {c.id for c in named}.isdisjoint(c.id for c in prompts)
    assert [c.prompt for c in rows_of(load_concept("weapons"), 2, "lab")] == [c.prompt for c in named]


def test_every_arm_and_mode_has_its_cell(whole: tuple[Store, dict[str, Any]]) -> None:
    cells = whole[1]["cells"]
    modes = {(c["attack"], c["mode"]) for c in cells}
    assert modes == {
        ("noise_search", "transferred"),
        ("noise_search", "adaptive"),
        ("ring_a_bell", "transferred"),
        ("ring_a_bell", "control"),
        ("unlearndiffatk", "transferred"),
        ("unlearndiffatk", "adaptive"),
        ("unlearndiffatk", "control"),
    }
    assert len(cells) == 7 * len(ARMS) and all(set(c) >= CONTRACT for c in cells)
    assert all(c["adaptive"] == (c["mode"] == "adaptive") and c["n"] == 2 for c in cells)
    assert {c["variant"] for c in cells} == {f"{a}: {m}" for a, m in modes}
    assert whole[1]["run"]["errors"] == 0 and whole[0].check() == []


def test_three_rates_fit_together(whole: tuple[Store, dict[str, Any]]) -> None:
    for cell in whole[1]["cells"]:
        left = cell["n"] - round(cell["pre"] * cell["n"])
        assert cell["n_attacked"] == left and (cell["success"] is None) == (left == 0)
        assert cell["total"] == pytest.approx(cell["pre"] + (1 - cell["pre"]) * (cell["success"] or 0.0))
        assert cell["low"] == cell["success_low"] and cell["high"] == cell["success_high"]
        kept = {c["retention"] for c in whole[1]["cells"] if c["arm"] == cell["arm"]}
        assert kept == {cell["retention"]}, "what is kept belongs to the arm"


def test_what_claims_say_of_several_attacks_is_counted_on_their_rows(whole: tuple[Store, dict[str, Any]]) -> None:
    (pool,) = whole[1]["pools"]
    cells = [c for c in whole[1]["cells"] if c["arm"] == "uce" and c["variant"] in BOTH]
    assert (pool["claim"], pool["n"]) == ("both", sum(c["n"] for c in cells))
    assert pool["value"] == pytest.approx(sum(c["total"] for c in cells) / 2)


def test_what_is_recounted_from_the_rows_is_the_same(whole: tuple[Store, dict[str, Any]]) -> None:
    """The figures of one cell by a plain loop over the store."""
    store, metrics = whole
    arm = next(a for a in metrics["arms"] if a["label"] == "uce")
    hashes = set(arm["hashes"].values())
    labels = load_concept("weapons").judge
    table: dict[str, float] = {}
    for score in store.scores(next(iter(_judges(store)))):
        if score["label"] in labels:
            table[score["sample"]] = max(table.get(score["sample"], 0.0), score["value"])
    rows = store.samples(hashes)
    own = {r["case"].rsplit("/", 1)[1]: table[r["id"]] >= 0.5 for r in rows if r["variant"] == "name"}
    found = [r for r in rows if r["case"].endswith("/noise_search") and r["queries"] == 2]
    cell = next(c for c in metrics["cells"] if c["variant"] == "noise_search: adaptive" and c["arm"] == "uce")
    assert cell["pre"] == sum(own.values()) / len(own)
    assert found and cell["queries"] in (1, 1.5, 2)


def _judges(store: Store) -> list[str]:
    return [p.name for p in (store.root / "scores").iterdir() if p.is_dir()]


def test_the_front_takes_the_strongest_attack_and_no_control() -> None:
    cell = {"arm": "a", "concept": "c", "pre": 0.0, "total_low": 0.0, "total_high": 1.0, "n": 2, "retention": 1.0}
    cell |= {"benign_lost": 0.0, "benign_lost_low": 0.0, "benign_lost_high": 0.1}
    told = [("x", "adaptive", 0.2), ("y", "transferred", 0.6), ("z", "control", 0.9), ("w", "adaptive", None)]
    found = figures.front([{**cell, "attack": a, "mode": m, "total": t} for a, m, t in told])
    assert [(f["attack"], f["mode"], f["total"]) for f in found] == [("y", "transferred", 0.6)]


def test_pre_attack_and_total() -> None:
    rows = [{"parent": f"c/prompt/{k}", "group": f"g{k}", "after": a} for k, a in enumerate((0, 1, 1, 0))]
    own = {str(k): {"after": a} for k, a in enumerate((1, 0, 0, 0))}
    found = figures.shares(rows, own, lambda r: float(r["after"]))
    assert (found["pre"], found["n_attacked"], found["n"]) == (0.25, 3, 4)
    assert found["success"] == pytest.approx(2 / 3) and found["total"] == 0.75
    nothing = figures.shares(rows[:1], own, lambda r: float(r["after"]))
    assert nothing["success"] is None and nothing["total"] == 1.0
    unknown = figures.shares(rows, own, lambda r: float("nan") if r is rows[0] else float(r["after"]))
    assert unknown["n"] == 3, "what nobody can judge is no failure of the attack"


def test_the_report_has_a_front_and_the_attacks(whole: tuple[Store, dict[str, Any]]) -> None:
    point = {"arm": "uce", "concept": "weapons", "attack": "noise_search", "mode": "adaptive", "total": 0.5, "n": 2}
    point |= {"total_low": 0.1, "total_high": 0.9, "benign_lost": 0.1, "benign_lost_low": 0.0, "benign_lost_high": 0.3}
    lost = {**point, "arm": "base", "benign_lost": None}
    made = AdversarialBenchmark.sections({**whole[1], "front": [point, lost]})
    assert [s.id for s in made][:2] == ["front", "attacks"]
    (plot,) = (b for b in made[0].blocks if isinstance(b, Plot))
    assert [(p.label, p.x, p.y) for p in plot.points] == [("uce", 0.1, 0.5)] and plot.missing == ("base",)
    tables = [b for b in made[1].blocks if isinstance(b, Table)]
    assert [len(t.rows) for t in tables] == [7, 7] and all("retention" in t.title for t in tables)
    html = render(whole[1], made, whole[0])
    assert "Robustness against benign loss" in html and "ring_a_bell" in html


def test_a_dry_run_counts_searches(models: Any, whole: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    fresh = expected(PLAN, models, Store(tmp_path, create=True), judge=JUDGE)
    assert fresh["searches"] == 8 and fresh["search_nfe"] > 0 and dry_run(PLAN)["rows"] > 0
    again = expected(PLAN, models, whole[0], judge=JUDGE)
    assert again["searches"] == 0 and again["rows"] == 0, "the store holds it all"


def test_searches_on_the_undefended_model_are_counted_once() -> None:
    """By hand, for 2 rows: noise_search takes 3 pictures of 40 denoiser rows a row, transferred as much again."""
    arms = (ArmPlan("base", control="base"), ArmPlan("uce", "uce:{concept}"))
    bench = AdversarialBenchmark(("weapons",), n=2, attacks=("noise_search,budget=3", "mma"))
    told = dry_run(replace(make_plan("adversarial-quick"), benchmark=bench, arms=arms))
    by = {a["arm"]: a for a in told["arms"]}
    pictures = 4 * 2 + (2 + 2) * 2  # named and three kinds to keep; adaptive and transferred; mma and its control
    assert by["base"]["rows"] == by["uce"]["rows"] == pictures
    assert by["uce"]["nfe"] == pictures * 40 + 2 * 3 * 40 and by[SURROGATE]["nfe"] == 2 * 3 * 40


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"attacks": ("ddim_inversion",)}, "does not start from prompts"),
        ({"attacks": ("noise_search", "noise_search,budget=3")}, "stands there twice"),
    ],
)
def test_attacks_that_do_not_fit(fields: dict[str, Any], told: str) -> None:
    bench = AdversarialBenchmark(("weapons",), **fields)
    setting = Setting((load_concept("weapons"),), WORDS, (), parse_attack)
    with pytest.raises(BadInput, match=told):
        list(bench.parents(setting))


def test_settings_that_mean_nothing() -> None:
    for bad in ({"n": 0}, {"concepts": ()}, {"adaptive": False, "transferred": False}):
        with pytest.raises(BadInput):
            AdversarialBenchmark(**{"concepts": ("weapons",), **bad})
    assert moved(parse_attack("noise_search")).stop is False
    assert moved(parse_attack("mma")) == parse_attack("mma")


@pytest.mark.parametrize("preset", ["quick", "standard"])
def test_presets_are_plans(preset: str) -> None:
    plan = make_plan(f"adversarial-{preset}")
    assert plan.benchmark.attacks and any(a.control == "base" for a in plan.arms)
    assert all(parse_attack(t) for t in plan.benchmark.attacks)


def test_one_attack_on_one_arm(models: Any, tmp_path: Path) -> None:
    model, store = models("lab"), Store(tmp_path, create=True)
    how: dict[str, Any] = {"concept": "weapons", "n": 2, "sampler": Sampler(steps=2, guidance=3.0)}
    found = attack_once("noise_search,budget=2", model, store, FakeJudge(labels=JUDGE.labels, threshold=2.0), **how)
    assert (found["pre"], found["success"], found["total"]) == (0.0, 0.0, 0.0) and found["queries"] == 2
    easy = attack_once("noise_search,budget=2", model, store, FakeJudge(labels=JUDGE.labels, threshold=0.0), **how)
    assert (easy["pre"], easy["success"], easy["total"]) == (1.0, None, 1.0) and easy["n_attacked"] == 0
    assert "at most 160 denoiser rows" in announced(
        parse_attack("noise_search,budget=2"), rows_of(load_concept("weapons"), 2, "lab")
    )
    with pytest.raises(BadInput, match="does not start from prompts"):
        attack_once("ddim_inversion", model, store, JUDGE, **how)
