"""Whole files or none, and values as JSON holds them."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from genward.core import files
from genward.errors import BadInput


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_several_files_are_flushed_before_the_first_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = tmp_path / "deep" / "a.bin", tmp_path / "b.txt"
    files.write_files({one: b"1", two: b"2"})
    calls: list[str] = []
    sync, move = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append("flush"), sync(handle)) and None)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(Path(b).name), move(a, b)) and None)
    files.write_files({one: b"3", two: b"4"})
    assert calls[:4] == ["flush", "flush", "a.bin", "b.txt"] and (one.read_bytes(), two.read_bytes()) == (b"3", b"4")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_files({one: b"5", two: b"6"})
    assert (one.read_bytes(), two.read_bytes()) == (b"3", b"4")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.bin", "b.txt", "deep"], "nothing is left in the making"


def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.png"
    with pytest.raises(OSError, match="No space"), files.written(target) as aside:
        aside.write_text("half")
        full()
    assert list(tmp_path.rglob("*.*")) == []
    with files.written(target) as aside:
        aside.write_text("all")
        assert aside.suffix == ".png" and aside.parent == target.parent and not target.exists()
    assert target.read_text() == "all" and [p.name for p in target.parent.iterdir()] == ["a.png"]


def test_text_is_utf_8(tmp_path: Path) -> None:
    files.write_file(tmp_path / "a.txt", "a café\n")
    assert (tmp_path / "a.txt").read_bytes() == "a café\n".encode()


def test_plain_values() -> None:
    given = {
        1: (math.nan, math.inf, 2.5),
        "a": np.arange(2),
        "b": {"y", "x"},
        "c": Path("p"),
        "d": np.float32(0.5),
        "e": True,
    }
    wanted = {"1": [None, None, 2.5], "a": [0, 1], "b": ["x", "y"], "c": "p", "d": 0.5, "e": True}
    assert files.plain(given) == wanted == json.loads(files.json_text(given))
    assert files.finite(None) is files.finite(math.nan) is files.finite(-math.inf) is None and files.finite(3) == 3.0
    assert files.finite(1 / 3, 2) == 0.33 and files.finite(math.nan, 2) is None
    with pytest.raises(BadInput, match="object"):
        files.plain({"a": object()})
