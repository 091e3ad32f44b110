"""Names that the judge or the model do not know stop a run before anything is spent; a column without a value is no
success."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.opening import words_of
from genward.cli.app import status
from genward.core.benchmark import Setting
from genward.core.records import concept_names, load_concept
from genward.errors import BadInput, UnknownName
from genward.run.known import check_names, unscored
from genward.run.plan import ArmPlan, Plan, make_plan, setting_of
from genward.testing import FakeJudge

WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]))
CONCEPT = """
name = "shade"
kind = "object"
summary = "Something against rain."
targets = ["umbrella"]
phrases = ["a parasol"]
heldout = ["a shield from rain"]
neighbors = ["house"]
keep = ["a cat"]
judge = { labels = ["umbrella"] }
"""


def planned(folder: Path, old: str = "", new: str = "", model: str = "lab") -> Plan:
    assert old in CONCEPT
    (folder / "shade.toml").write_text(CONCEPT.replace(old, new) if old else CONCEPT, "utf-8")
    bench = ErasureBenchmark((str(folder / "shade.toml"),), n=1)
    return Plan("t", (ArmPlan("base", control="base"),), bench, model=model)


def test_known_names_pass_and_so_do_the_shipped_ones(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    check_names(plan, setting_of(plan), JUDGE)
    shipped = replace(plan, benchmark=ErasureBenchmark(tuple(concept_names()), n=1))
    check_names(shipped, setting_of(shipped), JUDGE)


@pytest.mark.parametrize(
    ("old", "new", "told", "near"),
    [
        ('labels = ["umbrella"]', 'labels = ["umbrela"]', "label of judge 'fake'", "umbrella"),
        ('targets = ["umbrella"]', 'targets = ["umbrela"]', "target of shade", "umbrella"),
        ('neighbors = ["house"]', 'neighbors = ["house", "tent"]', "neighbor of shade", "elephant"),
        ('neighbors = ["house"]', 'neighbors = ["hose"]', "neighbor of shade", "house"),
    ],
)
def test_a_name_that_is_not_known_is_an_error_with_the_nearest(
    tmp_path: Path, old: str, new: str, told: str, near: str
) -> None:
    plan = planned(tmp_path, old, new)
    with pytest.raises(UnknownName, match=told) as error:
        check_names(plan, setting_of(plan), JUDGE)
    assert near in error.value.near


@pytest.mark.parametrize(
    ("phrase", "told"),
    [
        (WORDS["things"]["umbrella"]["synonym"][-1], "the model was trained on it as a phrase for 'umbrella'"),
        (WORDS["things"]["cat"]["name"][0].upper(), "the model was trained on it as a phrase for 'cat'"),
        ("a  Parasol", "among the phrases that methods fit on"),
    ],
)
def test_what_was_seen_is_not_held_out(tmp_path: Path, phrase: str, told: str) -> None:
    plan = planned(tmp_path, "a shield from rain", phrase)
    with pytest.raises(BadInput, match=told):
        check_names(plan, setting_of(plan), JUDGE)


def test_elsewhere_the_judge_alone_is_asked(tmp_path: Path) -> None:
    plan = planned(tmp_path, 'targets = ["umbrella"]', 'targets = ["brolly"]', model="./sd")
    setting = Setting((load_concept(plan.concepts[0]),))
    check_names(plan, setting, FakeJudge(labels=("umbrella",)))
    with pytest.raises(UnknownName, match="label of judge"):
        check_names(plan, setting, FakeJudge(labels=("church",)))


def test_the_dry_run_asks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    planned(tmp_path, 'targets = ["umbrella"]', 'targets = ["umbrela"]')
    code = status(["run", "erasure", "-c", "./shade.toml", "-d", "none", "--n", "1", "--dry-run"])
    assert code == 3 and "did you mean umbrella" in capsys.readouterr().err
    assert not (tmp_path / "genward-store").exists()


def test_a_column_without_any_value_is_named() -> None:
    cells = [
        {"concept": c, "crr": v, "why": "no scored rows"}
        for c, v in (("a", None), ("a", None), ("b", None), ("b", 0.1))
    ]
    assert unscored({"cells": cells}, "cells", "crr") == ["a: crr has no value in any of 2 cells (no scored rows)"]
    cells = [{"concept": "a", "variant": v, "crr": x} for v, x in (("name", 0.5), ("scene", None), ("scene", None))]
    assert unscored({"cells": cells}, "cells", "crr") == [
        "a, scene: crr has no value in any of 2 cells (no reason given)"
    ]
    assert unscored({"cells": cells}, "cells", "") == []


@pytest.mark.parametrize("recipe", ["m-erasure-standard", "harmgen-quick"])
def test_an_arm_that_is_not_there_cannot_be_attacked_and_other_arms_are_all_attacked(recipe: str) -> None:
    plan = make_plan(recipe)
    named = plan.benchmark.attacked  # type: ignore[attr-defined]
    assert named and set(named) < {arm.label for arm in plan.arms}
    check_names(plan, setting_of(plan), JUDGE)
    wrong = make_plan(recipe, attacked=("no such arm",))
    with pytest.raises(UnknownName, match="arm to attack"):
        check_names(wrong, setting_of(wrong), JUDGE)
    own = make_plan(recipe, defenses=("mine=none",))
    assert own.benchmark.attacked == ()  # type: ignore[attr-defined]
    assert make_plan(recipe, defenses=("mine=none",), attacked=("mine",)).benchmark.attacked == ("mine",)  # type: ignore[attr-defined]
