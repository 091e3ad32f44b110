"""The scripts in ``timing/`` still fit the package: they import, and every part that ``speed.py`` names is
there."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "timing"


@pytest.mark.parametrize("script", sorted(p.stem for p in FOLDER.glob("*.py")))
def test_it_imports(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    try:
        assert importlib.import_module(script).__doc__
    finally:
        for name in [
            n for n, m in sys.modules.items() if str(getattr(m, "__file__", "") or "").startswith(str(FOLDER))
        ]:
            del sys.modules[name]


def test_speed_refuses_a_part_it_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    speed = importlib.import_module("speed")
    monkeypatch.setattr(sys, "argv", ["speed.py", "nothing"])
    with pytest.raises(SystemExit):
        speed.main()
    assert "grid" in capsys.readouterr().err
    del sys.modules["speed"]
