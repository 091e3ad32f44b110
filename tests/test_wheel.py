"""The wheel: built from the tree, installed into a fresh environment outside of it, and used there. And what says how
to cite the project."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from genward import __version__

ROOT = Path(__file__).resolve().parent.parent


def done(*command: str | Path, where: Path) -> str:
    """What a command printed; it must end well. No path of this tree and no setting of the user's reaches it."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "GENWARD_STORE", "VIRTUAL_ENV")}
    found = subprocess.run([*map(str, command)], cwd=where, env=env, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found.stdout


@pytest.mark.slow
def test_the_wheel_works_in_a_fresh_environment(tmp_path: Path) -> None:
    made = tmp_path / "wheel"
    done(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", made, ROOT, where=tmp_path)
    (wheel,) = made.glob("genward-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
    assert {f"genward/{part}" for part in ("lab/ATTRIBUTION.md", "report/templates/page.html", "py.typed")} <= set(
        names
    )
    assert not [n for n in names if "__pycache__" in n or n.startswith(("tests/", "docs/"))]

    home = tmp_path / "env"
    done(sys.executable, "-m", "venv", "--without-pip", home, where=tmp_path)
    python = home / "bin" / "python"
    done(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        wheel,
        where=tmp_path,
    )
    purelib = done(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", where=tmp_path).strip()
    # what genward depends on comes from this environment, so that nothing is fetched; genward itself does not
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = done(python, "-c", "import genward; print(genward.__file__)", where=tmp_path).strip()
    assert Path(where).is_relative_to(home)

    genward = home / "bin" / "genward"
    assert done(genward, "--version", where=tmp_path) == f"genward {__version__}\n"
    assert "uce" in done(genward, "list", "defenses", where=tmp_path)
    done(genward, "generate", "a cat in noto style", "--steps", "6", "--out", "cat.png", where=tmp_path)
    with Image.open(tmp_path / "cat.png") as picture:
        assert picture.size == (64, 64) and np.asarray(picture.convert("L")).std() > 10, "something is drawn"


def test_the_citation_names_this_version() -> None:
    text = ROOT.joinpath("CITATION.cff").read_text("utf-8")
    fields = dict(re.findall(r"^([a-z-]+): (.+)$", text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0" and fields["version"] == __version__ and fields["license"] == "Apache-2.0"
    assert fields["title"] and fields["message"] and "authors:" in text and fields["type"] == "software"


def test_the_readme_says_how_to_install_it() -> None:
    assert "pip install genward" in ROOT.joinpath("README.md").read_text("utf-8")
