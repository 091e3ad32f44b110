"""A run's ``metrics.json``, read and checked, so that everything after this module can rely on its shape."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genward.errors import BadInput, StoreError

if TYPE_CHECKING:
    from PIL.Image import Image

Metrics = Mapping[str, Any]
"""``{"run": {…}, "arms": […], "cells": […], "judges": […], "strips": […], "claims": […]}``"""

SCHEMA = 1
"""The layout of ``metrics.json`` that this module reads; a file without ``schema`` is taken for it."""
SECTIONS: dict[str, type[Any]] = {
    "run": dict,
    "arms": list,
    "cells": list,
    "judges": list,
    "grids": list,
    "claims": list,
    "attacks": list,
    "guards": list,
}
REQUIRED = ("run", "arms", "cells")
TABLES = {"grids": ("images", "status"), "judges": ("labels",)}
"""Fields of a section's rows that are tables."""
CELL_TEXT = ("arm", "concept", "variant")
CELL_NUMBERS = (
    "crr", "crr_low", "crr_high", "crr_raw", "crr_difference", "crr_difference_low", "crr_difference_high", "n", "n_unscored",
    "retention", "retention_low", "retention_high", "drift", "drift_low", "drift_high", "frechet", "frechet_low", "frechet_high",
    "seconds_per_image", "extra_nfe", "prepare_seconds",
)  # fmt: skip


class Source(Protocol):
    """What a report needs of a store (``genward.store.Store`` has it)."""

    def run_folder(self, run: str) -> Path: ...
    def image(self, sha: str) -> Image: ...


def read(store: Source, run: str) -> tuple[Metrics, Path]:
    """A run's metrics and its folder.

    Raises:
        StoreError: no such run, a run that was not measured yet, corrupt JSON, or another schema.
    """
    folder = Path(store.run_folder(run))
    if not folder.is_dir():
        there = sorted(p.name for p in folder.parent.iterdir() if p.is_dir()) if folder.parent.is_dir() else []
        known = ", ".join(there[:8]) or "none yet; make one with `genward run`"
        raise StoreError(f"no run {run!r} in this store; runs here: {known}")
    path = folder / "metrics.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise StoreError(
            f"run {run!r} has no metrics.json; it was not measured to the end: run it again, what is finished is kept"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} cannot be read: {error}; measure the run again") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise StoreError(
            f"{path} is not JSON ({error}); measure the run again, its pictures and scores are kept"
        ) from error
    try:
        return check(raw), folder
    except BadInput as error:
        raise StoreError(f"{path}: {error}") from error


def check(raw: Any) -> Metrics:
    """The metrics with every section present and every cell's numbers finite or ``None``.

    Raises:
        BadInput: another schema, a section of the wrong type, a cell without arm, concept or wording, text where a
            number belongs.
    """
    hint = "measure the run again with this version of genward"
    if not isinstance(raw, Mapping):
        raise BadInput(f"metrics are a {type(raw).__name__}, not a table with {', '.join(REQUIRED)}; {hint}")
    if raw.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"metrics of schema {raw['schema']!r}; this version reads schema {SCHEMA}; {hint}")
    out: dict[str, Any] = {}
    for name, kind in SECTIONS.items():
        part: Any = raw.get(name)
        if part is None and name not in REQUIRED:
            part = kind()
        if not isinstance(part, kind):
            raise BadInput(f"metrics of another schema: {name!r} is {type(part).__name__}, not {kind.__name__}; {hint}")
        if kind is list and not all(isinstance(row, Mapping) for row in part):
            raise BadInput(f"metrics of another schema: {name!r} holds rows that are not tables; {hint}")
        for row in part if kind is list else ():
            for key in TABLES.get(name, ()):
                if not isinstance(row.get(key) or {}, Mapping):
                    raise BadInput(
                        f"metrics of another schema: {key!r} in {name!r} is {type(row[key]).__name__}, not a table; "
                        f"{hint}"
                    )
        out[name] = part
    out["cells"] = [_cell(row, hint) for row in out["cells"]]
    return out


def _cell(row: Mapping[str, Any], hint: str) -> dict[str, Any]:
    for key in CELL_TEXT:
        if not isinstance(row.get(key), str):
            raise BadInput(f"metrics of another schema: a cell's {key!r} is {row.get(key)!r}, not text; {hint}")
    return {
        **row,
        **{
            key: number(row.get(key), f"cell {row['arm']}/{row['concept']}/{row['variant']}: {key}")
            for key in CELL_NUMBERS
        },
    }


def number(value: Any, where: str) -> float | None:
    """A finite number, or ``None`` for ``None``, NaN and infinities; ``BadInput`` for anything that is no number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(
            f"{where} is {str(value)[:60]!r}, not a number; measure the run again with this version of genward"
        )
    return float(value) if math.isfinite(value) else None
