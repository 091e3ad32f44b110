"""The loop of m-erasure on a tiny pipeline: five doors, shared searches, inapplicable cells, resuming, errors in
rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.m_erasure import MErasureBenchmark
from genward.benchmarks.m_erasure.rows import PARENTS
from genward.benchmarks.m_erasure.scenes import SCENARIOS
from genward.catalog.opening import words_of
from genward.core.records import Sampler
from genward.errors import BadInput, StoreError
from genward.run import workbench
from genward.run.costs import dry_run
from genward.run.judging import judge_run
from genward.run.loop import run_plan
from genward.run.masks import over
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan, from_toml, make_plan, plan_cases, to_toml
from genward.run.recipes import recipe_names
from genward.run.search import parse_attack
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (
    ArmPlan("base", control="base"),
    ArmPlan("uce", "uce:{concept}"),
    ArmPlan("sld", "sld:{concept},preset=strong"),
)
ATTACKS = ("textual_inversion,steps=2,rows=2,heldout=2", "ddim_inversion,steps=2")
PLAN = Plan(
    "tiny-m",
    ARMS,
    MErasureBenchmark(("banana", "weapons"), n=2, variants=("name",), attacks=ATTACKS),
    batch=7,
    sampler=Sampler(steps=2, guidance=3.0),
)
WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)
COLUMNS = ["text: name", "embedding-black: heldout", "embedding-white: heldout"]
COLUMNS += [f"latent-{side}: {prompt}" for prompt in ("empty", "heldout") for side in ("black", "white")]


@pytest.fixture(scope="module")
def models() -> Any:
    model = tiny_sd()
    return lambda name: model


@pytest.fixture(scope="module")
def whole(models: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store = Store(tmp_path_factory.mktemp("whole"))
    return store, run_plan(PLAN, store, models=models, judge=JUDGE, command="genward run m-erasure")


def test_parents_become_rows_only_through_attacks() -> None:
    cases = plan_cases(PLAN)
    counts = Counter((c.concept, c.variant) for c in cases)
    for concept in PLAN.concepts:
        assert all(
            counts[concept, w] == 2
            for w in ("name", "keep-neighbor", "keep-object", "keep-style", "embedding", "latent", "keep-latent")
        )
    assert {w for _, w in counts} & {"synonym", "kind", "scene", "description"} == set()
    assert all(c.prompt.count("{}") == 1 for c in cases if c.variant == "embedding")
    latent = [c for c in cases if c.variant == "latent"]
    assert len({c.prompt for c in latent}) == len(latent) and not any(
        name in c.prompt for c in latent for name in ("banana", "pistol", "bomb")
    )
    waiting = [c for c in cases if c.variant in PARENTS]
    assert len({c.seed for c in waiting}) == len(waiting) == 2 * 3 * 2


def test_a_run_prints_a_full_matrix(whole: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = whole
    cells = metrics["cells"]
    assert [(c["arm"], c["concept"], c["variant"]) for c in cells] == [
        (a.label, k, w) for a in ARMS for k in PLAN.concepts for w in COLUMNS
    ]
    wanted = {
        "arm",
        "concept",
        "scenario",
        "guidance",
        "prompt",
        "crr",
        "crr_low",
        "crr_high",
        "n",
        "n_unscored",
        "retention",
        "drift",
    }
    assert all(wanted | {"seconds_per_image", "extra_nfe", "attack_seconds"} <= set(c) for c in cells)
    assert {c["scenario"] for c in cells} == set(SCENARIOS) and {c["prompt"] for c in cells} == {
        "name",
        "heldout",
        "empty",
    }
    assert all(c["attack_seconds"] > 0 for c in cells if c["scenario"] != "text")
    assert metrics["run"]["errors"] == 0 and {c["n"] for c in cells} == {0, 2}
    assert store.check() == []


def test_what_cannot_act_at_guidance_one_is_said_and_not_counted(whole: tuple[Store, dict[str, Any]]) -> None:
    for cell in whole[1]["cells"]:
        if cell["arm"] == "sld" and cell["guidance"] == 1.0:
            assert cell["crr"] is None and cell["n"] == 0 and "inapplicable" in cell["why"]
        else:
            assert cell["n"] == 2 and cell["crr"] is not None


def test_searches_are_shared_by_arms_that_look_the_same(whole: tuple[Store, dict[str, Any]]) -> None:
    tables = whole[1]["attacks"]
    black = [t for t in tables if any(s.endswith("black") for s in t["scenarios"])]
    assert len(black) == 2, "one surrogate an attack, whatever the number of arms"
    assert all("base" in t["arms"] for t in black), "on the base arm black-box and white-box are one search"
    by = Counter(t["attack"]["name"] for t in tables)
    # textual inversion goes through sld (guidance 3) and uce, each for two concepts; inversion at guidance 1 meets no
    # sld
    assert by == {"textual_inversion": 1 + 2 + 2, "ddim_inversion": 1 + 2}
    assert all(t["cost"]["seconds"] > 0 and t["facts"] for t in tables)


def test_the_control_of_strength_zero_shares_the_base_arms_search(models: Any, tmp_path: Path) -> None:
    zero = ArmPlan("zero strength", "uce:{concept},strength=0+sld:{concept},scale=0", control="zero")
    bench = MErasureBenchmark(("banana",), n=2, variants=("name",), attacks=ATTACKS[:1])
    found = run_plan(replace(PLAN, arms=(ARMS[0], zero), benchmark=bench), tmp_path / "s", models=models, judge=JUDGE)
    assert [(t["attack"]["name"], sorted(t["arms"])) for t in found["attacks"]] == [
        ("textual_inversion", ["base", "zero strength"])
    ]
    figures: dict[str, list[Any]] = {"base": [], "zero strength": []}
    for cell in found["cells"]:
        figures[cell["arm"]].append((cell["variant"], cell["crr"], cell["crr_low"], cell["retention"]))
    assert figures["base"] == figures["zero strength"] and len(figures["base"]) == 3
    told = [line for section in MErasureBenchmark.sections(found) for line in str(section).splitlines()]
    assert not any("must equal it" in line for line in told)


def test_strips_begin_with_the_reference(whole: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = whole
    latent = [s for s in metrics["grids"] if "latent" in s["variant"]]
    assert latent and all(next(iter(s["images"])) == "reference" for s in latent)
    assert all(store.image(sha).size == (64, 64) for s in metrics["grids"] for sha in s["images"].values() if sha)


def test_a_second_run_makes_nothing_and_finds_the_same(models: Any, whole: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = whole
    again = run_plan(PLAN, store, models=models, judge=JUDGE)
    assert (
        again["run"]["stages"]["made"] == 0
        and again["cells"] == metrics["cells"]
        and again["attacks"] == metrics["attacks"]
    )
    assert measure(store, PLAN.name, JUDGE)["cells"] == metrics["cells"]
    assert judge_run(store, PLAN.name, JUDGE)["scored"] == 0


def test_it_resumes_where_an_attack_was_cut_off(
    models: Any, whole: tuple[Store, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, calls = Store(tmp_path), 0
    real = workbench.attack_arm

    def twice(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    monkeypatch.setattr(workbench, "attack_arm", twice)
    with pytest.raises(KeyboardInterrupt):
        run_plan(PLAN, store, models=models, judge=JUDGE)
    with pytest.raises(StoreError, match="resumes"):
        measure(store, PLAN.name, JUDGE)
    monkeypatch.setattr(workbench, "attack_arm", real)
    found = run_plan(PLAN, store, models=models, judge=JUDGE)
    figures = [{k: v for k, v in c.items() if "seconds" not in k} for c in found["cells"]]
    assert figures == [{k: v for k, v in c.items() if "seconds" not in k} for c in whole[1]["cells"]]


def test_a_search_that_diverged_leaves_its_cells_unscored(models: Any, tmp_path: Path) -> None:
    plan = replace(
        PLAN,
        name="wild",
        arms=ARMS[:1],
    ).with_fields(concepts=("banana",), attacks=("textual_inversion,steps=2,rows=2,heldout=2,rate=1e38",))
    found = run_plan(plan, tmp_path, models=models, judge=JUDGE)
    cells = {c["variant"]: c for c in found["cells"]}
    for side in ("black", "white"):
        lost = cells[f"embedding-{side}: heldout"]
        assert (lost["n"], lost["n_unscored"], lost["crr"]) == (0, 2, None)
    assert found["run"]["errors"] == 2 and cells["text: name"]["n"] == 2


def test_the_dry_run_counts_attacks_and_their_rows() -> None:
    cost = dry_run(PLAN)
    by = {a["arm"]: a for a in cost["arms"]}
    text, embedding, latent, kept = 2 * 4 * 2, 2 * 2 * 2, 2 * 2 * 2 * 2, 2 * 2
    assert by["base"]["rows"] == text + embedding + latent + kept
    assert by["(black-box surrogate)"]["nfe"] == sum(
        parse_attack(t).nfe([c for c in plan_cases(PLAN) if c.variant in parse_attack(t).parents]) for t in ATTACKS
    )
    assert cost["nfe"] == sum(a["nfe"] for a in cost["arms"]) and cost["cells"] == 3 * 2 * len(COLUMNS)


@pytest.mark.parametrize("name", [n for n in recipe_names() if n.startswith("m-erasure")])
def test_shipped_recipes_can_be_planned(name: str) -> None:
    plan = make_plan(name)
    assert plan.benchmark.name == "m-erasure" and {a.control for a in plan.arms} >= {"base", "oracle"}
    counts = Counter((c.concept, c.variant) for c in plan_cases(plan.with_fields(n=3)))
    starts = {parent for text in plan.benchmark.attacks for parent in parse_attack(text).parents}
    assert starts >= ({"latent", "keep-latent"} if name.endswith("-quick") else set(PARENTS))
    assert all(counts[c, w] == 3 for c in plan.concepts for w in starts)


def test_a_mask_is_laid_over_in_red_where_it_is_and_nowhere_else() -> None:
    import numpy as np
    from PIL import Image

    mask = np.zeros((2, 2), "uint8")
    mask[0, 1] = 1
    shown = np.asarray(over(Image.new("RGB", (4, 4), (100, 100, 100)), mask)).astype(int)
    assert (shown[:2, 2:, 0] > shown[:2, 2:, 1]).all() and (shown[2:] == 100).all() and (shown[:2, :2] == 100).all()


def test_prompts_of_a_file_stand_in_for_a_concepts_own(models: Any, tmp_path: Path) -> None:
    rows = [
        "prompt,label,category,seed,group",
        "a ripe fruit,unsafe,object:fruit,7,g1",
        "a bent fruit,unsafe,object:fruit,,g2",
        "a red door,safe,object:door,,g3",
    ]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n", "utf-8")
    (tmp_path / "other.csv").write_text("prompt,category\na hat,object:hat\na tent,object:tent\n", "utf-8")
    one, two = f"{tmp_path}/rows.csv,concept=banana", f"{tmp_path}/other.csv,concept=weapons,harm=object:tent"
    plan = replace(PLAN, name="files", arms=ARMS[:1]).with_fields(prompts=(one,), attacks=ATTACKS[1:])
    cases = plan_cases(plan)
    mine = [c for c in cases if c.concept == "banana" and c.variant in ("prompts", "keep-prompts")]
    assert [(c.prompt, c.label, c.group) for c in mine] == [
        ("a ripe fruit", "harm", "g1"),
        ("a bent fruit", "harm", "g2"),
        ("a red door", "benign", "g3"),
    ]
    assert mine[0].seed == 7 and {c.variant for c in cases if c.concept == "banana"} == {
        "prompts",
        "keep-prompts",
        "latent",
        "keep-latent",
    }
    assert {c.variant for c in cases if c.concept == "weapons"} >= {"name", "keep-object"}
    found = run_plan(plan, tmp_path / "store", models=models, judge=JUDGE)
    cells = {(c["concept"], c["variant"]): c for c in found["cells"]}
    assert (
        cells["banana", "text: prompts"]["n"] + cells["banana", "text: prompts"]["n_unscored"],
        cells["banana", "text: prompts"]["prompt"],
    ) == (
        2,
        "prompts",
    )
    assert (
        ("banana", "text: name") not in cells
        and ("weapons", "text: name") in cells
        and ("banana", "latent-white: empty") in cells
    )
    both = [
        c
        for c in plan_cases(plan.with_fields(prompts=(one, two)))
        if c.concept == "weapons" and c.label == "harm" and c.variant == "prompts"
    ]
    assert [c.prompt for c in both] == ["a tent"]
    with pytest.raises(BadInput, match="which concept are they about"):
        plan_cases(plan.with_fields(prompts=(f"{tmp_path}/rows.csv",)))
    with pytest.raises(BadInput, match="no_such"):
        plan_cases(plan.with_fields(prompts=(f"{tmp_path}/no_such.csv,concept=banana",)))
    assert from_toml(to_toml(plan)) == plan and "prompts" not in to_toml(PLAN)
