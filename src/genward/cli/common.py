"""What the subcommands share: options, output of data, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

STORE = Path("genward-store")

Json = typer.Option(False, "--json", help="Print JSON.")
ModelName = typer.Option("lab", "--model", "-m", help="lab, lab:oracle, a hub id or a folder.")
Device = typer.Option(None, "--device", help="cpu, cuda, …; by default the best there is.")
Dtype = typer.Option(None, "--dtype", help="float32 (default), float16 or bfloat16.")
Download = typer.Option(False, "--download", help="Fetch a hub id that is not on this machine.")
Refit = typer.Option(False, "--refit", help="Fit again, even where a fitted one is at hand.")
StoreFolder = typer.Option(STORE, "--store", "-s", help="Folder that keeps pictures, scores and runs.")


def emit(data: Any) -> None:
    """Print ``data`` as JSON on stdout; numbers that are not finite become ``null``."""
    print(json.dumps(_finite(data), indent=1, ensure_ascii=False, default=str))


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def cell(value: Any) -> str:
    """A value as it stands in a table: numbers with three digits, nothing for missing ones."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as aligned text on stdout: one line a row, as wide as it needs to be, so that scripts can cut it."""
    lines = [[c.replace("_", " ") for c in columns], *([cell(r.get(c)) for c in columns] for r in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def note(line: str) -> None:
    """A line for the person, on stderr."""
    print(line, file=sys.stderr)


@contextmanager
def progress(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with the time left, on stderr; nothing where stderr is not a terminal, or ``quiet``. Yields ``update(done, total)``."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it: nothing half-written ever stands under the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        write(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
