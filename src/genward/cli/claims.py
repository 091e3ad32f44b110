"""``genward claims``: what the papers claim, what was measured, and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from genward.cli import common

COLUMNS = ("id", "system", "statement", "paper", "ours", "interval", "n", "verdict", "reason", "why", "run")


def interval(row: dict[str, Any]) -> str:
    """``low … high`` as it stands in the table."""
    return "-" if row["low"] is None else f"{row['low']:.2f} … {row['high']:.2f}"


def main(
    name: str = typer.Argument(
        "",
        metavar="[RUN]",
        help="Name of the run; by default, for each claim, the largest one that measured it, then a recorded one.",
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Hold what papers claim against a run: holds, does not hold, cannot tell."""
    from genward.run.best import best_claims, measured, recorded
    from genward.run.storing import open_store, read_run

    if name:
        found = best_claims(dict([read_run(store, name)]), {})
    else:
        found = best_claims(measured(open_store(store)), recorded())
    if as_json:
        common.emit(found)
        return
    common.table([{**row, "interval": interval(row)} for row in found["claims"]], COLUMNS)
    common.note("each row's command: genward claims --json")
