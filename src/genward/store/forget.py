"""Take rows out of a store, so that they are made or scored again. Media stay: other rows may name them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import genward.store.parts as parts
from genward.errors import StoreError
from genward.store.files import named, said

if TYPE_CHECKING:
    from collections.abc import Set


def forget_samples(root: Path, ids: Set[str], judges: list[str]) -> int:
    """Take samples out, with what every judge said about them and its features; the number of samples that were there.

    Scores go first: a kill in between leaves samples without scores, which judging makes up for, never scores of other
    pictures.
    """
    for judge in judges:
        forget_scores(root, judge, ids)
    return sum(_without(root, path, parts.SAMPLES, "id", ids) for path in parts.part_files(root / "samples"))


def forget_scores(root: Path, judge: str, ids: Set[str]) -> None:
    """Take what a judge said about samples out, with its features. A part that was edited is not believed in any row
    and goes as a whole."""
    for path in parts.part_files(root / "features" / named("judge", judge)):
        found, matrix = parts.read_features(path)
        kept = [k for k, i in enumerate(found) if i not in ids]
        if not kept:
            _remove(path)
        elif len(kept) < len(found):
            key = parts.read_key(path)
            parts.write_features(root, path.parent, key, [found[k] for k in kept], matrix[kept])
    for path in parts.part_files(root / "scores" / named("judge", judge)):
        try:
            parts.read_scores(path)
        except StoreError:
            _remove(path)
            continue
        _without(root, path, parts.SCORES, "sample", ids)


def _without(root: Path, path: Path, schema: Any, column: str, ids: Set[str]) -> int:
    """Write a part again without some rows, or remove it where none is left; the number of rows taken out."""
    rows = parts.read_part(path, schema).to_pylist()
    kept = [row for row in rows if row[column] not in ids]
    if not kept:
        _remove(path)
    elif len(kept) < len(rows):
        columns = {name: [row[name] for row in kept] for name in schema.names}
        parts.write_part(root, path.parent, parts.read_key(path), columns, schema)
    return len(rows) - len(kept)


def _remove(path: Path) -> None:
    with said(path, "written"):
        path.unlink(missing_ok=True)
