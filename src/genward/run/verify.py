"""Verify a run: judge its pictures again and compute its figures again, aside, and compare with what is recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from genward.catalog.judges import judge_hash, open_judge
from genward.core.files import json_text
from genward.core.reading import short
from genward.errors import StoreError
from genward.run.generate import Progress
from genward.run.given import load_plan
from genward.run.measure import MEASURED, figures, opened, planned_ids, run_arms, run_scenes
from genward.run.plan import Plan, planned

if TYPE_CHECKING:
    from genward.store import Store

OF_ITS_TIME = ("date", "commit", "dirty", "versions", "device", "platform", "command", "stages", MEASURED)
"""What the table ``run`` says of the day on which it was written."""
TOLERANCE = 1e-3
"""How far a score may move from one machine to another."""
SHOWN = 20
"""Differences that are listed one by one."""


class Verified(NamedTuple):
    """What verifying found."""

    differences: list[str]
    """One line each; empty where all is as recorded"""
    judged: int
    """Pictures that were judged again"""


def verify(
    store: Store | Path | str,
    name: str,
    judge: Any = None,
    *,
    rejudge: bool = True,
    batch: int = 256,
    progress: Progress | None = None,
) -> Verified:
    """Compute a run's figures anew from its rows and scores, and hold them against its ``metrics.json``; nothing is
    written.

    Args:
        judge: the judge whose scores the figures are from; the plan's by default.
        rejudge: judge the pictures again too, and hold the scores against those of the store (up to ``TOLERANCE``).

    Raises:
        StoreError: no such run, or one that was never measured.
    """
    store = opened(store)
    plan = load_plan(store, name)
    path = store.run_folder(name) / "metrics.json"
    if not path.is_file():
        raise StoreError(f"run {name!r} has no {path.name} to verify; measure it first (genward judge {name})")
    made = plan.benchmark.media != "text"
    judge = open_judge(plan.judge) if judge is None and made else judge
    found: list[str] = []
    judged = 0
    try:
        if made and rejudge:
            judged, found = _scores(store, plan, judge, batch, progress)
        recorded, anew = store.read_json(path), json.loads(json_text(figures(store, plan, judge)))
    except StoreError as error:  # what is damaged cannot be as it was recorded
        return Verified([*found, str(error)], judged)
    found += list(differences(_lasting(recorded), _lasting(anew)))
    rest = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return Verified(found[:SHOWN] + rest, judged)


def _lasting(metrics: Any) -> Any:
    """Metrics without what a later computation may say otherwise."""
    if not isinstance(metrics, Mapping) or not isinstance(metrics.get("run"), Mapping):
        return metrics
    return {**metrics, "run": {k: v for k, v in metrics["run"].items() if k not in OF_ITS_TIME}}


def differences(recorded: Any, anew: Any, where: str = "") -> Iterator[str]:
    """One line for each value of two JSON trees that differs, with its path; numbers are compared to 1 in 10⁹."""
    if isinstance(recorded, Mapping) and isinstance(anew, Mapping):
        for key in dict.fromkeys([*recorded, *anew]):
            here = f"{where}.{key}" if where else str(key)
            if key not in recorded or key not in anew:
                yield f"{here}: {'recorded only' if key in recorded else 'not recorded'}"
            else:
                yield from differences(recorded[key], anew[key], here)
    elif _list(recorded) and _list(anew):
        if len(recorded) != len(anew):
            yield f"{where}: {len(recorded)} recorded, {len(anew)} computed anew"
        for k, (a, b) in enumerate(zip(recorded, anew, strict=False)):
            yield from differences(a, b, f"{where}[{_called(b) or k}]")
    elif not _same(recorded, anew):
        yield f"{where}: recorded {_shown(recorded)}, computed anew {_shown(anew)}"


def _list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _called(row: Any) -> str:
    """What a row of a table is about: ``uce, weapons, name``."""
    keys = (
        [row[k] for k in ("arm", "label", "concept", "variant", "id") if isinstance(row.get(k), str)]
        if isinstance(row, Mapping)
        else []
    )
    return ", ".join(keys)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or not (isinstance(a, int | float) and isinstance(b, int | float)):
        return type(a) is type(b) and bool(a == b)
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else short(json.dumps(value, ensure_ascii=False))


def _scores(store: Store, plan: Plan, judge: Any, batch: int, progress: Progress | None) -> tuple[int, list[str]]:
    """Judge the run's pictures again; how many, and a line where scores of the store are others."""
    arms, scenes = run_arms(store, plan.name), run_scenes(store, plan.name)
    ids = set(planned_ids(plan, planned(plan).cases, arms)) | {i for s in scenes for i in s["ids"]}
    hashes = {h for row in arms for h in row["hashes"].values()} | {s["hash"] for s in scenes if s["hash"]}
    rows = [r for r in store.samples(hashes) if r["id"] in ids]
    known = {(s["sample"], s["label"]): s["value"] for s in store.scores(judge_hash(judge))}
    other: list[str] = []
    count = 0
    for k in range(0, len(rows), batch):
        for score in judge.judge([store.load(row) for row in rows[k : k + batch]]):
            count += 1
            before = known.get((score.sample, score.label))
            if before is None or not _near(before, score.value):
                shown = "none" if before is None else f"{before:.4g}"
                other.append(f"sample {score.sample}, {score.label}: recorded {shown}, judged anew {score.value:.4g}")
        if progress is not None:
            progress("judge", min(k + batch, len(rows)), len(rows), "then figures")
    head = (
        [f"scores: {len(other)} of {count} are not what judge {type(judge).name!r} says of the pictures"]
        if other
        else []
    )
    return len(rows), head + other[:3]


def _near(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= TOLERANCE
