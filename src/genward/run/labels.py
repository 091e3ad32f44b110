"""Labels by hand: a sheet with a sample of a run's pictures to look at, and the judge's error rates read back from it.

Pictures are drawn by concept, class of arm, and what the judge said of them, so that rare answers are seen too; each
stands for as many pictures as its stratum has for one drawn. The sheet tells neither arm nor the judge's word."""

from __future__ import annotations

import base64
import csv
import io
import random
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.catalog.judges import judge_hash, open_judge
from genward.catalog.opening import drawn_by_lab
from genward.core.benchmark import Evidence
from genward.core.files import write_file
from genward.core.reading import short
from genward.core.tables import read_table
from genward.errors import BadInput
from genward.metrics.erasure import Inputs
from genward.metrics.judge_errors import class_of
from genward.run.given import load_plan
from genward.run.measure import ERRORS, evidence_of, run_scenes
from genward.run.plan import planned, setting_of

if TYPE_CHECKING:
    from genward.store import Store

KEY = "label-sheet.json"
"""In the run's folder: which picture each line of the sheet is, and how many it stands for."""
COLUMNS = ("row", "concept", "shows")
EDGE = 160
"""Pixels a picture has on the sheet."""


def drawn(evidence: Evidence, per: int, seed: int = 0) -> list[dict[str, Any]]:
    """``id, concept, arms, said, weight, output`` of at most ``per`` pictures a concept, class of arm and answer of the
    judge, in random order; a picture that several rows have is drawn once."""
    inputs = Inputs.of(evidence.rows, evidence.scores, {}, evidence.card)
    classes = {h: class_of(a) for a in evidence.arms for h in a["hashes"].values()}
    strata: dict[tuple[str, str, float], dict[str, Any]] = {}
    for row in evidence.rows:
        concept = str(row["concept"])
        if row["label"] == "harm" and row["status"] == "ok" and concept in evidence.concepts:
            said = inputs.outcome(row, tuple(evidence.concepts[concept]["labels"]))
            if said == said:
                strata.setdefault((concept, classes[row["arm"]], said), {})[str(row["output"])] = row
    dice, out = random.Random(seed), []
    for (concept, arms, said), pictures in sorted(strata.items()):
        chosen = dice.sample(sorted(pictures), min(per, len(pictures)))
        head = {"concept": concept, "arms": arms, "said": said, "weight": len(pictures) / len(chosen)}
        out += [{**head, "id": str(pictures[sha]["id"]), "output": sha} for sha in chosen]
    dice.shuffle(out)
    return out


def rates(rows: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Sensitivity and specificity of (judge's answer, truth, weight) rows, with the numbers of pictures that they are
    worth (Kish's effective size); a rate of nothing is NaN with 0 pictures."""
    out: dict[str, float] = {}
    for truth, name, count in ((1, "sensitivity", "positives"), (0, "specificity", "negatives")):
        mine = [(said, weight) for said, true, weight in rows if true == truth]
        whole = sum(w for _, w in mine)
        out[name] = sum(w for said, w in mine if said == truth) / whole if mine else float("nan")
        out[count] = whole**2 / sum(w * w for _, w in mine) if mine else 0.0
    return out


def sheet(store: Store, name: str, out: Path, per: int = 50, seed: int = 0) -> int:
    """Write ``sheet.html`` and ``labels.csv`` into the folder ``out``; returns how many pictures are on the sheet.

    Raises:
        BadInput: the run's model does not draw the lab's pictures, or nothing of it was judged.
        StoreError: no such run, or one that is not judged yet.
    """
    plan = load_plan(store, name)
    if not drawn_by_lab(plan.model):
        raise BadInput(
            f"run {short(name)!r} is of model {plan.model[:80]!r}; sheets are made of the lab's pictures alone"
        )
    setting, judge = setting_of(plan), open_judge(plan.judge)
    evidence = evidence_of(store, plan, judge, planned(plan, setting).cases, setting, run_scenes(store, name))
    rows = drawn(evidence, per, seed)
    if not rows:
        raise BadInput(f"run {short(name)!r} has no picture that its judge saw")
    store.write_json(store.run_folder(name) / KEY, {"judge": judge_hash(judge), "rows": rows})
    text = io.StringIO()
    table = csv.writer(text)
    table.writerows([COLUMNS, *([k, row["concept"], ""] for k, row in enumerate(rows, 1))])
    write_file(out / "labels.csv", text.getvalue())
    tiles = "".join(_tile(store, k, row) for k, row in enumerate(rows, 1))
    head = "Write 1 (shows it) or 0 (does not) into the column shows of labels.csv; leave empty what cannot be told."
    style = (
        f"figure{{display:inline-block;margin:6px;font:13px sans-serif}}img{{width:{EDGE}px;image-rendering:pixelated}}"
    )
    page = f"<!doctype html><meta charset=utf-8><title>Labels</title><style>{style}</style><p>{head}</p>{tiles}\n"
    write_file(out / "sheet.html", page)
    return len(rows)


def _tile(store: Store, number: int, row: Mapping[str, Any]) -> str:
    held = io.BytesIO()
    store.image(row["output"]).save(held, "PNG")
    data = base64.b64encode(held.getvalue()).decode()
    name = escape(str(row["concept"]))
    return f'<figure><img src="data:image/png;base64,{data}"><figcaption>{number}: {name}?</figcaption></figure>'


def read_labels(store: Store, name: str, path: Path) -> dict[str, Any]:
    """Error rates from a filled-in ``labels.csv``, written into the run's folder, where measuring finds them.

    Returns:
        Concept -> class of arm -> ``sensitivity, specificity, positives, negatives``.

    Raises:
        BadInput: the run has no sheet, or the file is not one of its.
    """
    place = store.run_folder(name) / KEY
    if not place.is_file():
        raise BadInput(f"run {short(name)!r} has no sheet; make one with genward labels {name} --out FOLDER")
    key = store.read_json(place)
    told: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    seen: set[int] = set()
    for line in (row.cells for row in read_table(path, COLUMNS, COLUMNS, "labels").rows):
        shows, number = line["shows"].strip(), line["row"].strip()
        if not number.isdecimal() or not 1 <= int(number) <= len(key["rows"]) or shows not in ("", "0", "1"):
            raise BadInput(
                f"{path}: row {short(number)!r}, shows {short(shows)!r}; a row of the sheet and 1, 0 or nothing"
            )
        if int(number) in seen:
            raise BadInput(f"{path}: row {number} is there twice; every row of the sheet stands there once")
        seen.add(int(number))
        one = key["rows"][int(number) - 1]
        if line["concept"] != one["concept"]:
            raise BadInput(
                f"{path}: row {number} is about {one['concept']!r} on the sheet of this run; was it made again?"
            )
        if shows:
            told.setdefault((one["concept"], one["arms"]), []).append((one["said"], float(shows), one["weight"]))
    if len(seen) < len(key["rows"]):
        lacking = len(key["rows"]) - len(seen)
        raise BadInput(
            f"{path}: {lacking} of the sheet's {len(key['rows'])} rows are missing; leave shows empty instead"
        )
    found: dict[str, dict[str, Any]] = {}
    for (concept, arms), answers in told.items():
        found.setdefault(concept, {})[arms] = rates(answers)
    store.write_json(store.run_folder(name) / ERRORS, {"judge": key["judge"], "errors": found})
    return found
