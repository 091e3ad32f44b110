"""``genward view``: the reports of all runs of a store as a small local site of static files."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import typer

from genward.cli import common

FOLDER = "view"


def main(
    store: Path = common.StoreFolder,
    out: Path | None = typer.Option(None, "--out", "-o", help="Folder to write; by default view/ in the store."),
    show: bool = typer.Option(False, "--open", help="Open the list in the browser."),
    as_json: bool = common.Json,
) -> None:
    """Write a page for every measured run and a list of them, linked from run to run. No server is needed."""
    from genward.report import build_all
    from genward.run.reporting import sections_of
    from genward.run.storing import open_store

    opened = open_store(store)
    path, entries = build_all(opened, opened.root / FOLDER if out is None else out, sections=sections_of)
    if as_json:
        runs = [{"name": e.name, "page": e.href or None, "why": e.why} for e in entries]
        common.emit({"index": str(path), "runs": runs})
    else:
        for entry in entries:
            if entry.why:
                common.note(f"{entry.name}: no page ({entry.why})")
        common.say(path)
    if show:
        webbrowser.open(path.absolute().as_uri())
