"""Of several runs the one that says most about a claim: the largest that measured it, and where it cannot tell, the
recorded run that can."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from genward.errors import StoreError
from genward.run.claims import OPEN, Estimate, claims, judge_interval, load_claims, reason_to_doubt

if TYPE_CHECKING:
    from genward.store import Store

Runs = Mapping[str, Mapping[str, Any]]
"""Name -> metrics of a run"""


def measured(store: Store) -> dict[str, Mapping[str, Any]]:
    """Every measured run of a store, the newest first. ``StoreError`` where none has been."""
    files = [store.run_folder(name) / "metrics.json" for name in store.runs()]
    dated = sorted(((f.stat().st_mtime, f) for f in files if f.is_file()), reverse=True)
    if not dated:
        raise StoreError(f"no measured run in {store.root}; make one with `genward run`")
    return {f.parent.name: store.read_json(f) for _, f in dated}


def recorded() -> dict[str, Mapping[str, Any]]:
    """The recorded runs that come with the package, their figures as they were measured."""
    folder = resources.files("genward").joinpath("results")
    found = {p.name.removesuffix(".json"): p for p in folder.iterdir() if p.name.endswith(".json")}
    read = {name: json.loads(found[name].read_text("utf-8")) for name in sorted(found)}
    return {name: raw for name, raw in read.items() if raw.get("claims") and isinstance(raw.get("run"), dict)}


def best_claims(runs: Runs, records: Runs) -> dict[str, Any]:
    """The claims about the runs' benchmarks, each from the run that says most about it.

    Args:
        runs: measured runs; of two with as many rows the first counts.
        records: recorded runs, asked where no run decides.

    Returns:
        ``{"claims": [...]}`` as ``claims.claims`` gives it, each row with ``run``: the run's name, with ``(recorded
        DATE)`` behind a recorded one's.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, metrics in _largest_first(runs):
        for row in claims(metrics)["claims"]:
            there = found.get(row["id"])
            if there is None or (there["ours"] is None and row["ours"] is not None):
                found[row["id"]] = {**row, "run": name}
    return {"claims": [_decided(row, records) if row["verdict"] == OPEN else row for row in found.values()]}


def _largest_first(runs: Runs) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(runs.items(), key=lambda pair: -int(pair[1]["run"].get("rows") or 0))


def _decided(row: dict[str, Any], records: Runs) -> dict[str, Any]:
    """The row, or the recorded figure where one decides; the verdict on it is given anew, by the claim as it is now."""
    about = next((c for c in load_claims() if c.id == row["id"]), None)
    for name, metrics in _largest_first(records):
        for told in metrics["claims"]:
            same = told["id"] == row["id"] and told["statement"] == row["statement"]
            if about is None or not same or told["low"] is None or told["high"] is None:
                continue
            figures = {k: told[k] for k in ("ours", "low", "high")}
            verdict = judge_interval(about, told["low"], told["high"])
            doubt = reason_to_doubt(about, metrics, Estimate(told["ours"], told["low"], told["high"]))
            if verdict != OPEN and not doubt:
                date = str(metrics["run"].get("date", ""))[:10]
                return {**row, **figures, "verdict": verdict, "why": "", "run": f"{name} (recorded {date})"}
    return row
