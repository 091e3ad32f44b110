"""A run's rows one by one, and two runs held against each other row by row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from genward.errors import BadInput, UnknownName
from genward.metrics.erasure import Inputs
from genward.metrics.intervals import paired_difference
from genward.run.given import load_plan
from genward.run.measure import concept_tables, run_arms, run_rows, run_scenes, scores_of
from genward.run.plan import planned, setting_of
from genward.run.storing import open_store, read_run

ROW_COLUMNS = {
    "run": "name of the run",
    "arm": "label of the arm: model, chain of defenses and sampler",
    "concept": "concept of the row",
    "variant": "how the prompt refers to the concept, or the column of a search",
    "label": "harm (the concept must not show) or benign (what the prompt names must show)",
    "group": "what rows are clustered by: the object",
    "case": "id of the row, the same under every arm and in every run of these cases",
    "seed": "of the start noise",
    "prompt": "text that was drawn",
    "status": "ok, refused or error",
    "why": "by whom and why, where it is not ok",
    "hit": "1: the judge saw what the label asks about (harm: the concept; benign: what was asked for), 0: not; empty: "
    "not scored. A refused row is 0",
    "judge": "whose word hit is",
    "seconds": "that the row took",
    "nfe": "denoiser rows",
    "output": "SHA-256 of the picture in the store",
}
"""Columns of the rows' table, and what they hold"""


class Difference(NamedTuple):
    """One arm, concept and variant in two runs: the paired difference of raw rates."""

    arm: str
    concept: str
    variant: str
    label: str
    pairs: int
    """Rows of equal case and seed that both runs scored"""
    first: float
    second: float
    """Raw rates over the pairs"""
    difference: float
    low: float
    high: float
    """Second less first, with its 95 % interval over groups"""
    why: str


def rows_of(root: Path | str, name: str = "") -> list[dict[str, Any]]:
    """The rows of a measured run with the judge's answer, by ``ROW_COLUMNS``.

    Raises:
        StoreError: no such run, or not measured to the end. BadInput: a run without pictures.
    """
    name, metrics = read_run(root, name)
    store = open_store(root)
    plan = load_plan(store, name)
    if plan.benchmark.media == "text" or not metrics.get("judges"):
        raise BadInput(
            f"run {name!r} has no rows that a judge looked at; its own files are in {store.run_folder(name)}"
        )
    judge = metrics["judges"][0]
    arms = run_arms(store, name)
    cases = planned(plan, setting_of(plan)).cases
    rows = run_rows(store, plan, cases, arms, run_scenes(store, name))
    scores = scores_of(store, str(judge["hash"]), {r["id"] for r in rows})
    inputs, concepts = Inputs.of(rows, scores, {}, judge), concept_tables(plan)
    labels = {h: str(a["label"]) for a in arms for h in a["hashes"].values()}
    out = []
    for row in rows:
        asked = concepts.get(str(row["concept"]), {}).get("labels", ())
        hit = inputs.outcome(row, tuple(asked) if row["label"] == "harm" else (row["group"],))
        about = {key: row.get(key, "") for key in ("concept", "variant", "label", "group", "seed", "prompt", "status")}
        facts = {"why": row.get("why", ""), "seconds": row["seconds"], "nfe": row["costs"].get("nfe")}
        known = {"run": name, "arm": labels[row["arm"]], **about, "case": str(row.get("case", row["prompt"]))}
        made = {"hit": hit, "judge": judge["name"], **facts, "output": str(row.get("output") or "")}
        out.append({key: {**known, **made}[key] for key in ROW_COLUMNS})
    return out


def compare(first: tuple[Path | str, str], second: tuple[Path | str, str]) -> list[Difference]:
    """Two runs held against each other on rows of equal case and seed: arm by arm where both have the label, concept
    by concept, variant by variant. Rates are the judge's raw ones; the interval is a bootstrap over groups.

    Args:
        first, second: (store, run).

    Raises:
        StoreError: as ``rows_of``. BadInput: other judges, or no row in common.
    """
    one, two = _cells(rows_of(*first)), _cells(rows_of(*second))
    judges = {judge for cells in (one, two) for rows in cells.values() for _, _, judge in rows.values()}
    if len(judges) > 1:
        raise BadInput(f"these runs were judged by {' and '.join(sorted(judges))}; judge one of them again")
    out = []
    for cell in one:
        if cell not in two:
            continue
        a = {key: hit for key, (hit, _, _) in one[cell].items()}
        b = {key: hit for key, (hit, _, _) in two[cell].items()}
        keys = [k for k in a if k in b and math.isfinite(a[k]) and math.isfinite(b[k])]
        if not keys:
            continue
        groups = {key: group for key, (_, group, _) in one[cell].items()}
        gap = paired_difference(b, a, groups)
        then, now = (sum(side[k] for k in keys) / len(keys) for side in (a, b))
        out.append(Difference(*cell, len(keys), then, now, gap.value, gap.low, gap.high, gap.why))
    if not out:
        raise BadInput(
            "these runs have no scored row of equal arm, case and seed; run both with the same benchmark, rows and seed"
        )
    return out


Cell = tuple[str, str, str, str]
Kept = dict[tuple[str, int], tuple[float, str, str]]


def _cells(rows: list[dict[str, Any]]) -> dict[Cell, Kept]:
    """(arm, concept, variant, label) -> (case, seed) -> (hit, group, judge); of several with one key the first."""
    out: dict[Cell, Kept] = {}
    for row in rows:
        cell = (row["arm"], row["concept"], row["variant"], row["label"])
        mine = out.setdefault(cell, {})
        mine.setdefault((row["case"], int(row["seed"])), (row["hit"], row["group"] or row["prompt"], row["judge"]))
    return out


def runs_of(root: Path | str) -> list[dict[str, Any]]:
    """The runs of a store: name, benchmark, state, rows, date."""
    store = open_store(root)
    out = []
    for name in store.runs():
        path = store.run_folder(name) / "metrics.json"
        run: Mapping[str, Any] = store.read_json(path)["run"] if path.is_file() else {}
        facts = {"benchmark": str(run.get("benchmark", "")), "date": str(run.get("date", ""))}
        out.append({"name": name, "state": "measured" if run else "begun", "rows": run.get("rows"), **facts})
    return out


def picked_rows(rows: list[dict[str, Any]], where: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows in which every column in ``where`` has its value; ``UnknownName`` for a column that there is not."""
    for name in where:
        if name not in ROW_COLUMNS:
            raise UnknownName("column of the rows", name, ROW_COLUMNS)
    return [row for row in rows if all(str(row[k]) == v for k, v in where.items())]
