"""``genward lab``: the card printed, the figures measured again, the recipe's options passed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from genward.cli import lab
from genward.cli.app import status

RATE = {"value": 0.9, "low": 0.8, "high": 0.95, "n": 40}
FIGURES: dict[str, Any] = {
    "groups": {"name": {"object": RATE, "style": RATE}},
    "psnr_db": 27.5,
    "oracle": {"lab": RATE},
}
CARD: dict[str, Any] = {"name": "a lab", "data": {"styles": ["noto", "flat"]}, "training": {"steps": 3}}


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "card.json"
    file.write_text(json.dumps(CARD))
    monkeypatch.setattr(lab, "card_file", lambda: file)
    return file


def test_info_prints_the_card(card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["lab", "info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == CARD
    assert status(["lab", "info"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name: a lab",
        "data:",
        "  styles: noto, flat",
        "training:",
        "  steps: 3",
    ]


@pytest.mark.parametrize("text", [None, "{", "[1, 2"])
def test_a_card_that_cannot_be_read(text: str | None, card: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card.unlink()
    if text is not None:
        card.write_text(text)
    for command in ("info", "evaluate"):
        assert status(["lab", command]) == 3
        assert "card.json" in capsys.readouterr().err


def test_evaluate_writes_the_card_only_when_told(
    card: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import genward.recipe.evaluate

    asked = []

    def fake(per: int, seed: int, **_: Any) -> dict[str, Any]:
        asked.append((per, seed))
        return FIGURES

    monkeypatch.setattr(genward.recipe.evaluate, "evaluate", fake)
    assert status(["lab", "evaluate", "--per", "4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == FIGURES
    assert json.loads(card.read_text()) == CARD
    assert status(["lab", "evaluate", "--seed", "7", "--write"]) == 0
    assert json.loads(card.read_text()) == {**CARD, "measured": FIGURES}
    assert asked == [(4, 0), (100, 7)]
    written = capsys.readouterr().out
    assert status(["lab", "info"]) == 0
    assert written in capsys.readouterr().out
    assert "0.800 … 0.950" in written


def test_build_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import genward.recipe.build

    asked: dict[str, Any] = {}
    monkeypatch.setattr(genward.recipe.build, "build", lambda stages, **options: asked.update(options, stages=stages))
    assert (
        status(["lab", "build", "--stage", "data", "--stage", "unet", "--work", str(tmp_path), "--minutes", "0.5"]) == 0
    )
    asked.pop("report")("unet", 1.0, 60.0, "loss")
    assert asked == {
        "stages": ("data", "unet"),
        "work": tmp_path,
        "icons": None,
        "minutes": 0.5,
        "steps": None,
        "scale": 1.0,
        "second": False,
    }
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_an_unknown_stage_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["lab", "build", "--stage", "unets", "--work", str(tmp_path / "w")]) == 3
    assert "did you mean unet" in capsys.readouterr().err
    assert not (tmp_path / "w").exists()
