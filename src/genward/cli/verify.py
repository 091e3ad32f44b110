"""``genward verify``: are a run's recorded figures those that its pictures give?"""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common


def main(
    name: str = typer.Argument(..., metavar="RUN", help="Name of the run."),
    judge: str = typer.Option("", "--judge", "-j", help="Judge that the figures are from; by default the run's own."),
    rejudge: bool = typer.Option(
        True, "--rejudge/--no-rejudge", help="Judge the pictures again too; without it only figures are recomputed."
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Judge a run's pictures again, compute its figures again, and say what differs from the record: exit code 1 then.
    Nothing is written."""
    from genward.catalog.judges import open_judge
    from genward.run.storing import open_store
    from genward.run.verify import verify

    opened = open_store(store)
    with common.stages(as_json) as update:
        found = verify(opened, name, open_judge(judge) if judge else None, rejudge=rejudge, progress=update)
    if as_json:
        common.emit({"run": name, "judged": found.judged, "differences": found.differences})
    else:
        for line in found.differences:
            common.say(line)
        n = len(found.differences)
        what = f"{n} difference{'s' * (n != 1)}" if n else "as recorded"
        common.note(f"run {name}: {what}; {found.judged} picture{'s' * (found.judged != 1)} judged again")
    if found.differences:
        raise typer.Exit(1)
