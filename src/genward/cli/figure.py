"""``genward figure``: a run's figure for a paper."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common
from genward.core.files import write_file
from genward.errors import BadInput


def main(
    name: str = typer.Argument("", metavar="[RUN]", help="Name of the run; by default the one measured last."),
    kind: str = typer.Option("matrix", "--kind", "-k", help="matrix, trade-off or grid."),
    out: Path = typer.Option(..., "--out", "-o", help="File that ends in .svg, .png or .pdf."),
    title: str = typer.Option("", "--title", help="Which one, where there are several: a concept, a prompt variant."),
    rows: int | None = typer.Option(
        None, "--rows", min=1, max=50, help="Rows of a grid: one a prompt.", show_default="6"
    ),
    dpi: int = typer.Option(300, "--dpi", min=72, max=1200, help="Of png; svg and pdf are vectors."),
    blur: bool | None = typer.Option(
        None,
        "--blur/--no-blur",
        help="Whether pictures of a grid that may show the concept are blurred.",
        show_default="blur",
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Write a run's matrix, trade-off or sample grid as a figure of its own."""
    from genward.report.figure import draw, encoded
    from genward.run.reporting import sections_of
    from genward.run.storing import open_store, read_run

    if kind in ("matrix", "trade-off"):
        if rows is not None:
            raise BadInput(f"--rows: a {kind} has none to choose; --kind grid has")
        if blur is not None:
            raise BadInput(f"--{'' if blur else 'no-'}blur: a {kind} has no pictures; --kind grid has")
    encoded("", out.suffix, dpi)
    name, metrics = read_run(store, name)
    text = draw(sections_of(metrics), open_store(store), kind, title=title, rows=rows or 6, blur=blur is not False)
    write_file(out, encoded(text, out.suffix, dpi))
    if as_json:
        common.emit({"run": name, "kind": kind, "figure": str(out)})
    common.note(f"wrote {out} ({kind} of run {name})")
