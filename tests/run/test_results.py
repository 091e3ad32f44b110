"""Provenance and result files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from genward.run import results


def test_provenance_names_what_a_reader_needs() -> None:
    got = results.provenance("genward run erasure")
    assert set(got) == {"date", "commit", "dirty", "versions", "device", "platform", "command"}
    assert got["date"].endswith("Z") and {"genward", "python", "torch", "numpy"} <= set(got["versions"])
    assert got["dirty"] in (True, False, None) and "cores" in got["device"]


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert results.git_state(tmp_path) == ("", None)


def test_json_is_whole_and_readable_by_anyone(tmp_path: Path) -> None:
    path = results.write_json(
        tmp_path / "deep" / "a.json", {"x": math.nan, "y": [np.float32(0.5), (1, math.inf)], "z": "ü"}
    )
    assert json.loads(path.read_text("utf-8")) == {"x": None, "y": [0.5, [1, None]], "z": "ü"}
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_what_is_kept_of_a_run_is_small_and_readable(tmp_path: Path) -> None:
    metrics = {
        "schema": 1,
        "run": {"name": "x", "benchmark": "m-erasure"},
        "cells": [{"crr": float("nan")}],
        "grids": [1] * 1000,
        "attacks": [{"attack": {}, "facts": [{"curve": [1.0] * 500, "word": "object"}]}],
        "judges": [{"name": "lab", "hash": "h", "labels": {"a": {}}}],
    }
    found = json.loads(results.keep(metrics, tmp_path / "deep" / "r.json").read_text("utf-8"))
    assert found["cells"] == [{"crr": None}] and "grids" not in found
    assert found["attacks"][0]["facts"] == [{"word": "object"}] and found["judges"] == [{"name": "lab", "hash": "h"}]
