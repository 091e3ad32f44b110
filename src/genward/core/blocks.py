"""What a report is made of, as plain data: tables, matrices, plots, sample grids, curves and players, grouped in
sections.

A benchmark turns its metrics into sections (``sections(metrics) -> list[Section]``); the report draws them and knows no
benchmark by name. Numbers come twice: as a value, which sorts and is drawn, and as the text that a reader sees. Media
come by content hash and are read from the store when the page is drawn. All text is plain text; the page escapes it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from genward.errors import BadInput

ROLES = ("", "base", "oracle", "control", "defense")
"""What a row, point or tile stands for: nothing in particular, one of the three kinds of control, or what is tested."""
TONES = ("", "good", "warn", "bad")
"""Color of a chip or a text; it repeats what the words say and never carries meaning alone."""
KINDS = ("number", "text", "code")
"""How a column sorts and is set: by number, by text, or not at all and in a monospaced face."""
BETTER = ("", "less", "more")
STATUSES = ("ok", "refused", "error", "none")
"""Of a tile: a sample, refused by a defense, failed, or never made."""


# ---------------------------------------------------------------------------------------------------------------- prose


@dataclass(frozen=True)
class Heading:
    """A heading within a section, one level below the section's own."""

    text: str
    note: str = ""
    """Small print on the same line"""


@dataclass(frozen=True)
class Text:
    """One paragraph of small print: how to read what follows, or what is missing."""

    text: str
    tone: str = ""
    """One of ``TONES``"""

    def __post_init__(self) -> None:
        _one_of(self.tone, TONES, "tone", "text")


@dataclass(frozen=True)
class Chip:
    """A word in a small frame beside a label: ``front``, ``holds``."""

    text: str
    tone: str = ""
    """One of ``TONES``"""
    hint: str = ""
    """Shown when pointed at"""

    def __post_init__(self) -> None:
        _one_of(self.tone, TONES, "tone", f"chip {self.text!r}")


@dataclass(frozen=True)
class Facts:
    """Words and values side by side, where a table would be too much."""

    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Box:
    """Blocks behind one line that opens on a click: a judge's card, an arm's specification."""

    title: str
    blocks: tuple[Block, ...]
    code: str = ""
    """A hash or a name in a monospaced face, after the title"""
    line: str = ""
    """What is inside, in one sentence; visible while closed"""


# --------------------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    kind: str = "number"
    """One of ``KINDS``; ``code`` columns do not sort"""
    hint: str = ""
    """What the column holds, shown when pointed at"""
    better: str = ""
    """``less`` | ``more``: which direction is better; empty where neither is"""

    def __post_init__(self) -> None:
        _one_of(self.kind, KINDS, "kind", f"column {self.name!r}")
        _one_of(self.better, BETTER, "direction", f"column {self.name!r}")


@dataclass(frozen=True)
class Cell:
    """One figure or word of a table or matrix."""

    value: float | str | None
    """What sorts, and shades a matrix's cell (then from 0 to 1). ``None``: unknown; sorts last in both directions"""
    text: str
    """What is read; a dash for what is unknown"""
    interval: str = ""
    """The interval as text, ``41–73``; empty where there is none"""
    note: str = ""
    """Small print below: ``n 24``"""
    warning: str = ""
    """Small print that must not be overlooked: ``3 unscored``"""
    more: tuple[str, ...] = ()
    """Lines that are shown on request, by the switch that ``Matrix.more`` names"""
    why: str = ""
    """Why there is no number, or what is odd about it"""
    chip: Chip | None = None
    """Shown in the place of ``text``"""


@dataclass(frozen=True)
class Row:
    """One row: its label, and a cell for each column after the first."""

    label: str
    cells: tuple[Cell | None, ...]
    """``None``: this was not run"""
    role: str = ""
    """One of ``ROLES``; the three kinds of control are marked as such"""
    note: str = ""
    """Small print below the label"""
    chips: tuple[Chip, ...] = ()

    @property
    def control(self) -> bool:
        """Whether it is a control: there to compare with, not under test."""
        return self.role in ("base", "oracle", "control")

    def __post_init__(self) -> None:
        _one_of(self.role, ROLES, "role", f"row {self.label!r}")


@dataclass(frozen=True)
class Table:
    """A table whose columns sort by a click on their heads."""

    columns: tuple[Column, ...]
    """The first one is the head of the rows' labels"""
    rows: tuple[Row, ...]
    title: str = ""
    """Its visible caption; may be empty where the section's heading says it all"""
    label: str = ""
    """Its name for screen readers, where it has no title"""
    sortable: bool = True

    def __post_init__(self) -> None:
        _rectangular(self.title or self.label, self.columns, self.rows)


@dataclass(frozen=True)
class Matrix:
    """A heat map: arms by columns (prompt variants, attack vectors), for one concept. Cells are shares from 0 to 1."""

    title: str
    """The concept"""
    columns: tuple[Column, ...]
    """The first one is the head of the arms' labels"""
    rows: tuple[Row, ...]
    low: str = "0 %"
    """What the color of the value 0 means, in the legend"""
    high: str = "100 %"
    """What the color of the value 1 means, in the legend"""
    more: str = ""
    """Label of the switch that shows the cells' ``more``; empty: no switch"""

    def __post_init__(self) -> None:
        _rectangular(self.title, self.columns, self.rows)
        for row in self.rows:
            for cell in row.cells:
                if cell is not None and cell.value is not None and not isinstance(cell.value, int | float):
                    raise BadInput(
                        f"matrix {self.title!r}, row {row.label!r}: the value {cell.value!r} is text; a matrix takes "
                        "shares from 0 to 1, a Table takes text"
                    )


# ---------------------------------------------------------------------------------------------------------------- plots


@dataclass(frozen=True)
class Axis:
    """One axis of a plot."""

    name: str
    """With unit and direction: ``benign blocked, % (less is better)``"""
    ticks: tuple[tuple[float, str], ...]
    """(value, text), rising; the first and the last are the ends of the axis"""

    def __post_init__(self) -> None:
        values = [v for v, _ in self.ticks]
        if len(values) < 2 or any(a >= b for a, b in zip(values, values[1:], strict=False)):
            raise BadInput(f"axis {self.name!r}: ticks {values}; give at least two, rising")


@dataclass(frozen=True)
class Point:
    """One arm in a plot. Ends of intervals are ``None`` where there is no interval."""

    label: str
    x: float
    y: float
    text: str
    """The point in words, for the tip and for screen readers"""
    role: str = "defense"
    """One of ``ROLES``; controls are drawn hollow"""
    x_low: float | None = None
    x_high: float | None = None
    y_low: float | None = None
    y_high: float | None = None

    def __post_init__(self) -> None:
        _one_of(self.role, ROLES, "role", f"point {self.label!r}")


@dataclass(frozen=True)
class Plot:
    """Points with intervals between two axes."""

    title: str
    x: Axis
    y: Axis
    points: tuple[Point, ...]
    said: str = ""
    """What is drawn, for screen readers; by default the title"""
    missing: tuple[str, ...] = ()
    """Labels of arms that lack one of the two figures"""


@dataclass(frozen=True)
class Choice:
    """Several plots of one kind in one place; the reader picks which one is shown, the first one at first."""

    title: str
    label: str
    """What is chosen: ``prompt variant``"""
    options: tuple[tuple[str, Plot], ...]
    """(word, plot) in the order of the menu"""

    def __post_init__(self) -> None:
        if not self.options:
            raise BadInput(f"choice {self.title!r} has no plot to choose; leave it out")


@dataclass(frozen=True)
class Curve:
    """A line over the steps of a search or a training, drawn small."""

    title: str
    values: tuple[float, ...]
    """At least two, one per step, as they are to be drawn"""
    name: str = "loss"
    """What is on the vertical axis"""
    steps: int = 0
    """How many steps the values stand for; 0: as many as there are values"""

    def __post_init__(self) -> None:
        if len(self.values) < 2:
            raise BadInput(f"curve {self.title!r} has {len(self.values)} values; a line needs two")


# -------------------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Shot:
    """One tile of a strip: a sample by the hash of its content, or the reason why there is none."""

    label: str
    """The arm"""
    role: str = "defense"
    """One of ``ROLES``"""
    sha: str = ""
    """SHA-256 of the media's file, as the store knows it; empty where there is none"""
    mime: str = "image/png"
    """``image/…`` or ``audio/…``"""
    status: str = "ok"
    """One of ``STATUSES``"""
    why: str = ""
    """The verdict in a few words: which defense refused, what failed"""
    note: str = ""
    """Small print below the label: ``same as base``"""
    verdict: str = ""
    """What the judge says of it: ``judge: shows bomb (0.98)``"""
    unsafe: bool | None = None  # as its strip says

    def __post_init__(self) -> None:
        _one_of(self.status, STATUSES, "status", f"tile {self.label!r}")
        _one_of(self.role, ROLES, "role", f"tile {self.label!r}")
        if not re.fullmatch(r"(image|audio)/[a-z0-9.+-]+", self.mime):
            raise BadInput(f"tile {self.label!r}: {self.mime!r} is no image or audio type; give one such as image/png")
        if self.status == "ok" and not self.sha:
            raise BadInput(f"tile {self.label!r} is ok and has no sample; give its hash, or the status none")


@dataclass(frozen=True)
class Strip:
    """One case of a sample grid under every arm."""

    prompt: str
    seed: str
    shots: tuple[Shot, ...]
    facets: tuple[tuple[str, str], ...] = ()
    """(word, value) such as ``("concept", "weapons")``: shown beside the prompt, and what the reader filters by. All
    strips of a section have the same words in the same order"""
    unsafe: bool = False
    """May show what it should not: blurred, or silent, until asked for; of tiles that do not say so themselves"""

    def hides(self, shot: Shot) -> bool:
        return self.unsafe if shot.unsafe is None else shot.unsafe


@dataclass(frozen=True)
class Player:
    """One audio sample with controls. Give either ``sha`` or ``data``."""

    label: str
    sha: str = ""
    """SHA-256 of the file, as the store knows it"""
    data: bytes = b""
    """The file itself"""
    mime: str = "audio/wav"
    seconds: float | None = None
    """Duration, where it is known"""
    note: str = ""
    """Small print below the label"""

    def __post_init__(self) -> None:
        if bool(self.sha) == bool(self.data):
            raise BadInput(f"player {self.label!r} has {'both' if self.sha else 'neither'} hash and data; give one")
        if not re.fullmatch(r"audio/[a-z0-9.+-]+", self.mime):
            raise BadInput(f"player {self.label!r}: {self.mime!r} is no audio type; give one such as audio/wav")


# ------------------------------------------------------------------------------------------------------------- sections


@dataclass(frozen=True)
class Figure:
    """A large number on a finding's card."""

    text: str
    """The number: ``7``"""
    unit: str
    """What stands behind it: ``%``; empty where the number is unknown"""
    caption: str
    """What it counts: ``concept left``"""
    compare: str = ""
    """What to hold it against: ``base 62 %``"""


@dataclass(frozen=True)
class Finding:
    """A result in large figures and sentences, for the page's summary."""

    title: str
    """The concept or policy"""
    lead: str = ""
    """Words before the name: ``Least left:``"""
    name: str = ""
    """The arm that did best; empty where none can be named"""
    figures: tuple[Figure, ...] = ()
    lines: tuple[str, ...] = ()
    """Sentences computed from the figures"""


@dataclass(frozen=True)
class Term:
    """A word of the glossary."""

    word: str
    meaning: str
    formula: str = ""


@dataclass(frozen=True)
class Summary:
    """What a section says on top of the page."""

    findings: tuple[Finding, ...] = ()
    cautions: tuple[str, ...] = ()
    """What a reader should know before trusting a figure, the gravest first"""


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    id: str
    """Its anchor: lower-case letters, digits and hyphens, unique on the page"""
    title: str
    blocks: tuple[Block, ...]
    """In reading order; a section without any is not drawn, its summary and its terms are"""
    summary: Summary = Summary()
    terms: tuple[Term, ...] = ()
    """Words for the glossary; the first meaning of a word counts"""
    short: str = ""
    """Its name in the page's navigation; by default the title up to its colon"""

    @property
    def link(self) -> str:
        """Its name in the page's navigation."""
        return self.short or self.title.split(":")[0]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9-]*", self.id):
            raise BadInput(f"section id {self.id!r}; use lower-case letters, digits and hyphens, a letter first")


Block = Heading | Text | Facts | Box | Table | Matrix | Plot | Choice | Curve | Strip | Player
"""Everything that a section may hold."""


def walk(blocks: tuple[Block, ...]) -> Iterator[Block]:
    """Blocks in reading order, those inside boxes and choices included."""
    for block in blocks:
        yield block
        if isinstance(block, Box):
            yield from walk(block.blocks)
        elif isinstance(block, Choice):
            yield from (plot for _, plot in block.options)


def _one_of(value: str, known: tuple[str, ...], what: str, where: str) -> None:
    if value not in known:
        raise BadInput(f"{where}: {what} {value!r} is not one of {', '.join(repr(k) for k in known)}")


def _rectangular(name: str, columns: tuple[Column, ...], rows: tuple[Row, ...]) -> None:
    for row in rows:
        if len(row.cells) != len(columns) - 1:
            raise BadInput(
                f"table {name!r}, row {row.label!r}: {len(row.cells)} cells under {len(columns) - 1} columns (the "
                "first column is the label's); give each column a cell, None for what was not run"
            )
