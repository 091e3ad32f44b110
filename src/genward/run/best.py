"""Of several runs the one that says most about a claim: the largest that measured it, and where it cannot tell, the
recorded run that can."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import TYPE_CHECKING, Any

from genward.errors import StoreError
from genward.run.claim import UNKNOWN, Claim, Estimate
from genward.run.claims import OPEN, claims, load_claims, told

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
    known = {claim.id: claim for claim in load_claims()}
    rows = found.values()
    return {"claims": [_decided(known, row, records) if row["verdict"] == OPEN else row for row in rows]}


def recorded_claims(records: Runs) -> dict[str, Any]:
    """The claims about the benchmarks that records are of, as ``best_claims`` gives them: each from the largest record
    that decides it, else from the largest that has a figure, else with the reason why none has."""
    rows = []
    for claim in load_claims():
        mine = {name: m for name, m in records.items() if m["run"].get("benchmark") == claim.benchmark}
        found = [*_recorded(claim, claim.statement, mine)]
        row = next((each for each in found if each["verdict"] != OPEN), None) or next(iter(found), None)
        if row is None and mine:
            name, metrics = _largest_first(mine)[0]
            row = {**told(claim, metrics, UNKNOWN), "run": _named(name, metrics)}
        rows += [row] if row else []
    return {"claims": rows}


def _named(name: str, metrics: Mapping[str, Any]) -> str:
    return f"{name} (recorded {str(metrics['run'].get('date', ''))[:10]})"


def _largest_first(runs: Runs) -> list[tuple[str, Mapping[str, Any]]]:
    return sorted(runs.items(), key=lambda pair: -int(pair[1]["run"].get("rows") or 0))


def _decided(known: Mapping[str, Claim], row: dict[str, Any], records: Runs) -> dict[str, Any]:
    """The row, or the recorded figure where one decides, or says anything where no run of the store does; the verdict
    on it is given anew, by the claim as it is now. A claim is known by its statement: its id may have changed."""
    about = known.get(row["id"])
    found = [] if about is None else [*_recorded(about, row["statement"], records)]
    decided = next((each for each in found if each["verdict"] != OPEN), None)
    if decided is None and row["ours"] is None:
        decided = next(iter(found), None)
    return row if decided is None else decided


def _recorded(claim: Claim, statement: str, records: Runs) -> Iterator[dict[str, Any]]:
    """What recorded runs say of a claim, the largest first."""
    for name, metrics in _largest_first(records):
        for row in metrics["claims"]:
            if row["statement"] == statement and row["low"] is not None and row["high"] is not None:
                figure = Estimate(row["ours"], row["low"], row["high"])
                # A record keeps no pairs to count rows by; its own claims say how many there were.
                yield {**told(claim, metrics, figure, row.get("n")), "run": _named(name, metrics)}
