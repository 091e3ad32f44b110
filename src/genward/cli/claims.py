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
    only_recorded: bool = typer.Option(
        False, "--recorded", help="The runs that come with genward alone, as where there is no store."
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Hold what papers claim against a run: holds, does not hold, cannot tell."""
    from genward.errors import BadInput
    from genward.run.best import best_claims, measured, recorded, recorded_claims
    from genward.run.storing import open_store, read_run

    if name and only_recorded:
        raise BadInput("a run's name and --recorded exclude each other; give one")
    if not name and not only_recorded and not store.exists():
        common.note(f"no store at {store}: these are the runs that come with genward (genward run … makes your own)")
        only_recorded = True
    if name:
        found = best_claims(dict([read_run(store, name)]), {})
    elif only_recorded:
        found = recorded_claims(recorded())
    else:
        found = best_claims(measured(open_store(store)), recorded())
    if as_json:
        common.emit(found)
        return
    common.table([{**row, "interval": interval(row)} for row in found["claims"]], COLUMNS)
    common.note("each row's command: genward claims --json")
