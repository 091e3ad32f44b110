"""``genward generate`` on a tiny pipeline of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from genward.cli.app import status
from genward.cli.generate import GAP, columns_for, grid
from genward.core import Sampler
from genward.testing import tiny_sd


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    import genward.catalog.opening

    monkeypatch.setattr(genward.catalog.opening, "open_model", lambda *_, **__: tiny_sd())


def test_one_picture_and_the_same_again(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    assert status(["generate", "a red cat", "--steps", "2", "--seed", "3", "--out", str(first)]) == 0
    assert capsys.readouterr().out == f"{first}\n"
    assert status(["generate", "a red cat", "--steps", "2", "--seed", "3", "--out", str(second), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["status"] for s in told["samples"]] == ["ok"]
    assert first.read_bytes() == second.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_prompts_make_columns_and_defenses_rows(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "strip.png"
    line = [
        "generate",
        "a cat",
        "a dog",
        "a key",
        "--steps",
        "2",
        "-d",
        "none",
        "-d",
        "negative_prompt:weapons",
        "-o",
        str(path),
        "--json",
    ]
    assert status(line) == 0
    assert len(json.loads(capsys.readouterr().out)["samples"]) == 6
    edge, _ = tiny_sd().size(Sampler())
    with Image.open(path) as sheet:
        assert sheet.size == (3 * (edge + GAP) - GAP, 2 * (edge + GAP) - GAP)


@pytest.mark.parametrize("arguments", [["a cat", "--out", "cat.bmp"], ["  "], ["x" * 10_000]])
def test_bad_input_exits_with_3_before_a_model_is_loaded(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import genward.catalog.opening

    monkeypatch.setattr(genward.catalog.opening, "open_model", None)
    assert status(["generate", *arguments]) == 3
    assert capsys.readouterr().err.startswith("error: ")


def test_an_unknown_defense_offers_near_ones(tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["generate", "a cat", "-d", "negative_promt:weapons", "-o", str(tmp_path / "a.png")]) == 3
    assert "negative_prompt" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["generate", "a cat", "--model", str(tmp_path), "-o", str(tmp_path / "a.png")]) == 3
    assert "model_index.json" in capsys.readouterr().err


def test_grid() -> None:
    red, blue = (Image.new("RGB", (8, 6), color) for color in ("red", "blue"))
    sheet = grid([red, None, blue], 2)
    assert sheet.size == (2 * 8 + GAP, 2 * 6 + GAP)
    assert [sheet.getpixel(p) for p in ((0, 0), (8 + GAP, 0), (0, 6 + GAP), (9, 0))] == [
        (255, 0, 0),
        (153, 153, 153),
        (0, 0, 255),
        (255, 255, 255),
    ]
    assert [columns_for(n) for n in (1, 2, 4, 9)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="at least one"):
        grid([None], 1)


def test_an_argument_that_is_no_text_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["generate", "a\0cat"]) == 2
    assert "argument 2" in capsys.readouterr().err
