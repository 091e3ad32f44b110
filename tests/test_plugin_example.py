"""A distribution outside the tree (tests/plugin_example) adds a benchmark and a defense, from the docs alone: no file
of genward knows them, every command does."""

from __future__ import annotations

import json
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genward.cli.app import status
from genward.testing import FakeJudge, tiny_sd

HERE = Path(__file__).resolve().parent
EXAMPLE = HERE / "plugin_example"
PACKAGE = EXAMPLE / "src" / "genward_example"
DOCS = HERE.parent / "docs"


def blocks(page: str, language: str) -> list[str]:
    return [part.split("```")[0] for part in (DOCS / page).read_text("utf-8").split(f"```{language}\n")[1:]]


def test_the_docs_show_the_package_that_is_tested() -> None:
    benchmark = PACKAGE / "side_effects"
    (code,) = blocks("benchmarks.md", "python")
    assert code == (benchmark / "__init__.py").read_text("utf-8")
    files = [EXAMPLE / "pyproject.toml", benchmark / "presets" / "quick.toml", benchmark / "claims.toml"]
    assert blocks("benchmarks.md", "toml") == [f.read_text("utf-8") for f in files]
    (method,) = blocks("defenses.md", "python")
    assert (PACKAGE / "mean_shift.py").read_text("utf-8").endswith(method)


def test_no_file_of_genward_knows_it() -> None:
    source = HERE.parent / "src" / "genward"
    for file in (p for p in source.rglob("*") if p.suffix in (".py", ".toml", ".html")):
        text = file.read_text("utf-8")
        assert not [w for w in ("side-effects", "side_effects", "mean_shift", "genward_example") if w in text], file


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package on the path with the metadata that an installer writes."""
    import genward.catalog.judges
    import genward.run.judging
    import genward.run.loop
    import genward.run.measure
    import genward.run.outlook

    site = tmp_path_factory.mktemp("site")
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text("utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {where}" for name, where in points.items())])
        for group, points in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
    model = tiny_sd()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(PACKAGE.parent))
        patch.syspath_prepend(str(site))
        for room in (
            genward.catalog.judges,
            genward.run.judging,
            genward.run.loop,
            genward.run.measure,
            genward.run.outlook,
        ):
            patch.setattr(room, "open_judge", lambda name: FakeJudge())
        patch.setattr(genward.run.loop, "opener", lambda *_, **__: lambda name: model)
        yield tmp_path_factory.mktemp("work")
    for name in [n for n in sys.modules if n.split(".")[0] == "genward_example"]:
        del sys.modules[name]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert status([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_list_and_show_know_it(installed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = told(capsys, "list")
    mine = {kind: [row for row in rows if row["from"] == "genward-example"] for kind, rows in listed.items()}
    assert [row["name"] for row in mine["benchmarks"]] == ["side-effects"]
    assert [row["name"] for row in mine["defenses"]] == ["mean_shift"]
    assert [row["name"] for row in mine["recipes"]] == ["side-effects-quick"]
    shown = told(capsys, "show", "benchmark", "side_effects")
    assert [f["field"] for f in shown["fields"]] == ["things", "n", "seed"] and shown["fields"][0]["meaning"]
    assert told(capsys, "show", "recipe", "side-effects-quick")["n"] == 6
    assert "genward_example" not in sys.modules, "names and fields are read without importing it"


def test_run_report_and_claims_know_it(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(installed)
    small = ["--steps", "2", "--set", "things=cat;dog;guitar", "--n", "2", "--store", "store"]
    found = told(capsys, "run", "side-effects", *small)
    cells = {c["arm"]: c for c in found["cells"]}
    assert {c["n"] for c in cells.values()} == {6} and found["run"]["rows"] == 18
    assert cells["base"]["unchanged"] == cells["zero"]["unchanged"] == 1 and cells["uce"]["unchanged"] == 0
    assert status(["run", "side_effects", *small]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0].split() == ["arm", "unchanged", "interval", "refused", "n"]
    assert "side-effects-quick is in the store with this plan; it is resumed" in printed.err

    report = told(capsys, "report", "side-effects-quick", "--store", "store", "--data", "kept.json")
    page = Path(report["report"]).read_text("utf-8")
    assert "Side effects" in page and "in every pixel" in page
    kept = json.loads(Path("kept.json").read_text("utf-8"))
    assert [c["unchanged"] for c in kept["cells"]] == [1, 1, 0] and "grids" not in kept
    (claim,) = told(capsys, "claims", "--store", "store")["claims"]
    assert (claim["id"], claim["ours"]) == ("zero-changes-nothing", 1)
    assert told(capsys, "judge", "side-effects-quick", "--store", "store")["judged"]["scored"] == 0
    assert told(capsys, "check", "--store", "store")["problems"] == []


def test_its_defense_learns_from_streamed_states_in_its_benchmark(
    installed: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(installed)
    arm = "shift=mean_shift:weapons,images=4,sampling_steps=2"
    small = ["--steps", "2", "--set", "things=cat;dog", "--n", "1", "--store", "store"]
    found = told(capsys, "run", "side-effects", *small, "--defense", arm)
    assert [(c["arm"], c["unchanged"]) for c in found["cells"]] == [("base", 1), ("shift", 0)]
    assert found["run"]["name"].startswith("side-effects-quick-"), "another plan of that name is in the store"
