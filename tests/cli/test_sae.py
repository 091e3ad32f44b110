"""``genward fit sae`` and ``genward sae show`` on a tiny pipeline of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from genward.cli.app import status
from genward.testing import tiny_sd

SMALL = "expansion=3,k=4,sae_images=12,sae_epochs=1,images=2,others=2,sampling_steps=4"
OWN = ["--expansion", "3", "--k", "4", "--images", "12", "--epochs", "1", "--store", "s"]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import genward.catalog.opening

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genward.catalog.opening, "open_model", lambda *_, **__: tiny_sd())


def test_one_autoencoder_for_three_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["fit", "sae", "-c", "banana", *OWN]) == 0
    told = capsys.readouterr()
    assert "up_blocks.1.attentions.1: 24 latents, k 4" in told.out and "dead" in told.out
    (kept,) = Path("s/fits").glob("*.safetensors")
    assert status(["fit", "sae", "-c", "banana", *OWN, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"]["method"] == "sae"
    for name in ("saeuron", "per"):
        assert status(["fit", f"{name},{SMALL}", "-c", "banana", "-o", f"f/{name}", "--store", "s"]) == 0
        assert f"reusing {kept}" in capsys.readouterr().err
        assert status(["generate", "a cat", "--steps", "4", "-d", f"f/{name}.safetensors", "--json"]) == 0
        capsys.readouterr()
    assert len(list(Path("s/fits").glob("*.safetensors"))) == 1


@pytest.mark.parametrize("method", ["saeuron", "saemnesia"])
def test_show_draws_and_tells(method: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ",labeled_images=60,epochs=1" if method == "saemnesia" else ""
    given = ["banana", "--method", f"{method},{SMALL}{more}", "--pictures", "2", "--per", "4", "--store", "s"]
    assert status(["sae", "show", *given, "--json", "-o", "x/sheet.png"]) == 0
    told = json.loads(capsys.readouterr().out)
    (row,) = told["latents"]
    assert row["target"] == "banana" and 0 <= row["purity"] <= 1 and row["score"] <= row["peak"] + 1e-9
    assert all(0 <= told["neighbors"][name] <= 1 for name in ("best", "random", "all", "chance"))
    with Image.open("x/sheet.png") as sheet:
        assert sheet.size == (96 * (len(told["steps"]) + 1), 192)
    assert status(["sae", "show", *given]) == 0
    assert "purity" in capsys.readouterr().out and Path("sae-banana.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "sae", "-o", "x.safetensors"], "leave out --out"),
        (["fit", "sae"], "no vocabulary"),
        (["fit", "sae", "-c", "banana", "--site", "text.0"], "carries"),
        (["fit", "sae", "-c", "banana", "--site", "mid"], "mid"),
        (["fit", "esd", "-c", "banana", "-o", "x", "--k", "3"], "genward fit sae"),
        (["fit", "esd", "-o", "x"], "name one concept"),
        (["sae", "show", "banana", "--method", "uce"], "saeuron or saemnesia"),
        (["sae", "show", "banana", "-o", "x.jpg"], ".png"),
    ],
)
def test_what_can_be_fixed_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([*arguments, "--store", "s"]) == 3
    assert said in capsys.readouterr().err
