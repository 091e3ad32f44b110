"""One self-contained HTML file of a run: no request leaves the page, equal input gives equal bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import statistics
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.core.files import write_file
from genward.errors import StoreError
from genward.report import guarding, plot, prose, searches, shots
from genward.report.reading import Metrics, Source, read
from genward.report.tables import MEASURES, Arm, Estimate, Grid, duration, estimate, interval, percent, short

if TYPE_CHECKING:
    from jinja2 import Environment

FLIP_LIGHT, FLIP_DARK = 0.70, 0.55
"""Share above which letters on the heat map change color: where both colors read equally well (contrast 4.2 or more
everywhere)."""


def build(store: Source, run: str, out: Path | None = None) -> Path:
    """Write the report of a measured run and return where it is.

    Args:
        store: where the run, its metrics and its pictures are (``genward.store.Store``).
        run: the run's name.
        out: file to write, or an existing folder; ``report.html`` in the run's folder by default.

    Raises:
        StoreError: no such run, not measured yet, corrupt or foreign metrics, or the file cannot be written.
    """
    metrics, folder = read(store, run)
    path = folder / "report.html" if out is None else Path(out)
    if path.is_dir():
        path = path / "report.html"
    return _write(path, render(metrics, store, run))


def render(metrics: Metrics, store: Source, run: str = "") -> str:
    """The page as text; ``metrics`` as ``reading.check`` returns them."""
    grid = Grid(metrics)
    thumbnails = shots.Thumbnails(store)
    grids, left_out = shots.grids(metrics["grids"], grid.arms, thumbnails)
    script = _asset("report.js")
    return _environment().get_template("report.html").render(
        title=str(metrics["run"].get("name") or run),
        facts=facts(metrics["run"]),
        run={"commit": "", "dirty": None, **metrics["run"]},
        commands=[_command(metrics["run"].get("command"))] if metrics["run"].get("command") else [],
        versions=_pairs(metrics["run"].get("versions")),
        findings=prose.findings(grid),
        cautions=prose.cautions(metrics, grid, len(thumbnails.lost), left_out),
        matrices=[matrix(grid, c) for c in grid.concepts],
        measures=measures(grid),
        arms=grid.arms,
        grids=grids,
        left_out=left_out,
        lost=thumbnails.lost,
        plots=[p for c in grid.concepts if (p := plot.plots(grid, c))],
        guards=guarding.groups(metrics["guards"], grid.arms),
        size=plot,
        searches=searches.searches(metrics["attacks"]),
        curve=searches,
        judges=[judge(j) for j in metrics["judges"]],
        claims=metrics["claims"],
        glossary=prose.GLOSSARY,
        css=_asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, when, on what: (word, value) in reading order; what is unknown is left out."""
    sampler = run.get("sampler")
    seconds = run.get("seconds")
    if not isinstance(seconds, (int, float)):
        seconds = run["minutes"] * 60 if isinstance(run.get("minutes"), (int, float)) else None
    rows = [
        ("Benchmark", run.get("benchmark")),
        ("Model", run.get("model")),
        ("Sampler", _flat(sampler)),
        ("Preset", run.get("preset")),
        ("Seed", run.get("seed")),
        ("Date", re.sub(r"(?<=\d)T(?=\d)", " ", _flat(run.get("date")))),
        ("Device", run.get("device")),
        ("Took", duration(seconds) if seconds is not None else None),
    ]
    return [(k, _flat(v)) for k, v in rows if v not in (None, "", {}, [])]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_flat(v)}" for k, v in value.items() if v not in (None, ""))
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_flat, value))
    return "" if value is None else str(value)


def _pairs(value: Any) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        return [
            (str(k), v if isinstance(v, str) else json.dumps(v, ensure_ascii=False, sort_keys=True, default=str))
            for k, v in value.items()
        ]
    return [("", _flat(value))] if value else []


def _command(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def matrix(grid: Grid, concept: str) -> dict[str, Any]:
    """One concept's heat map: wordings, and a row of cells for each arm that has any."""
    variants = grid.variants(concept)
    several = len(variants) > 1
    rows = []
    for arm in grid.arms:
        cells = [_heat(grid.cell(arm.label, concept, w)) for w in variants]
        if any(c["there"] for c in cells):
            mean = grid.residual(arm.label, concept)
            rows.append({"arm": arm, "cells": cells, "mean": _shade(mean) if several else None})
    return {"concept": concept, "variants": variants, "rows": rows, "mean": several}


def _shade(e: Estimate, digits: int = 0) -> dict[str, Any]:
    v = None if e.value is None else min(1.0, max(0.0, e.value))
    return {
        "sort": e.value,
        "text": percent(e.value, digits),
        "interval": interval(e, lambda x: percent(x, digits)),
        "v": None if v is None else f"{100 * v:.1f}%",
        "flip": "" if v is None else f"{' l-hi' if v > FLIP_LIGHT else ''}{' d-hi' if v > FLIP_DARK else ''}",
    }


def _heat(cell: Mapping[str, Any] | None) -> dict[str, Any]:
    if cell is None:
        return {"there": False, "sort": None}
    digits = 1 if (cell["n"] or 0) >= 400 else 0
    e, difference = estimate(cell, "crr"), estimate(cell, "crr_difference")
    signed = "" if difference.value is None else f"{100 * difference.value:+.{digits}f}".replace("-", "−")
    return {
        "there": True,
        **_shade(e, digits),
        "n": None if cell["n"] is None else f"{cell['n']:.0f}",
        "unscored": int(cell["n_unscored"] or 0),
        "raw": None if cell["crr_raw"] is None else percent(cell["crr_raw"], digits),
        "difference": signed,
        "difference_interval": interval(difference, lambda x: percent(x, digits).replace("-", "−"), " to "),
        "why": str(cell.get("why") or ""),
    }


def measures(grid: Grid) -> list[dict[str, Any]]:
    """Rows of the measures table: one an arm and concept."""
    rows = []
    for concept in grid.concepts:
        for arm in grid.arms:
            if grid.cells(arm.label, concept):
                found = {m: grid.measure(arm.label, concept, m) for m in MEASURES}
                prepare = grid.prepare(arm, concept)
                rows.append(
                    {
                        "concept": concept,
                        "arm": arm,
                        "columns": [_measure(m, e) for m, e in found.items()],
                        "prepare": prepare,
                        "prepared": duration(prepare),
                    }
                )
    return rows


def _measure(name: str, e: Estimate) -> dict[str, Any]:
    show = percent if name == "retention" else short
    return {
        "sort": e.value,
        "text": show(e.value) + (" %" if name == "retention" and e.value is not None else ""),
        "interval": interval(e, show),
    }


def judge(raw: Mapping[str, Any]) -> dict[str, Any]:
    """One judge's card: rows of rates, a line about them, and its facts."""
    labels = raw.get("labels") if isinstance(raw.get("labels"), Mapping) else {}
    rows = [
        (str(k), [_rate(v, key) for key in ("sensitivity", "specificity", "positives", "negatives", "threshold")])
        for k, v in (labels or {}).items()
    ]
    line = [f"{len(rows)} label{'s' if len(rows) != 1 else ''}"]
    for k, name in enumerate(("sensitivity", "specificity")):
        known = [(cells[k]["sort"], label) for label, cells in rows if cells[k]["sort"] is not None]
        if known:
            low, label = min(known)
            line.append(
                f"{name} {percent(statistics.median(v for v, _ in known), 1)} % (median), {percent(low, 1)} % at worst "
                f"({label})"
            )
    return {
        "name": str(raw.get("name", "?")),
        "hash": str(raw.get("hash", "")),
        "rows": rows,
        "line": "; ".join(line),
        "facts": _pairs(raw.get("facts")),
    }


def _rate(rates: Any, key: str) -> dict[str, Any]:
    value = rates.get(key) if isinstance(rates, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return {"sort": None, "text": "–"}
    return {"sort": value, "text": f"{value:,.0f}" if key in ("positives", "negatives") else f"{value:.3f}"}


def _asset(name: str) -> str:
    return resources.files("genward.report").joinpath("templates", name).read_text("utf-8")


def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    env = Environment(
        loader=FunctionLoader(_asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    env.filters["asset"] = Markup  # our own CSS and JS only
    env.filters["claim"] = _claim
    env.filters["seconds"] = duration
    env.filters["pct"] = percent
    env.filters["breaks"] = lambda text: Markup("<wbr>").join(
        re.split(r"(?<=[_+:/])(?=.)", str(text))
    )  # join escapes its parts
    return env


def _claim(row: Mapping[str, Any]) -> dict[str, Any]:
    texts = {k: _flat(row.get(k)) for k in ("id", "system", "statement", "paper", "verdict", "command")}
    ours, low, high = (row.get(k) for k in ("ours", "low", "high"))
    show = {
        k: short(float(v)) if isinstance(v, (int, float)) and not isinstance(v, bool) else _flat(v)
        for k, v in (("ours", ours), ("low", low), ("high", high))
    }
    kind = {"holds": "yes", "does not hold": "no"}.get(texts["verdict"], "open")
    return {
        **texts,
        "ours": show["ours"] or "–",
        "interval": f"{show['low']} to {show['high']}" if show["low"] and show["high"] else "",
        "kind": kind,
    }


def _write(path: Path, text: str) -> Path:
    """Written whole or not at all, so that a reader never sees half a page."""
    try:
        write_file(path, text)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written to {path}: {error.strerror or error}; give another --out, or make room"
        ) from error
    return path


__all__ = ["Arm", "build", "render"]
