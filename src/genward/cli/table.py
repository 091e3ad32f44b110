"""``genward table``: a run's figures as CSV, Markdown or LaTeX."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from genward.cli import common
from genward.core.files import json_text, write_file
from genward.errors import BadInput, UnknownName


def rows_of(store: Path, name: str, columns: Sequence[str], where: Mapping[str, str]) -> list[dict[str, Any]]:
    """A run's rows, each with these columns, all by default; ``None`` where one was not scored."""
    from genward.run import comparing

    for column in columns:
        if column not in comparing.ROW_COLUMNS:
            raise UnknownName("column of the rows", column, comparing.ROW_COLUMNS)
    found = comparing.picked_rows(comparing.rows_of(store, name), where)
    return [{k: None if row[k] != row[k] else row[k] for k in columns or comparing.ROW_COLUMNS} for row in found]


def main(
    name: str = typer.Argument("", metavar="[RUN]", help="Name of the run; by default the one measured last."),
    form: str = typer.Option("csv", "--format", "-f", help="csv (all digits), markdown or latex (booktabs)."),
    columns: str = typer.Option("", "--columns", "-c", help="Figures, as arm,variant,crr; all by default."),
    where: list[str] = typer.Option([], "--where", "-w", help="Only cells with this, as variant=name; repeatable."),
    digits: int = typer.Option(2, "--digits", min=0, max=9, help="Digits after the point in markdown and latex."),
    by_row: bool = typer.Option(
        False, "--rows", help="The rows with the judge's answers, as CSV, instead of the cells."
    ),
    out: Path | None = typer.Option(None, "--out", "-o", help="File for what would be printed."),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Print a run's cells, or its rows, as a table for a paper or a notebook."""
    from genward.run.storing import read_run
    from genward.run.tabling import as_csv, chosen_cells, table

    wanted = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--where {text!r} is not column=value; write it as in variant=name")
        wanted[key.strip()] = value.strip()
    chosen = [c.strip() for c in columns.split(",") if c.strip()]
    if form != "csv" and (by_row or as_json):
        raise BadInput(f"--{'json' if as_json else 'rows'} with --format {form}; leave one of them out")
    if by_row:
        rows = rows_of(store, name, chosen, wanted)
        text = json_text({"rows": rows}) if as_json else as_csv(rows, list(rows[0]), {})
    elif as_json:
        text = json_text({"cells": chosen_cells(read_run(store, name)[1], chosen, wanted)})
    else:
        text = table(read_run(store, name)[1], form, columns=chosen, where=wanted, digits=digits)
    if out is None and as_json:
        common.emit(json.loads(text))
        return
    if out is None:
        for line in text.splitlines():
            common.say(line)
        return
    write_file(out, text)
    common.note(f"wrote {out}")
