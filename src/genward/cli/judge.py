"""``genward judge``: a judge on the pictures of a run, and the run measured by it."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput


def measured(judge: str, folder: Path, out: Path, as_json: bool) -> None:
    """Measure a judge on a folder of labeled pictures, write its card and print its rates."""
    if not judge:
        raise BadInput("genward judge calibrate: name the judge, --judge image_classifier,model=./resnet,labels=church")
    from genward.catalog.measuring import calibrate, few, uncorrected

    with common.progress("pictures", as_json) as update:
        card = calibrate(judge, folder, out, progress=update)
    if as_json:
        common.emit(card)
        return
    rows = []
    for label, found in card["labels"].items():
        spans = {f"{k} interval": f"{a:.2f} … {b:.2f}" for k, (a, b) in card["intervals"][label].items()}
        rows.append({"label": label, **found, **spans})
    rates = [w for k in ("sensitivity", "specificity") for w in (k, f"{k} interval")]
    common.table(rows, ("label", *rates, "positives", "negatives", "threshold"))
    for line in few(card):
        common.note(f"few pictures of {line}")
    for line in uncorrected(card):
        common.note(f"crr stays raw with this card for {line}")
    common.note(f"wrote {out}; use it as --judge '{card['judge']},card={out}'")


def main(
    name: str = typer.Argument(..., metavar="RUN|calibrate", help="Name of the run; or calibrate, and a folder."),
    folder: Path | None = typer.Argument(
        None, metavar="[FOLDER]", help="For calibrate: one folder of pictures a label."
    ),
    judge: str = typer.Option(
        "", "--judge", "-j", help="Judge to use; by default the run's own. See genward list judges."
    ),
    again: bool = typer.Option(
        False, "--again", help="Score every picture anew, in place of the scores that are there."
    ),
    out: Path = typer.Option(Path("card.json"), "--out", "-o", help="For calibrate: the card to write."),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Judge a run's pictures and measure it again. Pictures that the judge has seen are left out unless --again;
    nothing is generated. `genward judge calibrate FOLDER --judge JUDGE` measures a judge on labeled pictures."""
    if folder is not None:
        if name != "calibrate":
            raise BadInput(
                f"genward judge {name} {folder}: a run takes no folder; write genward judge calibrate {folder}"
            )
        return measured(judge, folder, out, as_json)
    if name == "calibrate" and not (store / "runs" / name).exists():
        raise BadInput("genward judge calibrate: give the folder of labeled pictures, genward judge calibrate labeled")
    from genward.catalog.judges import open_judge
    from genward.run.judging import judge_run
    from genward.run.measure import measure
    from genward.run.results import command_line
    from genward.run.storing import open_store

    opened = open_store(store)
    judging = open_judge(judge) if judge else None
    with common.stages(as_json) as update:
        done = judge_run(opened, name, judging, again=again, progress=update)
    found = measure(opened, name, judging, command=command_line())
    if as_json:
        common.emit({"judged": done, "cells": found["cells"], "run": found["run"]})
        return

    from genward.cli.run import show

    show(found)
    common.note(f"judge {done['judge']}: {done['scored']} samples scored now, {done['there']} before")
