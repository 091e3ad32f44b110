"""Where a plug-in of another distribution comes from: part of its identity, since its code is not ours to version."""

from __future__ import annotations

import hashlib
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = "genward"
MAX_FILES = 2000
"""Source files of a package that are read; a larger one counts by its own module alone"""


def origin(cls: type[Any]) -> dict[str, str]:
    """Distribution, version and source hash of an outsider's class; empty for what comes with genward.

    Returns:
        ``distribution`` and ``version``, empty where the class is of no installed distribution, and ``source``: the
        first 16 hex digits of the SHA-256 over the Python files of its package, or of its module where that stands
        alone; empty where there is no file (a class typed into a console).
    """
    top = cls.__module__.partition(".")[0]
    if top == OURS:
        return {}
    distribution = _distributions().get(top, "")
    version = metadata.version(distribution) if distribution else ""
    return {"distribution": distribution, "version": version, "source": _source(cls.__module__)}


@cache
def _distributions() -> dict[str, str]:
    """Top-level name -> the distribution that installs it."""
    return {name: sorted(found)[0] for name, found in metadata.packages_distributions().items() if found}


@cache  # what a process has imported is what it runs, whatever is written to the file meanwhile
def _source(module: str) -> str:
    files = _files(module)
    whole = hashlib.sha256()
    for path in files:
        try:
            data = path.read_bytes()
        except OSError:
            return ""
        whole.update(f"{path.name}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:16] if files else ""


def _files(module: str) -> list[Path]:
    own = getattr(sys.modules.get(module), "__file__", None)
    top = getattr(sys.modules.get(module.partition(".")[0]), "__file__", None)
    if top and Path(top).name == "__init__.py":
        found = sorted(Path(top).parent.rglob("*.py"))
        if len(found) <= MAX_FILES:
            return found
    return [Path(own)] if own and Path(own).is_file() else []
