"""Plans: recipes, binding to rows, the cut, dry runs and TOML both ways."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.core.records import Sampler, concept_names, load_concept
from genward.errors import BadInput, UnknownName
from genward.run import plan as p
from genward.run.costs import dry_run
from genward.run.recipes import recipe_names


def tiny(**changes: object) -> p.Plan:
    arms = (
        p.ArmPlan("base", control="base"),
        p.ArmPlan("oracle", model="lab:oracle", control="oracle"),
        p.ArmPlan("uce", "uce:{concept}"),
    )
    own = {k: changes.pop(k) for k in ("concepts", "n") if k in changes}
    bench = replace(ErasureBenchmark(("weapons", "banana"), n=3), **own)  # type: ignore[arg-type]
    return replace(p.Plan("t", arms, bench, batch=10), **changes)  # type: ignore[arg-type]


def test_work_binds_the_placeholder_to_each_concept_and_shares_the_base() -> None:
    plan = tiny()
    cases = p.plan_cases(plan)
    pieces = p.work(plan, cases)
    assert [(w.label, w.defenses, w.concept, w.model) for w in pieces] == [
        ("base", "none", "", "lab"),
        ("oracle", "none", "", "lab:oracle"),
        ("uce", "uce:weapons", "weapons", "lab"),
        ("uce", "uce:banana", "banana", "lab"),
    ]
    assert list(pieces[0].cases) == cases and len(cases) == 2 * 9 * 3
    assert pieces[2].cases + pieces[3].cases == pieces[0].cases


def test_batches_cover_every_row_once_and_never_cross_work() -> None:
    plan = tiny()
    pieces = p.work(plan, p.plan_cases(plan))
    cut = p.batches(plan, pieces)
    assert max(len(b.cases) for b in cut) == 10
    for piece in pieces:
        assert [c for b in cut if b.work == piece for c in b.cases] == list(piece.cases)


def test_what_the_oracle_never_saw_is_left_out_of_what_must_stay() -> None:
    benign = [c for c in p.plan_cases(tiny(concepts=("weapons",), n=30)) if c.label == "benign"]
    assert not any(w in c.prompt for c in benign for w in ("banana", "monotone"))


def test_a_dry_run_counts_pictures_and_passes() -> None:
    plan = tiny(arms=(p.ArmPlan("base", control="base"),))
    figures = dry_run(plan)
    assert figures["rows"] == 54 and figures["nfe"] == 54 * 40 and figures["cells"] == 12
    assert dry_run(replace(plan, sampler=Sampler(steps=10, guidance=1.0)))["nfe"] == 54 * 10


def test_a_plan_survives_toml(tmp_path: Path) -> None:
    plan = tiny(sampler=Sampler(steps=7, guidance=2.5))
    text = p.to_toml(plan, p.planned(plan))
    assert p.from_toml(text) == plan
    (tmp_path / "own.toml").write_text(text)
    assert replace(p.make_plan(tmp_path / "own.toml"), preset="") == plan
    assert p.from_toml(text).hash == plan.hash == replace(plan, name="other").hash


DRAWN = [name for name in recipe_names() if p.make_plan(name).benchmark.media == "image"]


@pytest.mark.parametrize("name", DRAWN)
def test_every_recipe_makes_a_plan_with_controls(name: str) -> None:
    plan = p.make_plan(name)
    first = name == "m-erasure-quick"  # the first result: minutes on two slow cores
    poisoned = name.startswith("backdoor-")  # every fixture undefended is the control of its defenses
    wanted = {"base"} if poisoned else {"base", "oracle"} if first else {"base", "oracle", "zero"}
    assert wanted <= {a.control for a in plan.arms}
    assert len(plan.arms) >= (4 if first else 6)
    single = first or poisoned or name.startswith("guards-") or name.startswith("adversarial-")
    assert len(plan.concepts) >= (1 if single else 2)


def test_the_presets_keep_their_time() -> None:
    quick, standard = p.make_plan("erasure-quick"), p.make_plan("erasure-standard")
    for plan, most in ((quick, 6.0), (standard, 23.0)):
        rows = len(p.plan_cases(plan))
        nfe = rows * len(plan.arms) * plan.sampler.steps * 2
        third = rows * plan.sampler.steps * sum("sld" in a.defenses for a in plan.arms)
        assert (nfe + third) / 200 / 60 < most
    assert len([a for a in standard.arms if a.control != "oracle"]) >= 7 and standard.benchmark.n >= 24


def test_values_of_a_recipe_can_be_replaced() -> None:
    plan = p.make_plan(
        "erasure-quick", concepts=["cat", "weapons"], defenses=["uce:weapons", "mine=sld:cat,preset=max"], n=5, steps=4
    )
    assert [(a.label, a.defenses) for a in plan.arms] == [
        ("base", "none"), ("oracle", "none"), ("uce:weapons", "uce:weapons"), ("mine", "sld:cat,preset=max"),
    ]  # fmt: skip
    assert plan.arms[1].concepts == ("weapons",)
    assert (plan.benchmark.n, plan.sampler.steps, plan.preset) == (5, 4, "quick")
    assert all(a.control != "oracle" for a in p.make_plan("erasure-quick", model="some/folder").arms)


def test_bad_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="erasure-quick"):
        p.make_plan("erasure-quik")
    with pytest.raises(UnknownName, match="weapons"):
        p.plan_cases(p.make_plan("erasure-quick", concepts=["weapon"]))
    with pytest.raises(BadInput, match="different label"):
        tiny(arms=(p.ArmPlan("a"), p.ArmPlan("a")))
    with pytest.raises(UnknownName, match="control"):
        tiny(arms=(p.ArmPlan("a", control="bas"),))
    (tmp_path / "x.toml").write_text("concepts = [1")
    with pytest.raises(BadInput, match="recipe"):
        p.make_plan(tmp_path / "x.toml")
    (tmp_path / "y.toml").write_text("concepts = ['weapons']\ncolour = 'red'\n[[arm]]\nlabel = 'base'")
    with pytest.raises(BadInput, match="colour"):
        p.make_plan(tmp_path / "y.toml")
    for wrong, match in (
        ("concepts = 'weapons'", "concepts is 'weapons', which is text; give a list of texts"),
        ("concepts = ['weapons']\nn = '3'", "n is '3', which is text; give a whole number"),
        ("concepts = ['weapons']\nsampler = { steps = 2.5 }", "sampler.steps is 2.5, which is a number"),
        ("concepts = ['weapons']\narm = [1]", r"arms\[0\] is 1"),
    ):
        (tmp_path / "z.toml").write_text(wrong + ("" if "arm" in wrong else "\n[[arm]]\nlabel = 'base'"))
        with pytest.raises(BadInput, match=match):
            p.make_plan(tmp_path / "z.toml")


def test_no_shipped_recipe_generates_a_caption_that_methods_fit_on() -> None:
    """One store takes all of them in any order: what a concept file lists is never a row of another concept's
    evaluation."""
    fitted = {line for name in concept_names() for line in (*load_concept(name).keep, *load_concept(name).phrases)}
    for name in DRAWN:
        plan = p.make_plan(name, n=40)
        rows = {c.prompt for c in p.plan_cases(plan) if c.variant not in ("embedding", "keep-latent")}
        assert not rows & fitted, name


def test_the_labs_judge_serves_the_lab_alone() -> None:
    from genward.catalog.judges import open_judge
    from genward.catalog.opening import family_of

    plan = p.make_plan("erasure-quick", model="some/folder")
    with pytest.raises(BadInput, match="knows the lab's drawings alone.*some/folder.*open_nsfw"):
        p.match(plan, open_judge("lab"), family_of)
    p.match(plan, open_judge("open_nsfw"), family_of)
    p.match(p.make_plan("erasure-quick"), open_judge("lab"), family_of)
