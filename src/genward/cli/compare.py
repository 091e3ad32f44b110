"""``genward compare``: two runs, row by row."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common

COLUMNS = ("arm", "concept", "variant", "label", "pairs", "first", "second", "difference", "low", "high", "why")


def main(
    first: str = typer.Argument(..., help="Name of a run."),
    second: str = typer.Argument(..., help="Name of another."),
    store: Path = common.StoreFolder,
    other: Path | None = typer.Option(None, "--other-store", help="Store of the second run, where it is another."),
    as_json: bool = common.Json,
) -> None:
    """Hold two runs against each other on rows of equal case and seed: raw rates, and second less first."""
    from genward.run.comparing import compare

    found = [one._asdict() for one in compare((store, first), (other or store, second))]
    if as_json:
        common.emit(found)
    else:
        common.table(found, COLUMNS)
