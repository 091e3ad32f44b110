"""A store holds the files that its runs were given, and is read where they are not."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import pytest

from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.opening import words_of
from genward.core.records import Sampler
from genward.errors import BadInput, StoreError
from genward.run import given
from genward.run import plan as plans
from genward.run.given import keep, load_plan
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


@dataclass(frozen=True)
class Foldered(ErasureBenchmark):
    """A benchmark that reads a folder of pictures and the names of another's folders."""

    folders: ClassVar[Mapping[str, tuple[str, ...]]] = {"pictures": ("*/*",), "names": ("*/*/",)}
    pictures: str = ""
    names: str = ""


@pytest.fixture
def foldered(tmp_path: Path) -> tuple[Store, Plan, Path]:
    """A store that has kept two folders, which are gone."""
    files = tmp_path / "files"
    for place in ("pictures/cat/one.png", "pictures/cat/.thumbs", "pictures/keep/two.png", "pictures/notes.txt"):
        (files / place).parent.mkdir(parents=True, exist_ok=True)
        (files / place).write_bytes(place.encode())
    (files / "names" / "Bricks" / "Bears").mkdir(parents=True)
    (files / "names" / "Bricks" / "Bears" / "1.jpg").write_bytes(b"large")
    bench = Foldered(("cat",), n=1, pictures=str(files / "pictures"), names=str(files / "names"))
    plan = Plan("own", (ArmPlan("base", control="base"),), bench)
    store = Store(tmp_path / "s", create=True)
    plans.save_plan(store, plan, plans.Planned((), ()))
    keep(store, plan)
    return store, plan, files


def load(store: Store, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr(plans, "load_plan", lambda store, name: plan)  # the catalog does not know its benchmark
    return load_plan(store, plan.name)


def test_folders_are_kept_as_far_as_they_are_read(
    foldered: tuple[Store, Plan, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan, files = foldered
    assert load(store, plan, monkeypatch) is plan, "what is as it was is read where it is"
    shutil.rmtree(files)
    standing = load(store, plan, monkeypatch)
    bench: Any = standing.benchmark
    pictures, names = Path(bench.pictures), Path(bench.names)
    assert pictures.is_relative_to(store.root / "given") and pictures.name == "pictures"
    assert {p.relative_to(pictures).as_posix() for p in pictures.rglob("*") if p.is_file()} == {
        "cat/one.png",
        "keep/two.png",
    }
    assert [p.relative_to(names).as_posix() for p in sorted(names.rglob("*"))] == ["Bricks", "Bricks/Bears"]
    assert standing.hash == plan.hash and store.check() == []


def test_a_folder_that_changed_is_not_believed(
    foldered: tuple[Store, Plan, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan, files = foldered
    (files / "pictures" / "notes.txt").write_text("nobody reads it", "utf-8")
    assert load(store, plan, monkeypatch) is plan
    (files / "pictures" / "cat" / "three.png").write_bytes(b"new")
    bench: Any = load(store, plan, monkeypatch).benchmark
    assert Path(bench.pictures).is_relative_to(store.root) and bench.names == str(files / "names")
    with pytest.raises(StoreError, match="begun with another content of .*pictures"):
        keep(store, plan)


def test_a_kept_folder_that_is_damaged_is_said(
    foldered: tuple[Store, Plan, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan, files = foldered
    shutil.rmtree(files)
    (path,) = (store.root / "given").glob("*/pictures/cat/one.png")
    path.unlink()
    assert any("does not hold the files that its name says" in line for line in store.check())
    with pytest.raises(StoreError, match="missing or damaged"):
        load(store, plan, monkeypatch)
    shutil.rmtree(path.parents[2])
    assert any("is missing; restore" in line for line in store.check())


def test_a_folder_that_is_too_large_or_empty_is_refused(
    foldered: tuple[Store, Plan, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plan, files = foldered
    other = replace(plan, name="other")
    monkeypatch.setattr(given, "MOST_BYTES", 30)
    with pytest.raises(BadInput, match=r"pictures holds 2 files of 0 MB; a store keeps .* scale pictures down"):
        keep(store, other)
    monkeypatch.undo()
    (files / "empty").mkdir()
    for folder, told in (("empty", "nothing that is read"), ("nowhere", "no folder")):
        bench = Foldered(("cat",), n=1, pictures=str(files / folder))
        with pytest.raises(BadInput, match=told):
            keep(store, replace(other, benchmark=bench))


def test_the_card_of_a_judge_is_kept(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text("{}", "utf-8")
    bench = ErasureBenchmark(("cat",), n=1)
    plan = Plan("own", (ArmPlan("base", control="base"),), bench, judge=f"lab,card={card}")
    store = Store(tmp_path / "s", create=True)
    plans.save_plan(store, plan, plans.Planned((), ()))
    keep(store, plan)
    card.unlink()
    standing = load_plan(store, "own")
    assert standing.judge.startswith(f"lab,card={store.root}") and standing.judge.endswith("/card.json")
    assert standing.second == plan.second and standing.hash == plan.hash
