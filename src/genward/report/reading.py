"""A run's ``metrics.json``, read and checked, so that the page can rely on what every run has; a benchmark's own
figures are checked by its sections."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from genward.core.blocks import Section
from genward.core.media import Media
from genward.errors import BadInput, StoreError
from genward.sections.arms import Metrics
from genward.sections.cells import HINT, rows

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1
"""The layout of ``metrics.json`` that this module reads; a file without ``schema`` is taken for it."""
Sections = Callable[[Metrics], Sequence[Section]]
"""What a benchmark makes of its metrics."""


class Source(Protocol):
    """What a report needs of a store (``genward.store.Store`` has it)."""

    def run_folder(self, run: str) -> Path: ...
    def image(self, sha: str) -> Image:
        """A picture by its hash. ``GenwardError`` where there is none."""
        ...

    def media(self, sha: str, mime: str) -> Media:
        """A sample of any kind by its hash and type. ``GenwardError`` where there is none."""
        ...


def read(store: Source, run: str, sections: Sections) -> tuple[Metrics, list[Section], Path]:
    """A run's metrics, what its benchmark makes of them, and its folder.

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
        metrics = check(raw)
        return metrics, list(sections(metrics)), folder
    except BadInput as error:
        raise StoreError(f"{path}: {error}") from error


def check(raw: Any) -> Metrics:
    """The metrics with ``run``, ``arms`` and ``judges`` in their places.

    Raises:
        BadInput: another schema, or one of the three of the wrong type.
    """
    if not isinstance(raw, Mapping):
        raise BadInput(f"metrics are a {type(raw).__name__}, not a table with run, arms and what was measured; {HINT}")
    if raw.get("schema", SCHEMA) != SCHEMA:
        raise BadInput(f"metrics of schema {raw['schema']!r}; this version reads schema {SCHEMA}; {HINT}")
    if not isinstance(raw.get("run"), Mapping):
        raise BadInput(f"metrics of another schema: 'run' is {type(raw.get('run')).__name__}, not dict; {HINT}")
    return {**raw, "arms": rows(raw, "arms"), "judges": rows(raw, "judges", ("labels",))}
