"""What the subcommands share: options, output of data, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import typer

from genward.core.config import store_folder
from genward.core.files import json_text
from genward.core.reading import printable
from genward.core.records import MAX_SEED

Json = typer.Option(False, "--json", help="Print JSON.")
ModelName = typer.Option("lab", "--model", "-m", help="lab, lab:oracle, a hub id or a folder.")
Device = typer.Option(None, "--device", help="cpu, cuda, …; by default the best there is.")
Dtype = typer.Option(None, "--dtype", help="float32 (default), float16 or bfloat16.")
Variant = typer.Option("", "--variant", help="Which copy of the weights to read where a folder holds several, as fp16.")
Download = typer.Option(False, "--download", help="Fetch a hub id that is not on this machine.")
Negative = typer.Option("", "--negative", help="Negative prompt of your own.")
FirstSeed = typer.Option(
    0, "--seed", min=0, max=MAX_SEED, help="Seed of the first picture of a prompt; the next ones count up."
)
Steps = typer.Option(20, "--steps", min=1, max=1000, help="Sampling steps.")
Guidance = typer.Option(4.0, "--guidance", "-g", min=0, max=100, help="Classifier-free guidance.")
Refit = typer.Option(False, "--refit", help="Fit again, even where a fitted one is at hand.")
Fit = typer.Option(False, "--fit", help="Fit what is not at hand for this model, which may take minutes.")

WHERE = "$GENWARD_STORE, genward.toml, or genward-store"
StoreFolder = typer.Option(
    store_folder, "--store", "-s", help="Folder that keeps pictures, scores and runs.", show_default=WHERE
)


def emit(data: Any) -> None:
    """Print ``data`` as JSON on stdout; numbers that are not finite become ``null``, letters that the console lacks
    or must not be sent stand as ``\\u001b``."""
    text, encoding = json_text(data), getattr(sys.stdout, "encoding", None) or "utf-8"
    if printable(text) != text or text.encode(encoding, "replace").decode(encoding) != text:
        text = "".join(c if c.isascii() and (c == "\n" or c.isprintable()) else json.dumps(c)[1:-1] for c in text)
    print(text, end="")


def say(text: object = "") -> None:
    """Print a text on stdout as a terminal may show it: whatever came from outside cannot steer it."""
    print(printable(text))


def cell(value: Any) -> str:
    """A value as it stands in a table: numbers with three digits, nothing for missing ones."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else printable(" ".join(str(value).split("\n")))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print rows as aligned text on stdout: one line a row, as wide as it needs to be, so that scripts can cut it."""
    lines = [[c.replace("_", " ") for c in columns], *([cell(r.get(c)) for c in columns] for r in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(columns))]
    for line in lines:
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def note(line: str) -> None:
    """A line for the person, on stderr, as a terminal may show it."""
    print(printable(line), file=sys.stderr)


class Update(Protocol):
    """Told how far a stage is."""

    def __call__(self, stage: str, done: int, total: int, about: str = "") -> None: ...


class Lines:
    """Progress as plain lines, one at each tenth of the way: for logs. A stage with another total is another stretch of
    it."""

    def __init__(self) -> None:
        self.told: dict[tuple[str, int], int] = {}
        self.began: dict[tuple[str, int], tuple[float, int]] = {}

    def __call__(self, stage: str, done: int, total: int, about: str = "") -> None:
        now = time.monotonic()
        began, before = self.began.setdefault((stage, total), (now, done))
        tenth = 10 * done // max(1, total)
        if tenth <= self.told.get((stage, total), -1):
            return
        self.told[stage, total] = tenth
        left = (now - began) / (done - before) * (total - done) if done > before else math.nan
        time_left = f", {left / 60:.1f} min left" if math.isfinite(left) and done < total else ""
        note(f"{stage} {done}/{total}{time_left}{f': {about}' if about else ''}")


@contextmanager
def stages(quiet: bool = False) -> Iterator[Update]:
    """Progress of several stages with the time left, on stderr: bars on a terminal, else a line at each tenth. Yields
    ``update(stage, done, total, about)``; ``about`` says what is in work and what comes next."""
    if quiet or not sys.stderr.isatty():
        yield (lambda stage, done, total, about="": None) if quiet else Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[about]}"),
    )
    tasks: dict[tuple[str, int], TaskID] = {}
    with Progress(*columns, console=Console(stderr=True), transient=True, speed_estimate_period=120) as bar:

        def update(stage: str, done: int, total: int, about: str = "") -> None:
            if (stage, total) not in tasks:
                tasks[stage, total] = bar.add_task(stage, total=total, completed=done, about=about)
            bar.update(tasks[stage, total], completed=done, total=total, about=about)

        yield update


@contextmanager
def progress(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar of one stage on a terminal, nothing elsewhere. Yields ``update(done, total)``."""
    with stages(quiet or not sys.stderr.isatty()) as update:
        yield lambda done, total: update(title, done, total)
