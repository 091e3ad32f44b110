"""``genward labels``: a sheet of a run's pictures to label by hand, and the judge's error rates from it."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput


def main(
    name: str = typer.Argument(..., metavar="RUN", help="Name of the run, of the lab's pictures."),
    out: Path | None = typer.Option(None, "--out", help="Folder for sheet.html and labels.csv."),
    labels: Path | None = typer.Option(
        None, "--labels", help="The labels.csv, filled in; the run is measured again with it."
    ),
    per: int = typer.Option(50, "--per", min=1, help="Pictures a concept, class of arm and answer of the judge."),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Make a sheet of a run's pictures to label by hand (--out), or read the labels back (--labels)."""
    from genward.run.labels import read_labels, sheet
    from genward.run.measure import measure
    from genward.run.results import command_line
    from genward.run.storing import open_store

    opened = open_store(store)
    if labels is None:
        if out is None:
            raise BadInput("give --out FOLDER to make a sheet, or --labels FILE to read it back")
        count = sheet(opened, name, out, per)
        common.note(f"{count} pictures: look at {out / 'sheet.html'}, fill in {out / 'labels.csv'}")
        return
    found = read_labels(opened, name, labels)
    rows = [{"concept": c, "arms": a, **rates} for c, table in found.items() for a, rates in table.items()]
    measure(opened, name, command=command_line())
    if as_json:
        common.emit({"errors": found})
        return
    common.table(rows, ["concept", "arms", "sensitivity", "specificity", "positives", "negatives"])
