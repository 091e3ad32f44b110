"""``genward table``: a run's figures as CSV, Markdown or LaTeX."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.errors import BadInput


def main(
    name: str = typer.Argument("", metavar="[RUN]", help="Name of the run; by default the one measured last."),
    form: str = typer.Option("csv", "--format", "-f", help="csv (all digits), markdown or latex (booktabs)."),
    columns: str = typer.Option("", "--columns", "-c", help="Figures, as arm,variant,crr; all by default."),
    where: list[str] = typer.Option([], "--where", "-w", help="Only cells with this, as variant=name; repeatable."),
    digits: int = typer.Option(2, "--digits", min=0, max=9, help="Digits after the point in markdown and latex."),
    out: Path | None = typer.Option(None, "--out", "-o", help="File for what would be printed."),
    store: Path = common.StoreFolder,
) -> None:
    """Print a run's cells as a table for a paper or a notebook."""
    from genward.run.storing import read_run
    from genward.run.tabling import table

    wanted = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"--where {text!r} is not column=value; write it as in variant=name")
        wanted[key.strip()] = value.strip()
    _, metrics = read_run(store, name)
    chosen = [c.strip() for c in columns.split(",") if c.strip()]
    text = table(metrics, form, columns=chosen, where=wanted, digits=digits)
    if out is None:
        for line in text.splitlines():
            common.say(line)
        return
    from genward.core.files import write_file

    write_file(out, text)
    common.note(f"wrote {out}")
