"""Runs with a second judge: who it is, that both see every picture, and that runs without one stay what they were."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.judges import judge_hash, open_judge
from genward.core.records import Sampler
from genward.errors import BadInput
from genward.judges.lab import LabJudge, SecondLabJudge
from genward.report.judges import section as judges_section
from genward.run import plan as p
from genward.run.judging import judge_run
from genward.run.loop import run_plan
from genward.run.measure import measure
from genward.run.second import second_of
from genward.run.verify import verify
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

ARMS = (p.ArmPlan("base", control="base"), p.ArmPlan("uce", "uce:{concept}"))
PLAN = p.Plan("two", ARMS, ErasureBenchmark(("banana",), n=1), sampler=Sampler(steps=2, guidance=3.0))
FIELDS = {"second", "second_low", "second_high", "agreement", "agreement_low", "agreement_high", "kappa"}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[str, Any]]:
    store, model = Store(tmp_path_factory.mktemp("two")), tiny_sd()
    return store, run_plan(PLAN, store, models=lambda name: model)


def test_the_two_judges_of_the_lab_are_two() -> None:
    first, second = open_judge("lab"), open_judge("lab_second")
    assert (type(first), type(second)) == (LabJudge, SecondLabJudge)
    assert judge_hash(first) != judge_hash(second) and first.labels == second.labels
    assert first.card.facts["network"] != second.card.facts["network"]


def test_who_the_second_judge_is() -> None:
    assert type(second_of(PLAN, LabJudge())) is SecondLabJudge
    assert type(second_of(PLAN, SecondLabJudge())) is LabJudge, "swapped"
    assert second_of(PLAN, FakeJudge()) is None, "what is not the lab's has no other one"
    assert second_of(replace(PLAN, second="none"), LabJudge()) is None
    assert second_of(replace(PLAN, model="somewhere/else"), LabJudge()) is None
    assert type(second_of(replace(PLAN, second="lab_second"), LabJudge())) is SecondLabJudge
    assert type(second_of(replace(PLAN, second="lab_second"), SecondLabJudge())) is LabJudge
    with pytest.raises(BadInput, match="is the one that scores"):
        second_of(replace(PLAN, second="lab"), LabJudge())


def test_both_see_every_picture(ran: tuple[Store, dict[str, Any]]) -> None:
    store, metrics = ran
    ids = {r["id"] for r in store.samples()}
    assert all(store.judged(judge_hash(j)) == ids for j in (LabJudge(), SecondLabJudge()))
    assert [j["name"] for j in metrics["judges"]] == ["lab", "lab_second"]
    assert all(set(c) >= FIELDS for c in metrics["cells"])
    assert {r["arm"] for r in metrics["two_judges"]} == {"base", "uce"}
    assert all(r["n"] == r["both"] + r["first_only"] + r["second_only"] + r["neither"] for r in metrics["two_judges"])
    assert len(judges_section(metrics).blocks) == 2


def test_the_page_and_the_table_show_both(ran: tuple[Store, dict[str, Any]]) -> None:
    metrics = ran[1]
    table = ErasureBenchmark.printed(metrics)[0]
    assert {"crr", "crr_raw", "second", "agreement"} <= set(table.columns)
    assert all(row["second"] is not None for row in table.rows)
    page = {s.id: s for s in ErasureBenchmark.sections(metrics)}
    assert "lab_second" in str(page["two-judges"].blocks[0]) and len(page["two-judges"].blocks) == 3
    assert "renders" in str(page["two-judges"].blocks[2]), "without an oracle arm nothing better is known"
    assert "second judge" in str(page["matrix"].blocks)


def test_a_run_judged_by_the_other_one_swaps_them(ran: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    store = copy_of(ran[0], tmp_path)
    swapped = SecondLabJudge()
    done = judge_run(store, "two", swapped)
    assert (done["judge"], done["scored"], done["second"]) == ("lab_second", 0, judge_hash(LabJudge()))
    found = measure(store, "two", swapped)
    assert [j["name"] for j in found["judges"]] == ["lab_second", "lab"]
    for a, b in zip(ran[1]["cells"], found["cells"], strict=True):
        assert (a["crr_raw"], a["second"], a["agreement"]) == (b["second"], b["crr_raw"], b["agreement"])


def test_a_store_whose_pictures_one_judge_saw_still_opens(ran: tuple[Store, dict[str, Any]], tmp_path: Path) -> None:
    store = copy_of(ran[0], tmp_path)
    shutil.rmtree(tmp_path / "scores" / judge_hash(SecondLabJudge()))
    found = measure(store, "two")
    assert [j["name"] for j in found["judges"]] == ["lab"] and "two_judges" not in found
    assert not any(FIELDS & set(c) for c in found["cells"])
    assert verify(store, "two").differences == [], "what an earlier version recorded is verified as it was"
    page = {s.id: s for s in ErasureBenchmark.sections(found)}
    assert len(page["two-judges"].blocks) == 1 and "one judge alone" in str(page["two-judges"].blocks)
    judge_run(store, "two")
    assert measure(store, "two")["two_judges"] == ran[1]["two_judges"]


def test_plans_of_earlier_versions_have_the_same_text_and_hash() -> None:
    assert "second" not in p.to_toml(PLAN)
    named = replace(PLAN, second="none")
    assert 'second = "none"' in p.to_toml(named) and p.from_toml(p.to_toml(named)) == named
    assert named.hash != PLAN.hash


def copy_of(store: Store, folder: Path) -> Store:
    shutil.copytree(store.root, folder, dirs_exist_ok=True)
    return Store(folder)
