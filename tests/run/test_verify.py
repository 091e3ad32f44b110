"""Records that were edited are found out; rows and scores can be made anew; a plug-in's code is part of the
identity."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

import pytest

import genward.core.origin as origins
import genward.store.parts as parts
from genward.benchmarks.erasure import ErasureBenchmark
from genward.catalog.fitting import fit_key
from genward.catalog.judges import judge_hash
from genward.catalog.opening import words_of
from genward.cli.app import status
from genward.core.records import Sample, Sampler, Score, load_concept
from genward.core.spec import PLUGIN, Spec
from genward.defenses.uce import Uce
from genward.errors import StoreError
from genward.run import loop
from genward.run.judging import judge_run
from genward.run.loop import run_plan
from genward.run.measure import measure
from genward.run.plan import ArmPlan, Plan
from genward.run.verify import verify
from genward.store import Store
from genward.testing import FakeJudge, tiny_sd

WORDS = words_of("lab")
JUDGE = FakeJudge(labels=(*WORDS["things"], *WORDS["styles"]), threshold=0.5)
PLAN = Plan(
    "tiny",
    (ArmPlan("base", control="base"), ArmPlan("sld", "sld:{concept},preset=strong")),
    ErasureBenchmark(("banana",), n=1),
    batch=5,
    sampler=Sampler(steps=2, guidance=3.0),
)


@pytest.fixture(scope="module")
def models() -> Any:
    model = tiny_sd()
    return lambda name: model


@pytest.fixture
def store(models: Any, tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    run_plan(PLAN, store, models=models, judge=JUDGE)
    return store


def zeroed(store: Store, *, forged: bool = False) -> None:
    """Overwrite every score with 0, as somebody would who knows the format; ``forged``: the hash too."""
    for path in parts.part_files(store.root / "scores" / judge_hash(JUDGE)):
        meta, rows = parts.metadata_of(path), parts.read_part(path, parts.SCORES).to_pylist()
        columns = {name: [r[name] for r in rows] for name in parts.SCORES.names}
        columns["value"] = [0.0] * len(rows)
        if forged:
            parts.write_part(store.root, path.parent, parts.read_key(path), columns, parts.SCORES)
        else:
            table = parts.pa.table(columns, schema=parts.SCORES).replace_schema_metadata(meta)
            parts.pq.write_table(table, path, write_page_checksum=True)


def test_a_run_as_recorded_verifies(store: Store) -> None:
    before = (store.run_folder("tiny") / "metrics.json").read_bytes()
    found = verify(store, "tiny", JUDGE)
    assert found.differences == [] and found.judged == len(store.samples())
    assert (store.run_folder("tiny") / "metrics.json").read_bytes() == before


def test_an_edited_figure_is_named_with_its_place(store: Store) -> None:
    path = store.run_folder("tiny") / "metrics.json"
    metrics = json.loads(path.read_text("utf-8"))
    cell = next(c for c in metrics["cells"] if c["arm"] == "sld" and c["variant"] == "name")
    cell["n"] = 500
    path.write_text(json.dumps(metrics), "utf-8")
    (line,) = verify(store, "tiny", JUDGE).differences
    assert line.startswith("cells[sld, banana, name].n: recorded 500, computed anew 1")


def test_zeroed_scores_are_not_read_and_judging_anew_heals(store: Store) -> None:
    kept = {(s["sample"], s["label"]): s["value"] for s in store.scores(judge_hash(JUDGE))}
    metrics = store.read_json(store.run_folder("tiny") / "metrics.json")
    zeroed(store)
    assert any("does not hold the scores that its judge gave" in line for line in store.check())
    with pytest.raises(StoreError, match="genward judge RUN --again"):
        measure(store, "tiny", JUDGE)
    assert "judge RUN --again" in " ".join(verify(store, "tiny", JUDGE).differences)
    done = judge_run(store, "tiny", JUDGE, again=True)
    assert done["scored"] == len(store.samples()) and done["there"] == 0
    assert {(s["sample"], s["label"]): s["value"] for s in store.scores(judge_hash(JUDGE))} == kept
    assert measure(store, "tiny", JUDGE)["cells"] == metrics["cells"] and store.check() == []


def test_forged_scores_are_found_by_judging_the_pictures_again(store: Store) -> None:
    zeroed(store, forged=True)
    measure(store, "tiny", JUDGE)
    assert store.check() == [] and verify(store, "tiny", JUDGE, rejudge=False).differences == []
    (head, *lines) = verify(store, "tiny", JUDGE).differences
    assert head.startswith("scores: ") and "are not what judge 'fake' says of the pictures" in head
    assert all("recorded 0, judged anew 0." in line for line in lines)


def test_scores_without_a_hash_are_named(store: Store) -> None:
    path = parts.part_files(store.root / "scores" / judge_hash(JUDGE))[0]
    meta = {k: v for k, v in parts.metadata_of(path).items() if k != parts.HASH}
    parts.pq.write_table(
        parts.read_part(path, parts.SCORES).replace_schema_metadata(meta), path, write_page_checksum=True
    )
    assert [line for line in store.check() if "carries no hash of its scores" in line]


def test_the_command_ends_with_1_where_something_differs(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import genward.run.verify

    monkeypatch.setattr(genward.run.verify, "open_judge", lambda text: JUDGE)
    assert status(["verify", "tiny", "--store", str(store.root)]) == 0
    zeroed(store, forged=True)
    assert status(["verify", "tiny", "--store", str(store.root), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["differences"]


def test_fresh_makes_every_row_again(store: Store, models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {r["id"]: r["output"] for r in store.samples()}
    seen: list[Sequence[Sample]] = []
    made = loop.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append(store.samples())
        return made(*args, **kwargs)

    monkeypatch.setattr(loop, "generate", watched)
    again = run_plan(PLAN, store, models=models, judge=JUDGE, fresh=True)
    assert not seen[0] and again["run"]["stages"]["made"] == len(rows) and again["run"]["stages"]["there"] == 0
    assert {r["id"]: r["output"] for r in store.samples()} == rows and store.check() == []


def test_fresh_leaves_rows_of_other_runs(store: Store, models: Any) -> None:
    before = len(store.samples())
    other = replace(PLAN, name="other", benchmark=ErasureBenchmark(("cat",), n=1))
    run_plan(other, store, models=models, judge=JUDGE)
    again = run_plan(PLAN, store, models=models, judge=JUDGE, fresh=True)
    assert again["run"]["stages"]["made"] == before
    assert run_plan(other, store, models=models, judge=JUDGE)["run"]["stages"]["made"] == 0


# ------------------------------------------------------------------------------------------------------------- plug-ins

PLUGIN_SOURCE = '''
from dataclasses import dataclass
from typing import ClassVar

@dataclass(frozen=True)
class Mute:
    """Does {what}."""
    name: ClassVar[str] = "mute"
    strength: float = 1.0
    def attach(self, rig): rig.prompts(lambda p: p)
'''


def loaded(folder: Path, what: str) -> type[Any]:
    """The plug-in's class as a new process would import it."""
    (folder / "muteplug.py").write_text(PLUGIN_SOURCE.format(what=what), "utf-8")
    sys.modules.pop("muteplug", None)
    invalidate_caches()
    origins._source.cache_clear()
    found: type[Any] = import_module("muteplug").Mute
    return found


def test_another_code_of_a_plugin_is_another_arm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = Spec.of("defense", loaded(tmp_path, "nothing")())
    assert first == Spec.of("defense", loaded(tmp_path, "nothing")())
    second = Spec.of("defense", loaded(tmp_path, "something")())
    assert first.hash != second.hash and first.fields[PLUGIN]["source"] != second.fields[PLUGIN]["source"]


def test_another_version_of_a_plugin_is_another_arm_and_another_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    mute = loaded(tmp_path, "nothing")()
    monkeypatch.setattr(origins, "_distributions", lambda: {"muteplug": "mute-plug"})
    found = []
    for version in ("1.0", "1.1"):
        monkeypatch.setattr(origins.metadata, "version", lambda name, version=version: version)
        spec = Spec.of("defense", mute)
        assert spec.fields[PLUGIN]["distribution"] == "mute-plug" and spec.fields[PLUGIN]["version"] == version
        found.append((spec.hash, fit_key(mute, load_concept("banana"), "m")))
    assert found[0][0] != found[1][0] and found[0][1] != found[1][1]


def test_what_comes_with_genward_says_nothing_of_its_code() -> None:
    assert origins.origin(Uce) == {} and PLUGIN not in Spec.of("defense", Uce()).fields


def test_a_run_names_the_plugins_that_took_part(models: Any, tmp_path: Path) -> None:
    class Outsider(FakeJudge):
        def judge(self, samples: Sequence[Sample]) -> list[Score]:
            return super().judge(samples)

    found = run_plan(replace(PLAN, arms=PLAN.arms[:1]), tmp_path / "s", models=models, judge=Outsider(JUDGE.labels))
    assert found["run"]["plugins"] == [] and len(found["judges"][0][PLUGIN]["source"]) == 16
