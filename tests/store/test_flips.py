"""Accidents of a disk: whatever bit of a store flips, ``genward check`` ends with lines and not with a traceback."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from genward.cli.app import status
from genward.core import Case, Sample, Score
from genward.core import Image as Picture
from genward.core.contracts import Card
from genward.ops import artifacts
from genward.store import Store

FLIPS = 250
QUIET = {"schema.json"}
"""Files in which a flip may end the command before it looks at the others"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("flips") / "store")
    arm = store.put_arm({"model": "tiny", "defenses": [], "sampler": {"steps": 2}})
    rows = []
    for k in range(4):
        pixels = np.random.default_rng(k).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        case = Case(f"weapons/{k}", f"a bomb, number {k}", "harm", "weapons", k, variant="name", group="bomb")
        rows.append(
            Sample(case, arm, "ok", Picture(Image.fromarray(pixels)), notes={"norm": [1.0, k]}, costs={"nfe": 4})
        )
    store.put_samples(rows, "b0")
    store.put_scores("lab", [Score(r.id, "bomb", 0.5) for r in rows], Card("lab", "A judge"), "b0")
    store.put_features("lab", {r.id: np.ones(3) for r in rows}, "b0")
    store.reserve("fit", ["seed:1"])
    store.write_json(store.run_folder("r") / "metrics.json", {"cells": [{"crr": 0.5}]})
    store.write_text(store.run_folder("r") / "plan.toml", 'name = "r"\n')
    artifacts.save(
        store.root / "fits" / "a", {"w": torch.ones(2, 3)}, {"method": "uce", "seconds": 1.0, "note": "what was fitted"}
    )
    return store.root


def lines_of(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    code = status(["check", "--store", str(root)])
    told = capsys.readouterr()
    return code, (told.out + told.err).splitlines()


def test_a_flipped_bit_anywhere(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines_of(whole, capsys)[0] == 0
    draw = random.Random(7)
    root = Path(shutil.copytree(whole, tmp_path / "store"))
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    found = 0
    for _ in range(FLIPS):
        path = draw.choice(files)
        good = path.read_bytes()
        held = bytearray(good)
        for _ in range(draw.choice((1, 1, 3))):
            held[draw.randrange(len(held))] ^= 1 << draw.randrange(8)
        path.write_bytes(held)
        code, told = lines_of(root, capsys)
        assert code in (0, 3) and told, path
        assert not any("Traceback" in line for line in told)
        found += code == 3
        if path.suffix in (".png", ".safetensors") and bytes(held) != good:
            assert code == 3, f"{path.name}: a flip in it went unnoticed"
        path.write_bytes(good)
    assert found > FLIPS // 2, f"only {found} of {FLIPS} flips were noticed"


@pytest.mark.parametrize("kind", ["empty", "cut", "folder", "noise"])
def test_files_that_are_something_else(
    whole: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(shutil.copytree(whole, tmp_path / "store"))
    for path in [p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "schema.json"]:
        good = path.read_bytes()
        path.unlink()
        if kind == "folder":
            path.mkdir()
        else:
            path.write_bytes(
                {"empty": b"", "cut": good[: len(good) // 2], "noise": random.Random(3).randbytes(99)}[kind]
            )
        code, told = lines_of(root, capsys)
        assert code == 3 and told, f"{kind} {path.name} went unnoticed"
        shutil.rmtree(path) if kind == "folder" else path.unlink()
        path.write_bytes(good)
