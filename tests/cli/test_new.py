"""``genward new defense``: what it writes is found, keeps the laws, and passes its own test outside this tree."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import genward
from genward.cli.app import status


def test_the_package_passes_its_own_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    assert status(["new", "defense", "my_method", "--out", str(folder)]) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 5 and "pip install -e" in told.err
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    site = tmp_path / "site"
    info = site / "genward_my_method-0.1.0.dist-info"  # what an installer writes
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    ((name, where),) = project["entry-points"]["genward.defenses"].items()
    (info / "entry_points.txt").write_text(f"[genward.defenses]\n{name} = {where}\n")
    source = str(Path(genward.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(site), source])}
    run = {"cwd": tmp_path, "env": env, "capture_output": True, "text": True, "check": False}
    tests = subprocess.run([sys.executable, "-m", "pytest", "-q", "-W", "ignore", str(folder)], **run)  # type: ignore[call-overload]
    assert tests.returncode == 0 and "4 passed" in tests.stdout, tests.stdout + tests.stderr
    shown = subprocess.run([sys.executable, "-m", "genward", "show", "defense", "my_method"], **run)  # type: ignore[call-overload]
    assert shown.returncode == 0 and "0 leaves the model alone" in shown.stdout, shown.stderr


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["defense", "uce"], "there is a defense 'uce' already"),
        (["defense", "My-Method"], "small letters"),
        (["defense", "class"], "small letters"),
        (["attack", "x"], "unknown kind of package 'attack'"),
        (["defense", "my_method", "--out", "."], "is not empty"),
    ],
)
def test_what_cannot_be_begun_is_said(
    given: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("something")
    assert status(["new", *given]) == 3
    assert told in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
