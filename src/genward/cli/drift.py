"""``genward drift``: whether a guard's scores have moved since it was calibrated."""

from __future__ import annotations

from pathlib import Path

import typer

from genward.cli import common

COLUMNS = (
    "guard", "reference", "then", "now", "median_then", "median_now", "threshold", "over", "low", "high",
    "psi", "limit", "verdict",
)  # fmt: skip


def main(
    audit: Path = typer.Argument(..., help="Audit records, as --audit wrote them."),
    policy: str | None = typer.Option(
        None, "--policy", "-p", help="Calibrated policy; its calibration is the reference."
    ),
    against: Path | None = typer.Option(None, "--against", help="Earlier audit records, as the reference."),
    strict: bool = typer.Option(False, "--strict", help="Exit with 1 where a guard's scores have moved."),
    as_json: bool = common.Json,
) -> None:
    """Hold the scores of an audit against calibration, an earlier audit, or their own first half."""
    from genward.serve.drift import drift
    from genward.serve.policy import load_policy

    found = drift(audit, None if policy is None else load_policy(policy), against)
    rows = [one._asdict() for one in found]
    if as_json:
        common.emit(rows)
    else:
        common.table(rows, COLUMNS)
    if strict and any(one.verdict == "moved" for one in found):
        raise typer.Exit(1)
