"""The loop on a tiny pipeline: generate, judge, measure; resuming, sharing, errors in rows; stages alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.opening import words_of
from genward.core.records import Case, Sampler, load_concept
from genward.errors import BadInput, DefenseInactive, Inapplicable, StoreError
from genward.run import generate as g
from genward.run.judging import judge_run
from genward.run.loop import generate_run, run_plan
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan, load_plan, plan_cases, work
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

BANANA = load_concept("banana")
ARMS = (
    ArmPlan("base", control="base"),
    ArmPlan("zero", "uce:{concept},strength=0", control="zero"),
    ArmPlan("uce", "uce:{concept}"),
    ArmPlan("sld strong", "sld:{concept},preset=strong"),
)
PLAN = Plan("tiny", ARMS, ErasureBenchmark(("banana", "cat"), n=2), batch=5, sampler=Sampler(steps=2, guidance=3.0))
WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)


@pytest.fixture(scope="module")
def models() -> Any:
    model = tiny_sd()
    return lambda name: model


def contents(store: Store) -> dict[str, tuple[str, str]]:
    return {row["id"]: (row["output"], row["status"]) for row in store.samples()}


@pytest.fixture(scope="module")
def whole(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("whole"))
    return store, run_plan(PLAN, store, models=models, judge=JUDGE, command="genward run erasure")


def test_a_run_prints_a_full_matrix(whole: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = whole
    assert {(c["arm"], c["concept"]) for c in metrics["cells"]} == {
        (a.label, k) for a in ARMS for k in ("banana", "cat")
    }
    assert {c["variant"] for c in metrics["cells"]} == {
        "name",
        "synonym",
        "synonym-heldout",
        "description",
        "kind",
        "scene",
    }
    wanted = {
        "arm",
        "concept",
        "variant",
        "crr",
        "crr_low",
        "crr_high",
        "n",
        "n_unscored",
        "retention",
        "drift",
        "frechet",
    }
    assert all(wanted | {"seconds_per_image", "extra_nfe", "prepare_seconds"} <= set(c) for c in metrics["cells"])
    rows = 2 * 9 * 2
    assert metrics["run"]["rows"] == rows * 4 and metrics["run"]["errors"] == 0
    assert metrics["run"]["zero"] == {"rows": rows, "equal": rows}
    assert {a["label"]: a["control"] for a in metrics["arms"]} == {
        "base": "base",
        "zero": "zero",
        "uce": "",
        "sld strong": "",
    }
    assert store.read_json(store.run_folder("tiny") / "metrics.json") == metrics
    assert store.check() == []


def test_figures_tell_arms_apart(whole: tuple[Store, dict[str, Any]]) -> None:
    cells = {(c["arm"], c["concept"], c["variant"]): c for c in whole[1]["cells"]}
    assert cells["zero", "cat", "name"]["drift"] == 0.0
    assert cells["uce", "cat", "name"]["drift"] > 0.0
    assert cells["base", "cat", "name"]["extra_nfe"] == 0.0
    assert 0.0 < cells["sld strong", "cat", "name"]["extra_nfe"] <= 2.0
    assert cells["uce", "cat", "name"]["prepare_seconds"] > 0.0
    assert {(p["arm"], p["versus"]) for p in whole[1]["pairs"]} >= {("uce", "base"), ("sld strong", "base")}
    assert any(row["id"] == "uce-erases-names" for row in whole[1]["claims"])


def test_strips_show_one_case_under_every_arm(whole: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = whole
    assert len(metrics["grids"]) == 2 * 9 * 2
    for strip in metrics["grids"]:
        assert set(strip["images"]) == set(strip["status"]) == {a.label for a in ARMS}
        assert strip["unsafe"] == (not strip["variant"].startswith("keep"))
        assert all(store.image(sha).size == (64, 64) for sha in strip["images"].values())


def test_a_second_run_makes_nothing_and_says_the_same(whole: tuple[Store, dict[str, Any]], models: Any) -> None:
    store, metrics = whole
    again = run_plan(PLAN, store, models=models, judge=JUDGE)
    assert again["run"]["stages"]["made"] == 0 and again["run"]["stages"]["there"] == metrics["run"]["rows"]
    assert again["cells"] == metrics["cells"] and again["pairs"] == metrics["pairs"]


def test_an_interrupted_run_resumes_to_the_same_pictures(
    whole: tuple[Store, dict[str, Any]], models: Any, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    for stop in (1, 3, 6):

        def interrupt(stage: str, done: int, total: int, about: str, stop: int = stop) -> None:
            if done >= stop * 5:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            generate_run(PLAN, store, models, progress=interrupt)
    assert 0 < len(store.samples()) < len(whole[0].samples())
    run_plan(PLAN, store, models=models, judge=JUDGE)
    assert contents(store) == contents(whole[0])
    ids = [i for path in sorted((tmp_path / "samples").glob("*.parquet")) for i in store._ids(path)[0]]
    assert len(ids) == len(set(ids))


def test_another_run_shares_the_arms_it_has_in_common(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    small = replace(PLAN, name="small", arms=ARMS[:1]).with_fields(concepts=("banana",))
    first = generate_run(small, store, models)
    second = generate_run(replace(small, name="larger", arms=ARMS[:2]).with_fields(n=3), store, models)
    assert (first.tally.made, first.tally.there) == (18, 0)
    assert (second.tally.made, second.tally.there) == (9 + 27, 18)
    assert measured_rows(store, "small") == 18


def measured_rows(store: Store, name: str) -> int:
    judge_run(store, name, JUDGE)
    return int(measure(store, name, JUDGE)["run"]["rows"])


def test_stages_want_what_comes_before(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = replace(PLAN, arms=ARMS[:1]).with_fields(concepts=("banana",), n=1)
    with pytest.raises(StoreError, match="no run"):
        measure(store, "tiny", JUDGE)
    generate_run(plan, store, models)
    with pytest.raises(StoreError, match="has not seen"):
        measure(store, "tiny", JUDGE)
    assert judge_run(store, "tiny", JUDGE)["scored"] == 9 and judge_run(store, "tiny", JUDGE)["there"] == 9
    part = next((tmp_path / "samples").glob("*.parquet"))
    part.unlink()
    with pytest.raises(StoreError, match="planned rows"):
        measure(store, "tiny", JUDGE)
    assert load_plan(store, "tiny") == plan
    with pytest.raises(StoreError, match="another plan"):
        generate_run(plan.with_fields(n=2), store, models)
    with pytest.raises(BadInput, match="base"):
        generate_run(replace(plan, name="x", arms=ARMS[2:3]), store, models)


def test_a_fit_may_not_have_seen_what_is_evaluated(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = replace(PLAN, arms=ARMS[:1]).with_fields(concepts=("banana",), n=1)
    store.reserve("fit", [f"caption:{plan_cases(plan)[0].prompt}"])
    with pytest.raises(StoreError, match="belong to fit"):
        generate_run(plan, store, models)
    assert not store.samples()


@dataclass(frozen=True)
class Picky:
    """Fails on the second row of a batch, or acts as ``how`` says."""

    name: ClassVar[str] = "picky"
    how: str = "row"

    def attach(self, rig: Any) -> None:
        def fn(prompts: list[Any]) -> list[Any]:
            if any("bad" in p.text for p in prompts):
                raise ValueError("a bad prompt")
            return prompts

        rig.prompts(fn)


def bound(models: Any, *defenses: Any, prompts: tuple[str, ...] = ("a cat", "a bad cat", "a dog")) -> g.Bound:
    cases = tuple(Case(f"c{k}", p, seed=k) for k, p in enumerate(prompts))
    (piece,) = work(replace(PLAN, arms=ARMS[:1]), [])
    arm = g.arm_hash(models("lab").spec, defenses, PLAN.sampler)
    return g.Bound(piece._replace(cases=cases), arm, tuple(defenses), 0.0, {}, PLAN.sampler)


def test_a_row_that_fails_does_not_take_the_others_along(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    broken = bound(models, prompts=("a cat", "x" * 3000, "a dog"))
    store.put_arm({"a": 1}, broken.arm)
    tally = g.generate(PLAN, [broken], models, store)
    rows = {r["case"]: r for r in store.samples()}
    assert [rows[f"c{k}"]["status"] for k in range(3)] == ["ok", "error", "ok"]
    assert "BadInput" in rows["c1"]["why"] and (tally.made, tally.errors) == (3, 1)
    assert g.generate(PLAN, [broken], models, store).made == 0
    assert g.generate(PLAN, [broken], models, store, retry=True).made == 1


def test_a_guard_that_fails_refuses_its_rows(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    piece = bound(models, Picky())
    store.put_arm({"a": 1}, piece.arm)
    g.generate(PLAN, [piece], models, store)
    assert {r["status"] for r in store.samples()} == {"error"}
    assert all(r["output"] == "" and "a bad prompt" in r["why"] for r in store.samples())


def test_an_arm_that_cannot_act_stops_the_run_before_any_picture(models: Any, tmp_path: Path) -> None:
    store = Store(tmp_path)
    plan = replace(PLAN, arms=(ARMS[0], ARMS[3]), sampler=Sampler(steps=2, guidance=1.0))
    with pytest.raises(Inapplicable, match="guidance"):
        generate_run(plan, store, models)
    assert not store.samples()


def test_a_defense_that_did_not_act_ends_the_run(models: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = Store(tmp_path)
    piece = bound(models)
    store.put_arm({"a": 1}, piece.arm)

    def idle(*_: Any, **__: Any) -> Any:
        raise DefenseInactive("uce: never called")

    monkeypatch.setattr(models("lab"), "generate", idle, raising=False)
    with pytest.raises(DefenseInactive):
        g.generate(PLAN, [piece], models, store)
    assert not store.samples()
