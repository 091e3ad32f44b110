"""A store holds the files that its runs were given, and is read where they are not."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.opening import words_of
from genward.core.records import Sampler
from genward.errors import StoreError
from genward.run.given import load_plan
from genward.run.loop import generate_run, run_plan
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan
from genward.run.verify import verify
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)
SHIPPED = resources.files("genward").joinpath("concepts", "banana.toml").read_text("utf-8")


@pytest.fixture(scope="module")
def models() -> Any:
    model = tiny_sd()
    return lambda name: model


def planned(folder: Path, arms: tuple[ArmPlan, ...] = ()) -> Plan:
    """A plan about a concept file and rows of a CSV file, both in the folder."""
    own = folder / "mine.toml"
    own.write_text("# my own words\n" + SHIPPED.replace('name = "banana"', 'name = "fruit"', 1), "utf-8")
    rows = folder / "rows.csv"
    rows.write_text("prompt,label,category\na banana in noto style,harm,banana\na cat,benign,cat\n", "utf-8")
    bench = ErasureBenchmark((str(own), "cat"), n=1, prompts=(f"{rows},concept=fruit",))
    return Plan("own", (ArmPlan("base", control="base"), *arms), bench, batch=8, sampler=Sampler(steps=2))


@pytest.fixture
def ran(models: Any, tmp_path: Path) -> tuple[Store, Plan, dict[str, Any]]:
    """A run whose files are gone and whose store was moved."""
    files = tmp_path / "files"
    files.mkdir()
    plan = planned(files, (ArmPlan("sld", f"sld:{files / 'mine.toml'}", concepts=(str(files / "mine.toml"),)),))
    metrics = run_plan(plan, Store(tmp_path / "s"), models=models, judge=JUDGE)
    shutil.rmtree(files)
    shutil.move(tmp_path / "s", tmp_path / "elsewhere")
    return Store(tmp_path / "elsewhere", create=False), plan, metrics


def test_files_are_kept_as_they_were_by_their_hash(ran: tuple[Store, Plan, dict[str, Any]]) -> None:
    store, plan, _ = ran
    told = store.read_json(store.run_folder("own") / "given.json")
    assert set(told) == {"concepts", "prompts"} and set(told["concepts"]) == {plan.concepts[0], "cat"}
    kept = sorted((store.root / "given").glob("*/*"))
    assert {p.name for p in kept} == {"mine.toml", "cat.toml", "rows.csv"}
    assert {p.parent.name for p in kept} == {sha for kind in told.values() for sha in kind.values()}
    assert all(hashlib.sha256(p.read_bytes()).hexdigest() == p.parent.name for p in kept)
    assert any(p.read_text("utf-8").startswith("# my own words") for p in kept), "as written, comments included"
    assert store.check() == []


def test_a_store_is_measured_where_the_files_are_not(ran: tuple[Store, Plan, dict[str, Any]]) -> None:
    store, plan, metrics = ran
    assert verify(store, "own", JUDGE).differences == []
    again = measure(store, "own", JUDGE)
    assert again["cells"] == metrics["cells"] and {c["concept"] for c in again["cells"]} == {"fruit", "cat"}
    assert again["run"]["plan"] == metrics["run"]["plan"] == plan.hash
    standing = load_plan(store, "own")
    assert standing.concepts[1] == "cat" and standing.concepts[0].startswith(str(store.root))
    assert standing.arms[1].concepts == standing.concepts[:1]


def test_a_file_that_changed_is_not_believed(ran: tuple[Store, Plan, dict[str, Any]], models: Any) -> None:
    store, plan, metrics = ran
    folder = Path(plan.concepts[0]).parent
    folder.mkdir()
    planned(folder)
    assert load_plan(store, "own") == plan, "what is as it was is read where it is"
    changed = SHIPPED.replace('name = "banana"', 'name = "fruit"', 1).replace('labels = ["banana"]', 'labels = ["cat"]')
    Path(plan.concepts[0]).write_text(changed, "utf-8")
    assert measure(store, "own", JUDGE)["cells"] == metrics["cells"], "figures are those of the file that ran"
    with pytest.raises(StoreError, match="begun with another content of .*mine.toml"):
        generate_run(plan, store, models)
    generate_run(replace(plan, name="other", arms=plan.arms[:1]), store, models)


def test_a_kept_file_that_is_damaged_or_missing_is_said(ran: tuple[Store, Plan, dict[str, Any]]) -> None:
    store, _, _ = ran
    for path in sorted((store.root / "given").glob("*/*.toml")):
        path.write_text(path.read_text("utf-8") + "\n# more\n", "utf-8")
    assert sum("not the file that its name says" in line for line in store.check()) == 2
    with pytest.raises(StoreError, match="missing or damaged"):
        measure(store, "own", JUDGE)
    for path in (store.root / "given").glob("*/*.csv"):
        path.unlink()
    assert any("is missing; restore" in line for line in store.check())
