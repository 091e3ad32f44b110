"""Drift of a guard's scores: the index against a plain loop, audits against calibration, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genward.cli.app import status
from genward.errors import BadInput
from genward.metrics.drift import shift, tenths
from genward.serve.drift import drift, scores_of
from genward.serve.policy import dump_policy, load_policy, parse_policy


def slow_psi(edges: list[float], count: int, scores: list[float]) -> float:
    """The index, bin by bin in float64, for edges that are all different."""
    total = 0.0
    for k in range(10):
        low = -math.inf if k == 0 else edges[k]
        high = math.inf if k == 9 else edges[k + 1]
        now = (sum(low < s <= high for s in scores) + 0.5) / (len(scores) + 5)
        then = (count / 10 + 0.5) / (count + 5)
        total += (now - then) * math.log(now / then)
    return total


@pytest.mark.parametrize("move", [0.0, 0.3, 3.0])
def test_the_index_is_that_of_a_plain_loop(move: float) -> None:
    rng = np.random.default_rng(4)
    then, now = rng.normal(size=500), rng.normal(move, size=300)
    edges = tenths(then)
    found = shift(edges, 500, now)
    assert found.psi == pytest.approx(slow_psi(edges.tolist(), 500, now.tolist()), rel=1e-12)
    assert found.moved == (move > 0)


def test_scores_that_did_not_move_exceed_the_limit_one_time_in_twenty() -> None:
    rng = np.random.default_rng(5)
    hits = [shift(tenths(rng.normal(size=400)), 400, rng.normal(size=400)).moved for _ in range(1000)]
    assert 0.03 < np.mean(hits) < 0.075  # 0.05, within four standard errors


def test_equal_edges_are_one() -> None:
    then = [0.0] * 80 + [1.0] * 20
    assert shift(tenths(then), 100, then).psi == pytest.approx(0, abs=0.02)
    assert shift(tenths(then), 100, [1.0] * 100).moved
    assert not shift(tenths(then), 100, [0.0] * 75 + [1.0] * 25).moved
    assert shift(tenths([2.0]), 1, [2.0]).psi == pytest.approx(0, abs=0.5)
    for bad in ([], [math.nan], [math.inf]):
        with pytest.raises(ValueError, match="at least one score"):
            tenths(bad)


def written(path: Path, scores: Any, guard: str = "aeiou") -> Path:
    lines = [json.dumps({"action": "released", "scores": {guard: s}}) for s in scores]
    path.write_text("\n".join([*lines, '{"action": "released"}', '{"cut sho']) + "\n", "utf-8")
    return path


def calibrated(then: Any) -> Any:
    text = " ".join(f"{x:.6g}" for x in tenths(then))
    facts = {"fpr": 0.05, "n": len(then), "tenths": text}
    return load_policy("weapons").with_threshold("weapons", "aeiou", 1.5, facts)


def test_an_audit_is_held_against_calibration_an_earlier_audit_or_itself(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    then, same, moved = rng.normal(size=300), rng.normal(size=300), rng.normal(1.0, size=300)
    policy = parse_policy(dump_policy(calibrated(then)))
    (found,) = drift(written(tmp_path / "now.jsonl", same), policy)
    assert (found.reference, found.verdict, found.then, found.now) == ("calibration", "as before", 300, 300)
    assert found.over == pytest.approx(float((same >= 1.5).mean())) and found.low < found.over < found.high
    (found,) = drift(written(tmp_path / "moved.jsonl", moved), policy)
    assert found.verdict == "moved" and found.median_now > found.median_then + 0.5
    (found,) = drift(tmp_path / "moved.jsonl", against=tmp_path / "now.jsonl")
    assert (found.reference, found.verdict) == ("audit", "moved") and math.isnan(found.over)
    (found,) = drift(written(tmp_path / "both.jsonl", [*same, *moved]))
    assert (found.reference, found.then, found.verdict) == ("first half", 300, "moved")
    (found,) = drift(written(tmp_path / "few.jsonl", moved[:20]), policy)
    assert found.verdict == "too few"


def test_what_cannot_be_compared_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = written(tmp_path / "a.jsonl", [0.1] * 80)
    with pytest.raises(BadInput, match="no such file"):
        scores_of(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text('{"action": "released"}\n', "utf-8")
    with pytest.raises(BadInput, match="no record has scores"):
        drift(tmp_path / "empty.jsonl")
    with pytest.raises(BadInput, match="has scores of wukong"):
        drift(log, against=written(tmp_path / "b.jsonl", [0.1], "wukong"))
    with pytest.raises(BadInput, match="calibrate again"):
        drift(log, load_policy("weapons").with_threshold("weapons", "aeiou", 1.5, {"tenths": "1 2 3"}))
    assert status(["drift", str(log)]) == 0
    assert "first half" in capsys.readouterr().out
    both = written(tmp_path / "c.jsonl", [*np.linspace(0, 1, 100), *np.linspace(5, 6, 100)])
    assert status(["drift", str(both), "--strict", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)[0]["verdict"] == "moved"
    assert status(["drift", str(tmp_path / "none.jsonl")]) == 3
