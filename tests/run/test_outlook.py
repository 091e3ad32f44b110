"""What a run will cost here: what is left of it, what would fail, the first table, searches that come with genward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.m_erasure import MErasureBenchmark
from genward.catalog.opening import words_of
from genward.core.records import Sampler
from genward.errors import Conflict, UnknownName
from genward.run import outlook, speed
from genward.run.costs import dry_run
from genward.run.loop import run_plan
from genward.run.outlook import expected, in_words
from genward.run.plan import ArmPlan, Plan
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (ArmPlan("base", control="base"), ArmPlan("uce", "uce:{concept}"))
ATTACKS = ("textual_inversion,steps=2,rows=2,heldout=2", "ddim_inversion,steps=2")
PLAN = Plan(
    "tiny",
    ARMS,
    MErasureBenchmark(("banana",), n=2, variants=("name",), attacks=ATTACKS),
    batch=8,
    sampler=Sampler(steps=2, guidance=3.0),
)
WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)
Models = Callable[[str], Any]


@pytest.fixture(scope="module")
def models() -> Models:
    model = tiny_sd()
    return lambda name: model


@pytest.fixture(scope="module")
def done(models: Models, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[str], list[Any], Any]:
    store, said, shown = Store(tmp_path_factory.mktemp("done")), [], []
    found = run_plan(PLAN, store, models=models, judge=JUDGE, command="x", say=said.append, first=shown.append)
    return store, said, shown, found


def test_a_fresh_run_is_counted_and_nothing_is_written(models: Models, tmp_path: Path) -> None:
    store = Store(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    found = expected(PLAN, models, store, judge=JUDGE)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before
    # the base arm: 4 cells of 2 texts, one embedding, two latents and a kept one, black and white being one search
    base, apart = 8 + 2 + 4 + 2, 8 + 4 + 8 + 2
    assert (found["rows"], found["there"]) == (base + apart, 0)
    assert list(found["fits"]) == ["uce:banana"] and found["searches"] == 2 + 1
    assert found["rows_per_second"] > 0 and found["minutes"] >= 0
    assert "38 rows, 3 searches, 1 fit; about" in in_words(found) and "on this machine" in in_words(found)
    unknown = {**found, "fits": {"uce:banana": None}}
    assert "1 fit (not counted: uce:banana); about" in in_words(unknown)


def test_nothing_is_left_of_a_run_that_is_done(models: Models, done: Any) -> None:
    store, said, _, metrics = done
    assert said[0].startswith("tiny: ") and "minutes on this machine" in said[0]
    assert metrics["run"]["rows_per_second_measured"] > 0
    left = expected(PLAN, models, store, judge=JUDGE)
    assert (left["rows"], left["searches"], left["fits"], left["minutes"]) == (0, 0, {}, 0.0)
    assert left["there"] == metrics["run"]["rows"] == metrics["run"]["stages"]["made"]
    assert in_words(left) == "tiny: everything is there"
    assert expected(PLAN, models, store, judge=JUDGE, refit=True)["fits"] == {"uce:banana": 0.0}


def test_a_done_run_is_not_measured_again_and_keeps_its_figure(
    models: Models, done: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlook, "speed_of", lambda *_: pytest.fail("nothing is left to measure for"))
    again = run_plan(PLAN, done[0], models=models, judge=JUDGE, command="x")
    assert again["run"]["rows_per_second_measured"] == done[3]["run"]["rows_per_second_measured"]


def test_what_is_half_there_is_counted_so(models: Models, done: Any) -> None:
    more = replace(PLAN, arms=(*ARMS, ArmPlan("sld", "sld:{concept}")))
    left = expected(more, models, done[0], judge=JUDGE)
    assert left["there"] == done[3]["run"]["rows"] and 0 < left["rows"] < 24
    assert left["searches"] == 1, "learned embeddings go through guidance; inversion at guidance 1 meets no sld"


def test_figures_of_a_dry_run_hold_at_most_what_a_run_makes(models: Models, done: Any) -> None:
    whole = dry_run(PLAN)
    assert done[3]["run"]["rows"] <= whole["rows"] and "minutes" not in whole


def test_minutes_come_from_the_machine(models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = speed.Speed(1.0, 3.0), speed.Speed(1e6, 0.0)
    found = {}
    for rate in (slow, fast):
        monkeypatch.setattr(outlook, "speed_of", lambda *_, rate=rate: rate)
        found[rate] = expected(PLAN, models, Store(tmp_path), judge=JUDGE)
    left = found[slow]
    assert left["minutes"] == round((left["rows"] * 3 + left["nfe"] + left["search_nfe"]) / 60, 1)
    assert found[fast]["minutes"] == 0.0


def test_a_recorded_fit_tells_how_long_it_takes_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert outlook._fit_seconds("esd:weapons,variant=u", speed.Speed(outlook.RECORDED, 0.0)) > 60
    assert outlook._fit_seconds("uce:weapons", speed.Speed(50.0, 0.0)) == 0.0, "a closed form"
    half = outlook._fit_seconds("wukong:weapons", speed.Speed(outlook.RECORDED / 2, 0.0))
    assert half == pytest.approx(
        2 * outlook._fit_seconds("wukong:weapons", speed.Speed(outlook.RECORDED, 0.0)), rel=0.01
    )
    monkeypatch.setattr(outlook, "shipped_artifacts", lambda: tmp_path)
    assert outlook._fit_seconds("wukong:weapons", speed.Speed(50.0, 0.0)) is None, "nobody knows"


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        (replace(PLAN, judge="nobody"), UnknownName),
        (replace(PLAN, arms=(*ARMS, ArmPlan("two", "sld:{concept}+sld:{concept},preset=max"))), Conflict),
    ],
)
def test_what_will_fail_fails_at_once(models: Models, tmp_path: Path, plan: Plan, error: type[Exception]) -> None:
    with pytest.raises(error):
        expected(plan, models, Store(tmp_path))


def test_the_first_table_has_the_texts_and_comes_before_the_searches(done: Any) -> None:
    _, said, (first,), metrics = done
    told = {(c["arm"], c["variant"]): c for c in first["cells"] if c["n"]}
    assert {variant for _, variant in told} == {"text: name"}
    last = {(c["arm"], c["variant"]): c for c in metrics["cells"]}
    assert all(last[key]["crr"] == cell["crr"] for key, cell in told.items())
    assert first["run"]["rows"] < metrics["run"]["rows"]
    assert any("ddim_inversion" in line for line in said)


def test_searches_are_run_again_when_asked_for(models: Models, done: Any) -> None:
    said: list[str] = []
    run_plan(PLAN, done[0], models=models, judge=JUDGE, command="x", say=said.append)
    assert not any("cases through" in line for line in said)
    run_plan(PLAN, done[0], models=models, judge=JUDGE, command="x", search_again=True, say=said.append)
    assert sum("cases through" in line for line in said) == 4
