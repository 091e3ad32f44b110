"""The one reader of CSV: strict, so that no row is lost, moved or merged without a word.

RFC 4180 with line ends of any system: a first line of column names, as many values on every line, texts that hold
commas, quotes or line breaks in double quotes. A quote that is never closed, a quote inside a value that does not begin
with one, a row of another length and a column named twice are errors that name file, row and line. Python's ``csv`` is
not used: it takes an unclosed quote at the end of a file in silence unless told otherwise, and its limit on a field's
size is one number for the whole process."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from genward.core.reading import decoded, read_bytes, short
from genward.errors import BadInput

MAX_BYTES = 1 << 30
"""Largest table that is read."""
MAX_FIELD = 1 << 20
"""Longest value, characters."""

ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompts", "adv_prompt", "adversarial_prompt"),
    "label": ("labels",),
    "category": ("categories", "class"),
    "seed": ("seeds", "evaluation_seed", "sd_seed", "generator_seed"),
    "group": ("groups", "group_id", "pair_id"),
}
"""Column -> names under which published lists of prompts have it: ``evaluation_seed`` in the lists of the
concept-erasure papers, ``sd_seed`` and ``categories`` in I2P."""
KNOWN_UNREAD = frozenset(
    "case_number case id index source guidance evaluation_guidance sd_guidance_scale sd_model sd_image_width "
    "sd_image_height sd_safety_percentage extra".split()
)
"""Columns of published lists that say nothing a case holds: numbers of rows, sources, the sampler's settings."""

_PLAIN = re.compile(r'[^,\r\n"]*')
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_END = re.compile(r"\r\n|\r|\n")


class Row(NamedTuple):
    """A row: its number as a spreadsheet counts (the column names are row 1), the line of the file it begins on, its
    values by column, as they stand in the file."""

    number: int
    line: int
    cells: Mapping[str, str]

    @property
    def place(self) -> str:
        """``row 3``, with the line of the file where quoted line breaks or blank lines make them differ."""
        return f"row {self.number}" + (f" (line {self.line})" if self.line != self.number else "")


@dataclass(frozen=True)
class Table:
    """A CSV file, read."""

    path: Path
    columns: tuple[str, ...]
    """Names in the file's order, lower case; columns without a name are left out."""
    found: Mapping[str, str]
    """Field that was asked for -> column that holds it"""
    unread: tuple[str, ...]
    """Columns with a name that is neither asked for nor in ``KNOWN_UNREAD``"""
    rows: tuple[Row, ...]
    """``cells`` by the names of the fields that were asked for"""


def read_table(
    path: str | Path, fields: Sequence[str], needed: Sequence[str] = (), what: str = "table", limit: int = MAX_BYTES
) -> Table:
    """Read a CSV file (UTF-8, or UTF-16 and UTF-32 with a byte order mark).

    Args:
        fields: columns to read, by their own name or one of ``ALIASES``, in any case.
        needed: those that must be there.
        what: what to call the file in errors.
        limit: most bytes that are read.

    Raises:
        BadInput: see the module; also a column that is there under two names, one that looks like a field that was not
            found (``my_seed``), and a file without rows.
    """
    path = Path(path)
    shown = short(path)
    records = split(decoded(read_bytes(path, what, limit), shown), shown)
    wanted = ", ".join(fields)
    if not records:
        raise BadInput(
            f"{shown}: the file is empty; the first line names the columns ({wanted}), one row a line follows"
        )
    number, line, head = records[0]
    names = [" ".join(cell.split()).lower() for cell in head]
    places, found = _columns(shown, f"row {number}", names, fields, needed)
    rows = []
    for number, line, cells in records[1:]:
        row = Row(number, line, {})
        if len(cells) != len(names):
            raise BadInput(
                f"{shown}, {row.place}: {len(cells)} values under {len(names)} columns; quote texts that hold commas "
                "or "
                "line breaks"
            )
        rows.append(row._replace(cells={field: cells[k] for field, k in places.items()}))
    if not rows:
        raise BadInput(f"{shown}: no rows under the column names; one row a line follows them ({wanted})")
    unread = tuple(n for n in names if n and n not in KNOWN_UNREAD and n not in found.values())
    return Table(path, tuple(n for n in names if n), found, unread, tuple(rows))


def _columns(
    shown: str, place: str, names: Sequence[str], fields: Sequence[str], needed: Sequence[str]
) -> tuple[dict[str, int], dict[str, str]]:
    """(field -> place in a row, field -> column name), or ``BadInput``."""
    told = ", ".join(repr(x[:30]) for x in names[:8])
    places, found = {}, {}
    for field in fields:
        here = [field] if field in names else [n for n in ALIASES.get(field, ()) if n in names]
        if len(here) > 1 or (here and names.count(here[0]) > 1):
            twice = (
                f"the column {here[0]!r} is there twice"
                if len(here) == 1
                else f"{' and '.join(map(repr, here))} are both {field}"
            )
            raise BadInput(f"{shown}, {place}: {twice}; rename one of them to something else")
        if here:
            places[field], found[field] = names.index(here[0]), here[0]
            continue
        if field in needed:
            split_by = len(names) == 1 and re.search(r"[;\t|]", names[0])
            hint = "separate the columns by commas" if split_by else f"name the column of {field}s {field!r}"
            raise BadInput(f"{shown}, {place}: no column {field!r} among {told}; {hint}")
        near = next((n for n in names if n not in KNOWN_UNREAD and field in re.split(r"[^a-z]+", n)), "")
        if near:
            raise BadInput(
                f"{shown}, {place}: the column {near[:40]!r} looks like {field} and would not be read; rename it to "
                f"{field!r} if it is that, else to a name without the word"
            )
    return places, found


def split(text: str, where: str) -> list[tuple[int, int, list[str]]]:
    """(row number from 1, line number from 1, values) of every row that is not blank.

    Raises:
        BadInput: a quote that is never closed or stands inside a value, or a value of more than ``MAX_FIELD``
            characters.
    """
    out: list[tuple[int, int, list[str]]] = []
    at, number, line, size = 0, 0, 1, len(text)
    while at < size:
        number, began, cells, more = number + 1, line, [], True
        while more:
            value, at, breaks = _value(text, at, where, number, line)
            line += breaks
            cells.append(value)
            more = at < size and text[at] == ","
            at += more
        end = _END.match(text, at)
        if end:
            at, line = end.end(), line + 1
        if any(cell.strip() for cell in cells):
            out.append((number, began, cells))
    return out


def _value(text: str, at: int, where: str, number: int, line: int) -> tuple[str, int, int]:
    """(value, place behind it, line breaks in it)."""
    here = f"{where}, row {number} (line {line})"
    if at < len(text) and text[at] == '"':
        quoted = _QUOTED.match(text, at)
        if quoted is None:
            raise BadInput(
                f"{here}: a quote is opened and never closed; close it, or double a quote that is meant as one"
            )
        at, value = quoted.end(), quoted[1]
        if at < len(text) and text[at] not in ",\r\n":
            raise BadInput(
                f'{here}: text after a closing quote; a quote inside a quoted value is written twice, as in ""'
            )
        value, breaks = value.replace('""', '"'), len(_END.findall(value))
    else:
        plain = _PLAIN.match(text, at)
        assert plain is not None  # noqa: S101 - the pattern matches the empty text
        end = plain.end()
        if end < len(text) and text[end] == '"':
            raise BadInput(
                f"{here}: a quote inside a value that does not begin with one; put the whole value in quotes and write "
                'the inner ones twice, as in "a ""red"" kite"'
            )
        value, at, breaks = plain[0], end, 0
    if len(value) > MAX_FIELD:
        raise BadInput(f"{here}: field larger than {MAX_FIELD:,} characters; is a quote missing?")
    return value, at, breaks
