"""``genward table``: a run's figures as CSV, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput, UnknownName


def rows_text(store: Path, name: str, columns: Sequence[str], where: Mapping[str, str]) -> str:
    """A run's rows as CSV."""
    from genward.run.comparing import ROW_COLUMNS, picked_rows, rows_of
    from genward.run.tabling import as_csv

    for column in columns:
        if column not in ROW_COLUMNS:
            raise UnknownName("column of the rows", column, ROW_COLUMNS)
    found = picked_rows(rows_of(store, name), where)
    shown = [{k: None if v != v else v for k, v in row.items()} for row in found]
    return as_csv(shown, list(columns) or list(ROW_COLUMNS), {})


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
) -> None:
    """Print a run's cells, or its rows, as a table for a paper or a notebook."""
    from genward.run.storing import read_run
    from genward.run.tabling import table

    wanted = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--where {text!r} is not column=value; write it as in variant=name")
        wanted[key.strip()] = value.strip()
    chosen = [c.strip() for c in columns.split(",") if c.strip()]
    if by_row:
        if form != "csv":
            raise BadInput(f"--rows with --format {form}: rows are written as csv")
        text = rows_text(store, name, chosen, wanted)
    else:
        text = table(read_run(store, name)[1], form, columns=chosen, where=wanted, digits=digits)
    if out is None:
        for line in text.splitlines():
            common.say(line)
        return
    from genward.core.files import write_file

    write_file(out, text)
    common.note(f"wrote {out}")
