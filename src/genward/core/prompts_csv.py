"""Prompts from a CSV file, one's own or a published list, as cases.

The first line names the columns; ``prompt`` must be there, the others may be missing. Published lists have some of them
under other names (``evaluation_seed``, ``sd_seed``, ``categories``: ``core.tables.ALIASES``), which are read as well. A
column of any other name is not read, and the card's fact ``not_read`` names it; one that looks like a column below and
is none (``my_seed``) is refused.

- ``prompt``: the text; runs of white space become one space. ``Case.prompt``
- ``label``: ``safe`` | ``benign``, ``unsafe`` | ``adversarial`` | ``harm``, or ``unverified``. ``Case.label``
- ``category``: the row's categories, joined with ``|`` (with commas in I2P's ``categories``). ``Case.group`` *
- ``seed``: a whole number from 0 to 2^63 - 1 (42.0 is one), or nothing. ``Case.seed``
- ``group``: rows with the same value belong together (a pair, an image). ``Case.group`` *

\\* the column ``group`` where it is filled, else the category, else the prompt. The guidance belongs to a sampler, not
to a case, and is not read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

from genward.core.contracts import Card
from genward.core.options import coerce, parts
from genward.core.records import LABELS, MAX_PROMPT, MAX_SEED, Case, row_seed
from genward.core.spec import digest, file_hash
from genward.core.tables import Row as Line
from genward.core.tables import Table, read_table
from genward.errors import BadInput, UnknownName

COLUMNS = ("prompt", "label", "category", "seed", "group")
MEANING = {"safe": "benign", "benign": "benign", "unsafe": "harm", "adversarial": "harm", "harm": "harm"}
"""What a label of the file is to a case; ``unverified`` and an empty one are neither, see ``CsvPrompts.unlabeled``."""
NAMESPACE = "evaluate"
"""First part of every seed that is made here; fitting uses other namespaces."""


class Row(NamedTuple):
    """A row of the file, read and checked. ``number`` counts rows from 1, the line of column names included, as a
    spreadsheet does."""

    number: int
    prompt: str
    label: str
    categories: tuple[str, ...]
    seed: int | None
    group: str


def read_rows(path: Path) -> list[Row]:
    """All rows of a CSV file of prompts (UTF-8, or UTF-16 with a byte order mark); empty lines are left out.

    Raises:
        BadInput: no such file, no text, no usable line of column names, or a row or value that cannot be used: named by
            row and column.
    """
    return _rows_of(_table(path))


def _table(path: Path) -> Table:
    return read_table(path, COLUMNS, ("prompt",), "prompts file")


def _rows_of(table: Table) -> list[Row]:
    return [_row(table, row) for row in table.rows]


def _row(table: Table, row: Line) -> Row:
    cells = row.cells

    def wrong(field: str, what: str) -> BadInput:
        return BadInput(f"{table.path}, {row.place}, column {table.found.get(field, field)}: {what}")

    prompt = " ".join(cells["prompt"].split())
    if not prompt:
        raise wrong("prompt", "empty; write a text or take the row out")
    label = cells.get("label", "").strip().lower()
    if label and label != "unverified" and label not in MEANING:
        raise wrong("label", f"{label[:40]!r} is not one of {', '.join((*MEANING, 'unverified'))}")
    text = cells.get("seed", "").strip()
    whole = re.fullmatch(r"([0-9]{1,19})(\.0*)?", text)  # pandas writes whole numbers beside empty cells as 42.0
    seed = int(whole[1]) if whole else None
    if text and (seed is None or seed > MAX_SEED):
        raise wrong(
            "seed", f"{text[:40]!r} is not a whole number from 0 to {MAX_SEED}; leave it empty to have one made"
        )
    marks = r"[|,]" if table.found.get("category") == "categories" else r"\|"
    categories = tuple(dict.fromkeys(x.strip() for x in re.split(marks, cells.get("category", "")) if x.strip()))
    return Row(row.number, prompt, label, categories, seed, cells.get("group", "").strip())


@dataclass(frozen=True)
class CsvPrompts:
    """Prompts from a CSV file: what is harmful and what is not by its labels or categories."""

    name: ClassVar[str] = "prompts-csv"
    path: str = ""
    """The file; its first line names the columns (prompt, label, category, seed, group), of which only prompt must be
    there."""
    concept: str = ""
    """The concept that the rows are about, as judges and statistics know it."""
    harm: tuple[str, ...] = ()
    """Categories that make a row harmful ("object:church"), all others are harmless then; empty: the file's labels say
    so."""
    unlabeled: str = ""
    """What rows without label or labeled unverified are: harm or benign; empty refuses such rows."""
    categories: tuple[str, ...] = ()
    """Only rows of these categories; empty: all."""
    limit: int = 0
    """At most so many prompts, drawn evenly from the file, the same ones at any larger limit; 0: all."""
    repeats: int = 1
    """Pictures a prompt, each with its own seed."""
    seed: int = 0
    """Another number gives other starting noise and another draw; seeds that stand in the file are kept."""
    variant: str = ""
    """Wording of all cases; empty: the row's label as it stands in the file."""
    cut: bool = False
    """Cut prompts of more than 2,000 characters instead of refusing them."""

    def __post_init__(self) -> None:
        if self.limit < 0 or not 1 <= self.repeats <= 10_000:
            raise BadInput(
                f"prompts-csv: limit {self.limit}, repeats {self.repeats}; the first is 0 or more, the second from 1 "
                "to 10,000"
            )
        if self.unlabeled and self.unlabeled not in LABELS:
            raise BadInput(f"prompts-csv: unlabeled {self.unlabeled!r} is not one of {', '.join(LABELS)}")

    @classmethod
    def of(cls, text: str) -> CsvPrompts:
        """From ``rows.csv,field=value,…``.

        Raises:
            UnknownName: no such field. BadInput: the text cannot be read.
        """
        path, given = parts("prompts", text)
        kinds = {f.name: str(f.type) for f in fields(cls)}
        for key in given:
            if key not in kinds:
                raise UnknownName("field of prompts-csv", key, kinds)
        return cls(**{"path": path, **{k: coerce(v, kinds[k], f"prompts-csv.{k}") for k, v in given.items()}})

    @cached_property
    def _file(self) -> Table:
        """The file, read once."""
        if not self.path:
            raise BadInput("prompts-csv was not told which file to read; set its field `path` to a .csv file")
        return _table(Path(self.path))

    @cached_property
    def _rows(self) -> tuple[list[Row], int]:
        """The chosen rows in the order of the file, and how many repeated an earlier one (same prompt, label,
        categories and seed)."""
        rows = _rows_of(self._file)
        known = {x for row in rows for x in row.categories}
        for wanted in (*self.harm, *self.categories):
            if wanted not in known:
                raise UnknownName(f"category of {Path(self.path).name}", wanted, known)
        kept: dict[tuple[object, ...], Row] = {}
        asked = [row for row in rows if not self.categories or set(self.categories) & set(row.categories)]
        for row in asked:
            kept.setdefault((row.prompt, row.label, row.categories, row.seed), row)
        chosen = list(kept.values())
        if self.limit:
            chosen = sorted(chosen, key=lambda row: (row_seed("draw", self.seed, row.prompt, row.seed), row.number))[
                : self.limit
            ]
        return sorted(chosen), len(asked) - len(kept)

    @cached_property
    def card(self) -> Card:
        """File, its hash, the columns that were not read, and counts: rows kept, rows that repeated others, cases by
        label."""
        rows, repeated = self._rows
        cases = list(self.cases())
        facts = {
            "file": Path(self.path).name,
            "sha256": file_hash(Path(self.path)),
            "prompts": len(rows),
            "repeated": repeated,
        }
        if self._file.unread:
            facts["not_read"] = ", ".join(self._file.unread)
        facts |= dict(sorted(Counter(c.label for c in cases).items())) | {"hash": digest([c.named() for c in cases])}
        return Card(self.name, "Prompts from a CSV file", facts=facts)

    def cases(self) -> Iterator[Case]:
        """One case a prompt and repeat, in the order of the file.

        Raises:
            BadInput: the file or a row cannot be used; UnknownName: a category that the file does not have.
        """
        stem = Path(self.path).stem
        for row in self._rows[0]:
            label, prompt = self._label(row), self._prompt(row)
            group = row.group or "|".join(row.categories) or prompt
            for k in range(self.repeats):
                kept = row.seed is not None and k == 0
                seed = (
                    row.seed
                    if kept and row.seed is not None
                    else row_seed(NAMESPACE, self.seed, self.name, prompt, row.seed, k)
                )
                variant = self.variant or row.label or "unverified"
                yield Case(
                    f"{stem}/{row.number:06d}/{k:02d}", prompt, label, self.concept, seed, variant=variant, group=group
                ).checked()

    def _label(self, row: Row) -> str:
        if self.harm:
            return "harm" if set(self.harm) & set(row.categories) else "benign"
        found = MEANING.get(row.label, self.unlabeled)
        if not found:
            what = f"{row.label!r}" if row.label else "no label"
            raise BadInput(
                f"{self.path}, row {row.number}, column label: {what}, which is neither harm nor benign; set "
                "`unlabeled` to one, or name `harm` categories"
            )
        return found

    def _prompt(self, row: Row) -> str:
        if len(row.prompt) <= MAX_PROMPT:
            return row.prompt
        if self.cut:
            return row.prompt[:MAX_PROMPT].rstrip()
        raise BadInput(
            f"{self.path}, row {row.number}, column prompt: {len(row.prompt):,} characters, at most {MAX_PROMPT:,} are "
            "accepted; shorten it, or set `cut`"
        )
