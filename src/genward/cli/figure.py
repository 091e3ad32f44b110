"""``genward figure``: a run's figure for a paper."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.core.files import write_file


def main(
    name: str = typer.Argument("", metavar="[RUN]", help="Name of the run; by default the one measured last."),
    kind: str = typer.Option("matrix", "--kind", "-k", help="matrix, trade-off or grid."),
    out: Path = typer.Option(..., "--out", "-o", help="File that ends in .svg, .png or .pdf."),
    title: str = typer.Option("", "--title", help="Which one, where there are several: a concept, a prompt variant."),
    rows: int = typer.Option(6, "--rows", min=1, max=50, help="Rows of a grid: one a prompt."),
    dpi: int = typer.Option(300, "--dpi", min=72, max=1200, help="Of png; svg and pdf are vectors."),
    blur: bool = typer.Option(True, "--blur/--no-blur", help="Whether pictures that may show the concept are blurred."),
    store: Path = common.StoreFolder,
) -> None:
    """Write a run's matrix, trade-off or sample grid as a figure of its own."""
    from genward.report.figure import draw, encoded
    from genward.run.reporting import sections_of
    from genward.run.storing import open_store, read_run

    encoded("", out.suffix, dpi)
    name, metrics = read_run(store, name)
    text = draw(sections_of(metrics), open_store(store), kind, title=title, rows=rows, blur=blur)
    write_file(out, encoded(text, out.suffix, dpi))
    common.note(f"wrote {out} ({kind} of run {name})")
