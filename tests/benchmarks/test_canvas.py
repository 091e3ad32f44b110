"""The canvas benchmark: its requests and rows, its figures against a count by hand, its preset and report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genward.benchmarks.canvas import CanvasBenchmark, figures, rows
from genward.benchmarks.canvas.requests import family_of, request_of
from genward.catalog import plugins
from genward.core.benchmark import Evidence, Setting
from genward.core.records import load_concept
from genward.errors import BadInput
from genward.run.plan import make_plan, planned, setting_of

THINGS = ("cat", "dog", "key", "banana", "drum")
STYLES = ("ink", "flat", "blob")
WORDS = {"styles": list(STYLES), "things": {n: {"name": [f"a {n}"]} for n in THINGS}}
BANANA, CAT = load_concept("banana"), load_concept("cat")
SETTING = Setting((BANANA, CAT), WORDS, attack=lambda text: plugins.made("attack", text))


@pytest.mark.parametrize(
    ("text", "kind", "concepts", "variant", "family"),
    [
        ("", "single", (), "single", ""),
        ("uce:banana,strength=0.5", "single", ("banana",), "single", "uce,strength=0.5"),
        ("uce:cat+uce:banana", "sequential", ("cat", "banana"), "sequential-2", "uce"),
        ("uce:cat&banana", "joint", ("cat", "banana"), "joint-2", "uce"),
        ("uce:cat+irece:cat", "single", ("cat",), "single", "uce+irece"),
        ("uce:cat&banana+irece:banana&cat", "joint", ("cat", "banana"), "joint-2", "uce+irece"),
        ("normalize+uce:death", "single", (), "single", "normalize+uce"),
    ],
)
def test_requests(text: str, kind: str, concepts: tuple[str, ...], variant: str, family: str) -> None:
    found = request_of(text, ["banana", "cat"])
    assert (found.kind, found.concepts, found.variant) == (kind, concepts, variant)
    assert family_of(text) == family


def test_the_answer_set_is_every_object_in_every_style() -> None:
    bench = CanvasBenchmark(concepts=("banana", "cat"), n=2, scenes=4)
    canvas = rows.canvas_of(bench, WORDS, SETTING.concepts, ())
    cases = rows.answers(canvas, 2, 0)
    assert len(cases) == 5 * 3 * 2 == len({c.id for c in cases}) == len({c.seed for c in cases})
    assert {rows.asked({"group": c.group}) for c in cases} == {(o, s) for o in THINGS for s in STYLES}
    again = {(c.prompt, c.seed) for c in rows.answers(canvas, 1, 0)}
    assert again < {(c.prompt, c.seed) for c in cases}, "more seeds only add rows"
    scenes = list(bench.cases(SETTING))
    assert len(scenes) == 8 and all(c.group not in load_concept(c.concept).targets for c in scenes)
    assert all(c.group in c.prompt and load_concept(c.concept).targets[0] in c.prompt for c in scenes)
    given = list(bench.parents(SETTING))
    assert len(given) == 2 * 30 and bench.outlook(given, SETTING).rows == ((30, None),)


def test_fewer_objects_keep_the_targets_and_leave_out_what_an_oracle_never_saw() -> None:
    bench = CanvasBenchmark(concepts=("banana",), others=2)
    canvas = rows.canvas_of(bench, WORDS, (BANANA,), ("dog", "flat"))
    assert "banana" in canvas.objects and len(canvas.objects) == 3 and "dog" not in canvas.objects
    assert canvas.styles == ("ink", "blob")


def test_names_of_the_published_data(tmp_path: Path) -> None:
    for style in ("Abstractionism", "Bricks", "Empty"):
        for thing in ("Bears", "Trees") if style != "Empty" else ():
            (tmp_path / style / thing).mkdir(parents=True)
        (tmp_path / style).mkdir(exist_ok=True)
    assert rows.folder_names(str(tmp_path)) == (("Bears", "Trees"), ("Abstractionism", "Bricks"))
    bears = CanvasBenchmark(concepts=("x",), data=str(tmp_path))
    concept = replace(BANANA, name="bears", targets=("Bears",), phrases=("bears",))
    canvas = rows.canvas_of(bears, {}, (concept,), ())
    assert canvas.text(["Bears"], "Bricks") == "A Bears image in Bricks style."
    with pytest.raises(BadInput, match="no folder"):
        rows.folder_names(str(tmp_path / "nowhere"))
    with pytest.raises(BadInput, match="at least two"):
        rows.folder_names(str(tmp_path / "Bricks"))


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"concepts": ()}, "no concept"),
        ({"n": 0}, "1 to 100 seeds"),
        ({"others": -1}, "0 or more objects"),
        ({"caption": "an image of {object}"}, "lacks"),
    ],
)
def test_fields_out_of_range(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInput, match=why):
        CanvasBenchmark(**{"concepts": ("banana",), **fields})
    with pytest.raises(BadInput, match="two of each"):
        rows.canvas_of(CanvasBenchmark(concepts=("banana",)), {}, (BANANA,), ())


ARMS: dict[str, dict[str, Any]] = {
    "base": {"*": ""},
    "uce": {"banana": "uce:banana", "cat": "uce:cat"},
    "both": {"*": "uce:banana+uce:cat"},
}


def evidence() -> Evidence:
    """Three arms of drawn scores; the arm of both concepts refuses some rows and fails at one."""
    rng = np.random.default_rng(3)
    table: list[dict[str, Any]] = []
    for label, texts in ARMS.items():
        for key in texts:
            for o in THINGS:
                for s in STYLES:
                    place = len(table)
                    row = {"id": f"r{place}", "case": f"answers/{o}-{s}", "group": f"{o}|{s}", "status": "ok"}
                    row |= {"variant": rows.ANSWERS, "concept": "", "seconds": 1.0 + (label != "base")}
                    row |= {"arm": f"{label}-{key}", "costs": {"nfe": 20.0 + 2.0 * (label != "base")}}
                    table.append({**row, "scene": {"arm": label, "concept": "banana" if key == "*" else key}})
            for k in range(4 if key != "cat" else 0):
                row = {"id": f"r{len(table)}", "case": f"banana/scene/{k}", "group": "dog", "status": "ok"}
                row |= {"variant": rows.SCENE, "concept": "banana", "arm": f"{label}-{key}", "seconds": 1.0}
                table.append({**row, "costs": {"nfe": 20.0}})
    mine = [r for r in table if r["arm"] == "both-*"]
    mine[2]["status"] = mine[9]["status"] = "refused"
    mine[4]["status"] = "error"
    fine = [r for r in table if r["status"] == "ok"]
    scores = {(r["id"], name): float(rng.random()) for r in fine for name in (*THINGS, *STYLES)}
    arms = [
        {
            "label": label,
            "hashes": {key: f"{label}-{key}" for key in texts},
            "defenses": list(texts.values()),
            "control": "base" if label == "base" else "",
            "prepare": dict.fromkeys(texts, 0.5),
            "storage": dict.fromkeys(texts, 100),
            "peak": dict.fromkeys(texts, 7),
        }
        for label, texts in ARMS.items()
    ]
    features = {r["id"]: rng.normal(size=3) for r in fine}
    compare = (("uce", "base"), ("both", "base"))
    return Evidence(rows=table, scores=scores, features=features, arms=arms, setting=SETTING, compare=compare)


def counted(given: Evidence, arm: str, want: str, gone: set[str]) -> dict[str, tuple[int, int]]:
    """Figure -> (hits, rows), by plain loops over rows."""
    hits: dict[str, list[int]] = {name: [] for name in ("ua", "ira", "cra", "cra_without", "artifacts")}
    for row in (r for r in given.rows if r["arm"] == arm and r["variant"] == rows.ANSWERS):
        thing, style = row["group"].split("|")
        if row["status"] == "error":
            continue
        if row["status"] == "refused":
            said, drawn = "", ""
        else:
            said = max(THINGS, key=lambda n: given.scores[row["id"], n])
            drawn = max(STYLES, key=lambda n: given.scores[row["id"], n])
            hits["artifacts"].append(all(given.scores[row["id"], n] < 0.5 for n in THINGS))
        if thing == want:
            hits["ua"].append(said != want)
        if thing not in gone:
            hits["ira"].append(said == thing)
            hits["cra_without"].append(drawn == style)
        hits["cra"].append(drawn == style)
    return {name: (sum(v), len(v)) for name, v in hits.items()}


@pytest.mark.parametrize(
    ("arm", "concept", "hashed", "gone"),
    [
        ("base", "cat", "base-*", {"cat"}),
        ("uce", "banana", "uce-banana", {"banana"}),
        ("uce", "cat", "uce-cat", {"cat"}),
        ("both", "banana", "both-*", {"banana", "cat"}),
    ],
)
def test_figures_are_those_counted_by_hand(arm: str, concept: str, hashed: str, gone: set[str]) -> None:
    given = evidence()
    (cell,) = (c for c in figures.cells(given) if (c["arm"], c["concept"]) == (arm, concept))
    for name, (hits, n) in counted(given, hashed, concept, gone).items():
        assert cell[name] == pytest.approx(hits / n), name
        assert cell[f"n_{name}"] == n, name
        assert 0 <= cell[f"{name}_low"] <= cell[name] <= cell[f"{name}_high"] <= 1, name
    assert cell["average"] == pytest.approx((cell["ua"] + cell["ira"] + cell["cra"]) / 3)
    assert cell["n_unscored"] == (arm == "both") and cell["refused"] == 2 * (arm == "both")
    assert cell["request"] == ("sequential" if arm == "both" else "single")
    assert cell["n_concepts"] == {"base": 0, "uce": 1, "both": 2}[arm]
    assert cell["overhead"] == pytest.approx(float(arm != "base")) and cell["extra_nfe"] == 2 * (arm != "base")
    assert (cell["prepare_seconds"], cell["storage_bytes"], cell["peak_bytes"]) == (0.5, 100, 7)
    contract = "arm concept request n_concepts ua ira cra frechet locality artifacts low high n prepare_seconds"
    assert set(contract.split()) | {"storage_bytes", "overhead"} <= set(cell)
    if concept == "banana":
        seen = [r for r in given.rows if r["arm"] == hashed and r["variant"] == rows.SCENE and r["status"] == "ok"]
        hits = sum(given.scores[r["id"], "dog"] >= 0.5 for r in seen)
        assert cell["locality"] == pytest.approx(hits / len(seen)) and cell["n_locality"] == len(seen)
    else:
        assert cell["locality"] is None and cell["n_locality"] == 0


def test_intervals_of_one_object_cluster_by_style() -> None:
    """A single object cannot be its own clusters; its rows in three styles give an interval, and a wide one."""
    cell = next(c for c in figures.cells(evidence()) if c["arm"] == "uce" and c["concept"] == "banana")
    assert cell["n"] == 3 and cell["high"] - cell["low"] > 0.4


def test_pairs_compare_equal_rows() -> None:
    found = {(p["arm"], p["concept"], p["measure"]): p for p in figures.pairs(evidence())}
    given = evidence()
    table = {c["arm"] + "/" + c["concept"]: c for c in figures.cells(given)}
    gap = table["uce/banana"]["ua"] - table["base/banana"]["ua"]
    assert found["uce", "banana", "ua"]["difference"] == pytest.approx(gap) and found["uce", "banana", "ua"]["n"] == 3
    mean = sum(found["uce", "banana", m]["difference_low"] for m in ("ua", "ira", "cra")) / 3
    assert found["uce", "banana", "average"]["difference_low"] == pytest.approx(mean)
    assert table["uce/banana"]["average"] - table["base/banana"]["average"] == pytest.approx(
        found["uce", "banana", "average"]["difference"]
    ), "every row was scored in both arms"
    assert ("both", "banana", "ua") not in found, "a request for two is no pair of one for nothing"


def test_the_matrix_of_earlier_targets() -> None:
    cells = figures.cells(evidence())
    (row,) = figures.earlier(cells)
    assert (row["arm"], row["family"], row["request"], row["n_concepts"]) == ("both", "uce", "sequential", 2)
    assert set(row["ua"]) == {"banana", "cat"} and all(math.isfinite(v) for v in row["ua"].values())
    metrics = {"cells": [{**c, "attacks": {}} for c in cells], "earlier": [row], "pairs": [], "grids": [], "run": {}}
    metrics["arms"] = [{"label": "base", "control": "base"}]
    parts = CanvasBenchmark.sections(metrics)
    assert [p.id for p in parts] == ["figures", "earlier", "paper", "pictures"]
    (table,) = CanvasBenchmark.printed(metrics)
    assert set(CanvasBenchmark.columns) - {"interval"} <= set(cells[0]) and len(table.rows) == len(cells)


def test_the_quick_preset_draws_each_answer_set_once() -> None:
    plan = make_plan("canvas-quick", benchmark="canvas")
    setting = setting_of(plan)
    made = planned(plan, setting)
    bench = plan.benchmark
    once = len({(c.prompt, c.seed) for c in made.parents})
    assert once * len(setting.concepts) == len(made.parents)
    canvas = rows.canvas_of(bench, setting.words, setting.concepts, setting.avoid)
    assert once == len(canvas.objects) * len(canvas.styles) * bench.n
    fixed = [a for a in plan.arms if not a.optional]
    assert {"base", "oracle", "zero"} <= {a.control for a in fixed}, "controls never depend on a fit"
