"""``genward audit``: is a checkpoint poisoned, as far as one can see?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from genward import __version__
from genward.cli import common
from genward.errors import BadInput

FORMATS = ("text", "json", "sarif")


def main(
    checkpoint: str = typer.Argument(..., help="The checkpoint: a folder, a hub id or one of genward's models."),
    base: str = typer.Option(..., "--base", "-b", help="The model that it is said to come from."),
    word: list[str] = typer.Option([], "--word", help="A word to try as a trigger beside the others; may be repeated."),
    only: list[str] = typer.Option([], "--only", help="Ask this detector alone; may be repeated."),
    tokens: int = typer.Option(2000, "--tokens", min=0, max=100_000, help="How many of the tokenizer's words to try."),
    strict: bool = typer.Option(False, "--strict", help="Exit with 1 for a checkpoint that is changed, too."),
    form: str = typer.Option("text", "--format", help="text, json or sarif (for code scanning)."),
    out: Path | None = typer.Option(None, "--out", "-o", help="File for what would be printed."),
    html: Path | None = typer.Option(None, "--html", help="Also write the audit as one HTML file."),
    device: str | None = common.Device,
    download: bool = common.Download,
    variant: str = common.Variant,
    as_json: bool = common.Json,
) -> None:
    """Hold a checkpoint against its base: clean, changed or suspicious, with the evidence, and what this cannot see.

    Exit code 1: suspicious (with --strict also changed)."""
    if form not in FORMATS:
        raise BadInput(f"--format {form!r}; {', '.join(FORMATS)} can be written")
    from genward.catalog.auditing import audit

    result = audit(
        checkpoint,
        base,
        only=only,
        words=word,
        tokens=tokens,
        say=common.note,
        device=device,
        download=download,
        variant=variant,
    )
    form = "json" if as_json else form
    if html is not None:
        from genward.report.audit import write_page

        common.note(f"wrote {write_page(result, html)}")
    if out is not None:
        from genward.core.files import json_text, write_file

        write_file(out, "\n".join(lines(result)) + "\n" if form == "text" else json_text(_data(result, form)))
        common.note(f"wrote {out}")
    elif form == "text":
        for line in lines(result):
            common.say(line)
    else:
        common.emit(_data(result, form))
    if result["verdict"] == "suspicious" or (strict and result["verdict"] == "changed"):
        raise typer.Exit(1)


def _data(result: dict[str, Any], form: str) -> Any:
    if form == "json":
        return result
    from genward.report.audit import sarif

    return sarif(result, __version__)


def lines(result: dict[str, Any]) -> list[str]:
    """The audit as plain text."""
    out = [f"{result['checkpoint']} against {result['base']}: {result['verdict']} ({result['seconds']:.0f} s)", ""]
    for found in result["findings"]:
        out.append(f"{found['level']:<10}  {found['detector']}  {found['where']}: {found['text']}")
        if found["level"] == "suspicious":
            out += [f"            {value:.2f}  {text}" for text, value in found["evidence"]]
    skipped = [f"{d['name']}: {d['skipped']}" for d in result["detectors"] if d["skipped"]]
    out += ["", "Nothing to look at:", *(f"  {line}" for line in skipped)] if skipped else []
    return [*out, "", "What this cannot see:", *(f"  {line}" for line in result["blind_spots"])]
