"""``genward judge``: a judge on the pictures of a run, and the run measured by it."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common


def main(
    name: str = typer.Argument(..., metavar="RUN", help="Name of the run."),
    judge: str = typer.Option(
        "", "--judge", "-j", help="Judge to use; by default the run's own. See genward list judges."
    ),
    again: bool = typer.Option(
        False, "--again", help="Score every picture anew, in place of the scores that are there."
    ),
    store: Path = common.StoreFolder,
    as_json: bool = common.Json,
) -> None:
    """Judge a run's pictures and measure it again. Pictures that the judge has seen are left out unless --again;
    nothing is generated."""
    from genward.catalog.judges import open_judge
    from genward.run.judging import judge_run
    from genward.run.measure import measure
    from genward.run.results import command_line
    from genward.run.storing import open_store

    opened = open_store(store)
    judging = open_judge(judge) if judge else None
    with common.stages(as_json) as update:
        done = judge_run(opened, name, judging, again=again, progress=update)
    found = measure(opened, name, judging, command=command_line())
    if as_json:
        common.emit({"judged": done, "cells": found["cells"], "run": found["run"]})
        return

    from genward.cli.run import show

    show(found)
    common.note(f"judge {done['judge']}: {done['scored']} samples scored now, {done['there']} before")
