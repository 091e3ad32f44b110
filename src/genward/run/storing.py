"""Stores and measured runs by name, for those who stand outside: the command line, a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genward.errors import StoreError

if TYPE_CHECKING:
    from genward.store import Store


def open_store(root: Path | str, create: bool = False) -> Store:
    """The store at ``root``. Raises ``StoreError`` where there is none (and ``create`` is off) or it cannot be used."""
    from genward.store import Store

    return Store(root, create=create)


def newest(store: Store) -> str:
    """Name of the run that was measured last.

    Raises:
        StoreError: no run of this store has been measured.
    """
    measured = [
        (path.stat().st_mtime, name)
        for name in store.runs()
        if (path := store.run_folder(name) / "metrics.json").is_file()
    ]
    if not measured:
        raise StoreError(f"no measured run in {store.root}; make one with `genward run`")
    return max(measured)[1]


def read_run(root: Path | str, name: str = "") -> tuple[str, Mapping[str, Any]]:
    """Name and ``metrics.json`` of a run; the newest measured one without a name.

    Raises:
        StoreError: no store, no such run, or one that was not measured to the end.
    """
    store = open_store(root)
    name = name or newest(store)
    path = store.run_folder(name) / "metrics.json"
    if not path.is_file():
        known = ", ".join(store.runs()[:8]) or "none"
        raise StoreError(
            f"run {name!r} has no measurements in {store.root}; runs there: {known}; make or resume it with `genward "
            "run`"
        )
    metrics: Mapping[str, Any] = store.read_json(path)
    return name, metrics
