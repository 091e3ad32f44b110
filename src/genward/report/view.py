"""The reports of all runs of a store as a folder of static pages: a list of the runs, a page for each, linked from run
to run. Nothing has to be served; the folder can be copied anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote

from genward.core.blocks import Finding, Section
from genward.core.files import write_file
from genward.errors import GenwardError, StoreError
from genward.report.header import flat
from genward.report.page import Link, render
from genward.report.reading import Sections, Source, read
from genward.report.rendering import asset, environment
from genward.sections.arms import Metrics

INDEX = "index.html"
FOLDER = "runs"
"""Folder of the runs' pages, beside the list."""


class Shelf(Source, Protocol):
    """What of a store is read here (``genward.store.Store`` has it)."""

    def runs(self) -> list[str]: ...


class Entry(NamedTuple):
    """One run in the list."""

    name: str
    href: str
    """Empty where it has no page"""
    facts: tuple[tuple[str, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    why: str = ""
    """Why it has no page"""


def build_all(store: Shelf, out: Path, *, sections: Sections) -> tuple[Path, list[Entry]]:
    """Write the list and a page for each measured run, the newest first; where the list is, and what it holds.

    Args:
        out: the folder; pages that are there already are written again, others are left alone.
        sections: what a run's benchmark makes of its metrics.

    Raises:
        StoreError: a store without runs, or a folder that cannot be written.
    """
    names = store.runs()
    if not names:
        raise StoreError("no run in this store; make one with `genward run`")
    found: list[tuple[str, Metrics, list[Section]]] = []
    lost: list[Entry] = []
    for name in names:
        try:
            metrics, made, _ = read(store, name, sections)
            found.append((name, metrics, made))
        except GenwardError as error:
            lost.append(Entry(name, "", why=str(error)))
    found.sort(key=lambda each: (str(each[1]["run"].get("date", "")), each[0]), reverse=True)
    order = [name for name, *_ in found]
    entries = []
    for k, (name, metrics, made) in enumerate(found):
        page = render(metrics, made, store, name, links=links(order, k))
        _write(out / FOLDER / f"{name}.html", page)
        entries.append(_entry(name, metrics, made))
    entries += lost
    page = environment().get_template("runs.html").render(entries=entries, css=asset("report.css"))
    return _write(out / INDEX, page), entries


def links(order: Sequence[str], k: int) -> list[Link]:
    """From the page of run ``k`` to the list and to its neighbors in time."""
    found = [Link("all runs", f"../{INDEX}")]
    if k > 0:
        found.append(Link(f"newer: {order[k - 1]}", _href(order[k - 1])))
    if k + 1 < len(order):
        found.append(Link(f"older: {order[k + 1]}", _href(order[k + 1])))
    return found


def _href(name: str) -> str:
    return quote(f"{name}.html")


def _entry(name: str, metrics: Metrics, sections: Sequence[Section]) -> Entry:
    run = metrics["run"]
    facts = [(word, flat(run.get(key))) for word, key in (("Benchmark", "benchmark"), ("Model", "model"))]
    facts += [("Date", flat(run.get("date")).replace("T", " ")), ("Rows", flat(run.get("rows")))]
    facts += [("Arms", str(len(metrics["arms"]))), ("Commit", flat(run.get("commit"))[:12])]
    findings = tuple(f for s in sections for f in s.summary.findings)
    return Entry(name, f"{FOLDER}/{_href(name)}", tuple((w, v) for w, v in facts if v), findings)


def _write(path: Path, text: str) -> Path:
    try:
        write_file(path, text)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written: {error.strerror or error}; give another --out, or make room"
        ) from error
    return path
