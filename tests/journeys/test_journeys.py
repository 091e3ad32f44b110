"""Three users, each with a script of what they would type: it ends well and leaves what they came for."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def walk(command: list[str], folder: Path) -> str:
    """What a script prints, run with ``genward`` on the path as an installation has it; it has to end well."""
    tools = folder.parent / "bin"
    tools.mkdir(exist_ok=True)
    tool = tools / "genward"
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m genward "$@"\n', "utf-8")
    tool.chmod(0o755)
    env = {**os.environ, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def researched(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("research") / "work"
    folder.mkdir()
    return folder, walk(["sh", str(HERE / "researcher.sh"), str(folder)], folder)


def test_the_researcher_has_a_picture_a_table_and_a_report(researched: tuple[Path, str]) -> None:
    folder, said = researched
    assert (folder / "first.png").read_bytes().startswith(b"\x89PNG")
    assert "denoiser rows in all" in said, "the dry run says what it costs"
    table = (folder / "table.tex").read_text("utf-8")
    assert r"\toprule" in table and "uce" in table
    rows = list(csv.DictReader((folder / "cells.csv").read_text("utf-8").splitlines()))
    assert {r["arm"] for r in rows} >= {"base", "uce"} and {"crr", "n"} <= set(rows[0])
    report = (folder / "report.html").read_text("utf-8")
    assert "fruit" in report and "balance" in report


def test_the_auditor_can_hold_a_store_against_itself_elsewhere(researched: tuple[Path, str], tmp_path: Path) -> None:
    """With the store alone: the concept file that the run was given is gone."""
    folder, _ = researched
    store, work = tmp_path / "handed-over", tmp_path / "work"
    shutil.copytree(folder / "genward-store", store)
    (folder / "fruit.toml").rename(folder / "fruit.toml.gone")
    work.mkdir()
    try:
        walk(["sh", str(HERE / "auditor.sh"), str(store), str(work)], work)
    finally:
        (folder / "fruit.toml.gone").rename(folder / "fruit.toml")
    rows = json.loads((work / "claims.json").read_text("utf-8"))["claims"]
    assert rows and {r["run"] for r in rows} == {"mine"}
    for row in rows:
        assert (row["verdict"] == "cannot tell") == bool(row["reason"]) == bool(row["why"]), row
        assert row["ours"] is None or row["n"], "every figure says how many rows it rests on"
    assert {r["reason"] for r in rows} >= {"not measured here"}
    kept = list((store / "given").glob("*/fruit.toml"))
    assert len(kept) == 1 and json.loads((work / "figures.json").read_text("utf-8"))["run"]["name"] == "mine"
    pages = (work / "pages" / "index.html").read_text("utf-8")
    (href,) = re.findall(r'<h2><a href="([^"]+)"', pages)
    assert "fruit" in (work / "pages" / href).read_text("utf-8")


def test_the_auditor_is_told_of_a_changed_figure(researched: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = researched
    store = tmp_path / "handed-over"
    shutil.copytree(folder / "genward-store", store)
    path = store / "runs" / "mine" / "metrics.json"
    raw = json.loads(path.read_text("utf-8"))
    raw["cells"][0]["crr"] = 0.123
    path.write_text(json.dumps(raw), "utf-8")
    with pytest.raises(AssertionError, match="recorded 0.123"):
        walk(["sh", str(HERE / "auditor.sh"), str(store), str(tmp_path)], tmp_path)


def test_the_engineer_has_a_guard_that_blocks_one_row_and_says_so(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    said = walk([sys.executable, str(HERE / "engineer.py")], work)
    assert "bomb blocked no picture" in said and re.search(r"cat \S+ picture", said)
    assert (work / "cat.png").is_file() and not (work / "bomb.png").exists()
    assert len((work / "audit.jsonl").read_text("utf-8").splitlines()) == 2
