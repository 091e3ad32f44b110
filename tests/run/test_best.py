"""Each claim is read from the run that says most about it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from genward.cli.app import status
from genward.errors import StoreError
from genward.run import best
from genward.run.claims import FAILS, HOLDS, OPEN
from genward.store import Store

CLAIM = "uce-erases-names"


def run(rows: int, crr: float | None, half: float = 0.02, arm: str = "uce") -> dict[str, Any]:
    around = {} if crr is None else {"crr_low": crr - half, "crr_high": crr + half}
    cells = [
        {"arm": arm, "concept": c, "variant": v, "crr": crr, **around}
        for c in ("weapons", "banana", "cat")
        for v in ("name", "synonym")
    ]
    cells += [{**c, "arm": "base", "crr": 1.0, "crr_low": 1.0, "crr_high": 1.0} for c in cells]
    about = {"benchmark": "erasure", "rows": rows, "concepts": {}, "date": "2026-11-24T16:10:15Z"}
    return {"run": about, "cells": cells}


def one(runs: dict[str, Any], records: dict[str, Any]) -> dict[str, Any]:
    (row,) = [r for r in best.best_claims(runs, records)["claims"] if r["id"] == CLAIM]
    return row


def recorded(start: float, end: float, **changes: Any) -> dict[str, Any]:
    row = {"id": CLAIM, "ours": (start + end) / 2, "low": start, "high": end, "verdict": OPEN}
    row["statement"] = one({"a": run(1, 0.05)}, {})["statement"]
    return {"run": {"rows": 5400, "date": "2026-11-24T16:10:15Z"}, "cells": [], "claims": [row | changes]}


def test_the_largest_run_is_taken_not_the_newest() -> None:
    row = one({"new": run(54, 0.9), "large": run(540, 0.05), "old": run(90, 0.9)}, {})
    assert (row["run"], row["verdict"], row["ours"]) == ("large", HOLDS, 0.05)


def test_a_run_that_lacks_the_arm_leaves_it_to_a_smaller_one() -> None:
    row = one({"large": run(540, 0.9, arm="sld"), "small": run(54, 0.05)}, {})
    assert (row["run"], row["verdict"]) == ("small", HOLDS)


def test_a_recorded_run_decides_where_none_of_the_store_does() -> None:
    wide = {"mine": run(54, 0.2, half=0.19)}
    assert one(wide, {})["verdict"] == OPEN
    for low, high, verdict in ((0.0, 0.05, HOLDS), (0.8, 0.9, FAILS)):
        row = one(wide, {"erasure-standard": recorded(low, high)})
        assert (row["run"], row["verdict"]) == ("erasure-standard (recorded 2026-11-24)", verdict)
        assert row["ours"] == pytest.approx((low + high) / 2)
    lacking = one({"mine": run(54, None, arm="sld")}, {"erasure-standard": recorded(0.0, 0.05)})
    assert lacking["verdict"] == HOLDS
    for measured, named in ((None, "erasure-standard (recorded 2026-11-24)"), (0.2, "mine")):
        mine = {"mine": run(54, measured, half=0.19, arm="uce" if measured else "sld")}
        open_ = one(mine, {"erasure-standard": recorded(0.01, 0.39)})
        assert (open_["run"], open_["reason"]) == (named, "interval too wide"), "a figure, where there is none here"


def test_cannot_tell_only_where_neither_does() -> None:
    wide = {"mine": run(54, 0.2, half=0.19)}
    for record in (
        recorded(0.01, 0.39),
        recorded(0.0, 0.05, statement="Another claim."),
        recorded(0.0, 0.05, low=None),
    ):
        row = one(wide, {"erasure-standard": record})
        assert (row["run"], row["verdict"]) == ("mine", OPEN)
    decided = one({"mine": run(54, 0.05)}, {"erasure-standard": recorded(0.8, 0.9)})
    assert (decided["run"], decided["verdict"]) == ("mine", HOLDS), "one's own figures come first"


def test_recorded_runs_of_the_package_have_claims() -> None:
    found = best.recorded()
    assert {"erasure-standard", "m-erasure-standard"} <= set(found) and "speed" not in found
    assert all(isinstance(m["run"]["rows"], int) for m in found.values())
    for row in best.recorded_claims(found)["claims"]:
        assert row["ours"] is None or row["n"], f"{row['id']}: how many rows is the figure from?"
        if row["reason"] == "interval too wide" and row["low"] is not None:
            assert f"from {row['n']:,} rows" in row["why"], row


def test_the_command_names_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "s")
    with pytest.raises(StoreError, match="no measured run"):
        best.measured(store)
    for k, (name, metrics) in enumerate({"large": run(540, 0.05), "small": run(54, 0.9)}.items()):
        path = store.write_json(store.run_folder(name) / "metrics.json", metrics)
        os.utime(path, (k, k))
    assert list(best.measured(store)) == ["small", "large"]
    assert status(["claims", "--store", str(store.root), "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["claims"]}
    assert rows[CLAIM]["run"] == "large" and all(row["run"] for row in rows.values())
    assert status(["claims", "small", "--store", str(store.root), "--json"]) == 0
    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["claims"]}
    assert {row["run"] for row in rows.values()} == {"small"}


def test_records_alone() -> None:
    """One row a claim about their benchmarks: a record that decides before a larger one that does not."""

    def row(**records: Any) -> dict[str, Any]:
        about = {k: {**m, "run": {**m["run"], "benchmark": "erasure"}} for k, m in records.items()}
        found = best.recorded_claims(about)["claims"]
        assert len({r["id"] for r in found}) == len(found) and {r["verdict"] for r in found[1:]} == {OPEN}
        return next(r for r in found if r["id"] == CLAIM)

    wide, narrow = recorded(0.01, 0.39), recorded(0.0, 0.05)
    narrow["run"]["rows"] = 54
    assert (row(wide=wide)["verdict"], row(wide=wide, narrow=narrow)["verdict"]) == (OPEN, HOLDS)
    assert row(wide=wide, narrow=narrow)["run"] == "narrow (recorded 2026-11-24)"
    assert row(wide=recorded(0, 1, low=None))["reason"] == "not measured here"
    assert best.recorded_claims({}) == {"claims": []}


def test_the_command_without_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status(["claims", "--json", "--store", str(tmp_path / "none")]) == 0
    out, said = capsys.readouterr()
    assert "no store at" in said and not (tmp_path / "none").exists()
    rows = json.loads(out)["claims"]
    assert all("(recorded 20" in r["run"] for r in rows) and {r["verdict"] for r in rows} >= {HOLDS, FAILS, OPEN}
    assert status(["claims", "--recorded", "--json"]) == 0 and json.loads(capsys.readouterr().out)["claims"] == rows
    assert status(["claims", "mine", "--recorded"]) == 3
