"""``genward fit`` and ``genward export`` on a tiny pipeline of the real classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genward.cli.app import status
from genward.testing import tiny_sd


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import genward.catalog.opening

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(genward.catalog.opening, "open_model", lambda *_, **__: tiny_sd())


def test_fit_then_use_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["fit", "uce,lam=0.25", "--concept", "weapons", "--out", "fitted/uce.safetensors"]) == 0
    assert capsys.readouterr().out == "fitted/uce.safetensors\n"
    assert sorted(p.name for p in Path("fitted").iterdir()) == ["uce.json", "uce.safetensors"]
    assert status(["generate", "a cat", "--steps", "2", "-d", "fitted/uce.safetensors", "--json"]) == 0
    by_file = json.loads(capsys.readouterr().out)["samples"][0]["arm"]
    assert status(["generate", "a cat", "--steps", "2", "-d", "uce:weapons,lam=0.25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"][0]["arm"] == by_file


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fit", "sld", "--concept", "weapons", "--out", "x.safetensors"], "learns nothing"),
        (["fit", "uce", "--concept", "weapon", "--out", "x.safetensors"], "weapons"),
        (["fit", "uce", "--concept", "weapons", "--out", "x.pt"], "never a pickle"),
        (["fit", "uce,lamb=1", "--concept", "weapons", "--out", "x.safetensors"], "lam"),
        (["export", "sld:weapons", "--out", "folder"], "cannot be written into weights"),
        (["export", "uce:weapons", "--out", "."], "not an empty folder"),
        (["generate", "a cat", "-d", "model.ckpt"], "error: "),
    ],
)
def test_what_cannot_be_done_says_so(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("occupied").write_text("x")
    assert status(arguments) == 3
    assert said in capsys.readouterr().err
    assert not list(Path().rglob("*.safetensors"))


def test_export_loads_without_genward(capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers import StableDiffusionPipeline

    assert status(["export", "uce:weapons", "--out", "edited", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["out"] == "edited"
    edited = StableDiffusionPipeline.from_pretrained(
        "edited", safety_checker=None, requires_safety_checker=False
    ).unet.state_dict()
    base = tiny_sd().unet.state_dict()
    changed = {name for name in base if not base[name].equal(edited[name])}
    assert changed
    assert all("attn2.to_k" in name or "attn2.to_v" in name for name in changed)


def test_check_sees_what_was_fitted(capsys: pytest.CaptureFixture[str]) -> None:
    from genward.store import Store

    Store("s")
    assert status(["generate", "a cat", "--steps", "2", "-d", "uce:weapons", "--store", "s", "--json"]) == 0
    (card,) = Path("s/fits").glob("*.json")
    assert status(["check", "--store", "s"]) == 0
    card.write_text(card.read_text("utf-8").replace('"lam": ', '"lam": 9'), "utf-8")
    capsys.readouterr()
    assert status(["check", "--store", "s"]) == 3
    assert "were changed" in capsys.readouterr().out
    card.unlink()
    assert status(["check", "--store", "s"]) == 3
    assert "an artifact is two files" in capsys.readouterr().out
