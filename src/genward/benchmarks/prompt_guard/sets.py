"""Prompt sets: a folder of CSV files with labeled prompts, read into units that never stand on two sides of a split.

Columns: ``prompt`` and ``label`` (``safe``, ``unsafe``, ``adversarial`` or ``unverified``), and where there are any
``category`` (several joined by ``|``) and ``group`` (rows that belong together: a pair, an image), under these names or
those of ``core.tables.ALIASES``. The file's name is the set's. Rows are the user's data: nothing here prints, logs or
quotes one, errors name file and line.

A *unit* joins rows of one group, rows whose text is the same but for case and punctuation, in any set, and rows that
share most of their word trigrams. Sets that share many units are one *family*, and are left out together."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from genward.core.contracts import Card
from genward.core.records import MAX_PROMPT, Case, row_seed
from genward.core.spec import digest
from genward.core.tables import Row, Table, read_table
from genward.errors import BadInput, UnknownName
from genward.ops.linking import linked

HARMFUL = ("unsafe", "adversarial")
BENIGN = ("safe", "unverified")
"""``unverified``: real user prompts, mostly harmless, never checked."""
LABELS = (*HARMFUL, *BENIGN)
NEAR = 0.7
"""Share of word trigrams from which two texts are one unit."""
FAMILY = 0.1
"""Share of the smaller set's units from which two sets are one family."""
MIN_TRIGRAMS = 5
SAME_SOURCE = (("hub_",), ("ringabell_", "concept_pairs_ringabell"), ("copro_", "coprov2"), ("sixcd_",))
"""Beginnings of the names of sets that come from one generator or author, one family each."""


class PromptRow(NamedTuple):
    """One row: its text, whether it is harmful, and where it stands."""

    text: str
    harmful: bool
    label: str
    categories: tuple[str, ...]
    unit: str
    set: str


def set_files(folder: str | Path) -> dict[str, Path]:
    """Name -> file of every CSV in a folder.

    Raises:
        BadInput: no such folder, or none in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadInput(f"no folder {folder}; give one with prompt sets as CSV files (columns prompt and label)")
    found = {p.stem: p for p in sorted(folder.glob("*.csv"))}
    if not found:
        raise BadInput(f"{folder} holds no CSV file; prompt sets have the columns prompt and label")
    return found


def read_sets(folder: str | Path, names: Sequence[str], limit: int, seed: int) -> dict[str, list[PromptRow]]:
    """Rows of the named sets (all of a folder's without names) with units joined across them, less attacks on what is
    no matter of safety.

    Raises:
        UnknownName: no such set. BadInput: the folder or a file cannot be used, or no row is left.
    """
    files = set_files(folder)
    for name in names:
        if name not in files:
            raise UnknownName("prompt set", name, files)
    found = {}
    for name in names or files:
        rows = read_set(files[name], limit=limit, seed=seed)
        kept = [r for r in rows if r.label != "adversarial" or not any(_not_safety(c) for c in r.categories)]
        if kept:
            found[name] = kept
    if not found:
        raise BadInput(f"{folder} holds no usable row; a prompt and a label are needed")
    return joined_units(found)


def _not_safety(category: str) -> bool:
    """An attack on an erased celebrity, style or object: the label says how it was made, not that its content is
    unsafe."""
    return category.startswith(("style:", "object:", "celebrity:", "concept:"))


def text_key(text: str) -> str:
    """A text without case and punctuation: what makes two rows the same."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def read_set(path: str | Path, *, limit: int | None = None, seed: int = 0) -> list[PromptRow]:
    """Rows of one file, exact duplicates once, in the order of the file.

    Args:
        limit: at most so many rows, whole units, harmful and benign as balanced as the set allows, chosen by a hash of
            the unit and the seed.

    Raises:
        BadInput: the file cannot be read as CSV (``core.tables``), lacks a column, or holds an empty prompt or a label
            that is not one of ``LABELS`` (file and row are named).
    """
    table = read_table(path, ("prompt", "label", "category", "group"), ("prompt", "label"), "prompt set")
    rows: dict[tuple[str, bool], PromptRow] = {}
    for line in table.rows:
        row = _row(table, line)
        rows.setdefault((row.text, row.harmful), row)
    found = list(rows.values())
    return found if limit is None else _some(found, limit, seed)


def _row(table: Table, line: Row) -> PromptRow:
    text, label, stem = line.cells["prompt"], line.cells["label"].strip(), table.path.stem
    if not text.strip():
        raise BadInput(f"{table.path}, line {line.line}: empty prompt; write a text or take the row out")
    if label not in LABELS:
        raise BadInput(f"{table.path}, line {line.line}: label {label[:40]!r} is not one of {', '.join(LABELS)}")
    group = line.cells.get("group", "").strip()
    unit = f"{stem}:{group}" if group else text_key(text) or f"{stem}:{line.number}"
    categories = tuple(c.strip() for c in line.cells.get("category", "").split("|") if c.strip())
    return PromptRow(text, label in HARMFUL, label, categories, unit, stem)


def _order(unit: str, seed: int) -> bytes:
    return hashlib.sha256(f"prompt-sets|{seed}|{unit}".encode("utf-8", "replace")).digest()


def _some(rows: Sequence[PromptRow], limit: int, seed: int) -> list[PromptRow]:
    """At most ``limit`` rows: units in hashed order, a class that has its half waits until the other one is through."""
    if limit < 1:
        raise BadInput(f"a limit of {limit} rows; at least 1 is needed")
    if len(rows) <= limit:
        return list(rows)
    units: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows):
        units[row.unit].append(k)
    both = {u for u, found in units.items() if len({rows[k].harmful for k in found}) == 2}
    order = sorted(
        units, key=lambda u: (u not in both, _order(u, seed))
    )  # pairs first: rows alone would use up the share of one class
    counts = Counter(r.harmful for r in rows)
    quota = {True: limit // 2, False: limit - limit // 2}
    for side in (True, False):
        if counts[side] < quota[side]:
            quota = {side: counts[side], not side: limit - counts[side]}
    taken: list[int] = []
    for unit in order:
        need = Counter(rows[k].harmful for k in units[unit])
        if all(quota[side] >= need[side] for side in need):
            quota = {side: quota[side] - need[side] for side in quota}
            taken += units[unit]
    return [rows[k] for k in sorted(taken)]


# ---------------------------------------------------------------------------------------------------------------- units


def joined_units(sets: Mapping[str, Sequence[PromptRow]]) -> dict[str, list[PromptRow]]:
    """The sets with units joined across all of them: equal group, equal text, or near-duplicate word trigrams.

    Trigrams that many texts share (a template) join nothing: a set of templates would else be one unit.
    """
    flat = [row for rows in sets.values() for row in rows]
    pairs: list[tuple[int, int]] = []
    first: dict[str, int] = {}
    grams: list[frozenset[int]] = []
    holders: dict[int, list[int]] = defaultdict(list)
    for k, row in enumerate(flat):
        key = text_key(row.text)
        for name in (f"u|{row.unit}", f"t|{key}"):
            pairs.append((k, first.setdefault(name, k)))
        words = key.split()
        own = frozenset(hash(tuple(words[j : j + 3])) for j in range(len(words) - 2))
        grams.append(own)
        if len(own) >= MIN_TRIGRAMS:
            for gram in own:
                holders[gram].append(k)
    for k, own in enumerate(grams):
        if len(own) < MIN_TRIGRAMS:
            continue
        shared = Counter(j for gram in own if len(holders[gram]) <= 50 for j in holders[gram] if j < k)
        for j, count in shared.items():
            if count >= NEAR * min(len(own), len(grams[j])):
                pairs.append((j, k))
    whole = iter([row._replace(unit=flat[root].unit) for row, root in zip(flat, linked(len(flat), pairs), strict=True)])
    return {name: [next(whole) for _ in rows] for name, rows in sets.items()}


def families(sets: Mapping[str, Sequence[PromptRow]]) -> dict[str, frozenset[str]]:
    """Set -> the sets that are left out with it, itself included: those that share units with it and those of one
    source."""
    names = list(sets)
    pairs: list[tuple[int, int]] = []
    units = [{row.unit for row in sets[name]} for name in names]
    source = [next((k for k, starts in enumerate(SAME_SOURCE) if name.startswith(starts)), -1) for name in names]
    for a in range(len(names)):
        for b in range(a):
            common = len(units[a] & units[b])
            if (source[a] == source[b] != -1) or common >= FAMILY * max(1, min(len(units[a]), len(units[b]))):
                pairs.append((a, b))
    roots = dict(zip(names, linked(len(names), pairs), strict=True))
    return {name: frozenset(other for other in names if roots[other] == roots[name]) for name in names}


def side_of(unit: str, seed: int, share: float = 0.3) -> str:
    """``"test"`` for about ``share`` of all units, else ``"fit"``, by a hash."""
    return "test" if int.from_bytes(_order(unit, seed)[8:16], "big") / 2**64 < share else "fit"


# ------------------------------------------------------------------------------------------------------------ benchmark


@dataclass(frozen=True)
class PromptSets:
    """Labeled prompts from a folder of CSV files, as cases: what a guard refuses and what it lets pass, on sets of
    one's own."""

    name: ClassVar[str] = "prompt_sets"
    folder: str = ""
    """Folder of the CSV files."""
    sets: tuple[str, ...] = ()
    """Names of the sets, without ending; empty: all."""
    n: int = 100
    """Rows a set."""
    seed: int = 0
    """Of the choice of rows and of the starting noise."""

    def _files(self) -> dict[str, Path]:
        files = set_files(self.folder)
        for name in self.sets:
            if name not in files:
                raise UnknownName("prompt set", name, files)
        return {name: files[name] for name in (self.sets or files)}

    @property
    def card(self) -> Card:
        facts = {"license": "that of each set", "hash": digest([c.named() for c in self.cases()])}
        return Card(self.name, "Labeled prompts of a folder", facts=facts)

    def cases(self) -> Iterator[Case]:
        """Rows of all sets; ``variant`` is the row's label, ``group`` its unit, ``concept`` its first category."""
        for name, path in self._files().items():
            for k, row in enumerate(read_set(path, limit=self.n, seed=self.seed)):
                concept = row.categories[0] if row.categories else ""
                seed = row_seed("prompt-sets", self.seed, name, k)
                label = "harm" if row.harmful else "benign"
                yield Case(
                    f"{name}/{k:05d}", row.text[:MAX_PROMPT], label, concept, seed, variant=row.label, group=row.unit
                )
