"""``genward report``: a run as one HTML file that opens offline."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import typer

from genward.cli import common


def main(
    name: str = typer.Argument("", metavar="[RUN]", help="Name of the run; by default the one measured last."),
    store: Path = common.StoreFolder,
    out: Path | None = typer.Option(
        None, "--out", "-o", help="File to write; by default report.html beside the run's metrics."
    ),
    data: Path | None = typer.Option(
        None, "--data", help="Also write the run's figures (run, arms, cells, attacks, claims) into this JSON file."
    ),
    show: bool = typer.Option(False, "--open", help="Open it in the browser."),
    as_json: bool = common.Json,
) -> None:
    """Write a run's report: one self-contained HTML file. Needs the store alone."""
    from genward.report import build
    from genward.run.reporting import sections_of
    from genward.run.storing import newest, open_store

    opened = open_store(store)
    name = name or newest(opened)
    path = build(opened, name, out, sections=sections_of)
    if data is not None:
        from genward.run.results import keep
        from genward.run.storing import read_run

        keep(read_run(store, name)[1], data)
    if as_json:
        common.emit({"run": name, "report": str(path), "bytes": path.stat().st_size})
    else:
        common.say(path)
    if show:
        webbrowser.open(path.absolute().as_uri())
