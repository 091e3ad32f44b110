"""One self-contained HTML file of a run: no request leaves the page, equal input gives equal bytes.

Page: header, summary, the benchmark's sections in its order, claims, judges, how to do it again, glossary."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from genward.core.blocks import Section, Term
from genward.core.files import write_file
from genward.errors import BadInput, StoreError
from genward.report.claims import section as claims_of
from genward.report.header import facts
from genward.report.judges import pairs
from genward.report.judges import section as judges_of
from genward.report.media import Album
from genward.report.reading import Sections, Source, read
from genward.report.rendering import Renderer, asset, environment
from genward.sections.arms import Metrics, arms

OWN = ("summary", "claims", "judges", "again", "glossary")
"""Ids of the page's own sections."""


def build(store: Source, run: str, out: Path | None = None, *, sections: Sections) -> Path:
    """Write the report of a measured run and return where it is.

    Args:
        store: where the run, its metrics and its samples are (``genward.store.Store``).
        run: the run's name.
        out: file to write, or an existing folder; ``report.html`` in the run's folder by default.
        sections: what the run's benchmark makes of its metrics (``Benchmark.sections``).

    Raises:
        StoreError: no such run, not measured yet, corrupt or foreign metrics, or the file cannot be written.
        BadInput: two sections of one id.
    """
    metrics, found, folder = read(store, run, sections)
    path = folder / "report.html" if out is None else Path(out)
    if path.is_dir():
        path = path / "report.html"
    return _write(path, render(metrics, found, store, run))


class Link(NamedTuple):
    """A way to another page."""

    text: str
    href: str
    """Relative to the page"""


def render(
    metrics: Metrics, sections: Sequence[Section], store: Source, run: str = "", links: Sequence[Link] = ()
) -> str:
    """The page as text.

    Args:
        metrics: as ``reading.check`` returns them.
        sections: the benchmark's, in reading order; one without blocks adds to summary and glossary only.
        store: where samples are read from.
        run: a name for the page where the metrics have none.
        links: ways to other runs' pages, shown on top.
    """
    own = [claims_of(metrics), judges_of(metrics)]
    ids = [*(s.id for s in sections), *OWN]
    if len(set(ids)) < len(ids):
        twice = sorted({i for i in ids if ids.count(i) > 1})
        raise BadInput(f"two sections of the page have the id {', '.join(twice)}; {', '.join(OWN)} are the page's own")
    album, env = Album(store), environment()
    renderer = Renderer(env, album)
    drawn = [(s, renderer.section(s)) for s in (*sections, *own) if s.blocks]
    about = metrics["run"]
    script = asset("report.js")
    return env.get_template("page.html").render(
        title=str(about.get("name") or run),
        facts=facts(about),
        links=links,
        run={"commit": "", "dirty": None, **about},
        command=_command(about.get("command")) if about.get("command") else "",
        versions=pairs(about.get("versions")),
        findings=[f for s in sections for f in s.summary.findings],
        cautions=[*(c for s in (*sections, *own) for c in s.summary.cautions), *cautions(metrics, album)],
        sections=drawn,
        arms=arms(metrics),
        glossary=glossary(sections),
        css=asset("report.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def glossary(sections: Sequence[Section]) -> list[Term]:
    """Every word once, in the order of the sections."""
    found: dict[str, Term] = {}
    for term in (t for s in sections for t in s.terms):
        found.setdefault(term.word, term)
    return list(found.values())


def cautions(metrics: Metrics, album: Album) -> list[str]:
    """What the page itself has to say: a dirty checkout, samples that are missing or had no room."""
    out = []
    if metrics["run"].get("dirty"):
        out.append("The code had uncommitted changes: the commit alone does not reproduce this run.")
    lost, left_out = len(album.lost), album.left_out
    if lost:
        out.append(
            f"{lost} sample{'s are' if lost > 1 else ' is'} named by the run but missing or unreadable in the store; "
            "their tiles say so."
        )
    if left_out:
        out.append(
            f"{left_out} strip{'s were' if left_out > 1 else ' was'} left out to keep this file small; the samples are "
            "in the store."
        )
    return out


def _command(value: Any) -> str:
    return shlex.join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _write(path: Path, text: str) -> Path:
    """Written whole or not at all, so that a reader never sees half a page."""
    try:
        write_file(path, text)
    except OSError as error:
        raise StoreError(
            f"the report cannot be written to {path}: {error.strerror or error}; give another --out, or make room"
        ) from error
    return path
