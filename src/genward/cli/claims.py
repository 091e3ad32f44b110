"""``genward claims``: what the papers claim, what was measured, and a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from genward.cli import common

COLUMNS = ("id", "system", "statement", "paper", "ours", "interval", "verdict")


def interval(row: dict[str, Any]) -> str:
    """``low … high`` as it stands in the table."""
    return "-" if row["low"] is None else f"{row['low']:.2f} … {row['high']:.2f}"


def main(
    name: str = typer.Argument(
        "", metavar="[RUN]", help="Name of the run; by default the newest measured one of each benchmark."
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Hold what papers claim against a run: holds, does not hold, cannot tell."""
    from genward.run.claims import claims
    from genward.run.storing import newest_of_each, open_store, read_run

    runs = [name] if name else newest_of_each(open_store(store))
    found = {"claims": [row for run in runs for row in claims(read_run(store, run)[1])["claims"]]}
    if as_json:
        common.emit(found)
        return
    common.table([{**row, "interval": interval(row)} for row in found["claims"]], COLUMNS)
    common.note(f"measured on {', '.join(runs)}; each row's command: genward claims --json")
