"""``genward check``: is everything in a store whole and true to its name?"""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common


def main(store: Path = common.StoreFolder, as_json: bool = common.Json) -> None:
    """Read and verify a whole store; print what is damaged and exit 3 if anything is."""
    from genward.catalog.fitting import damaged_fits
    from genward.run.storing import open_store

    opened = open_store(store)
    problems = [*opened.check(), *damaged_fits(opened.root / "fits")]
    if as_json:
        common.emit(
            {"store": str(opened.root), "arms": len(opened.arms()), "runs": opened.runs(), "problems": problems}
        )
    else:
        for line in problems:
            common.say(line)
        common.note(f"{opened.root}: {len(problems) or 'no'} problem{'' if len(problems) == 1 else 's'}")
    if problems:
        raise typer.Exit(3)
