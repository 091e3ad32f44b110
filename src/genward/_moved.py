"""Modules that have moved: their old names still import, with a ``DeprecationWarning`` that says the new one.

Installed by ``genward/__init__.py``; a name goes from the table one release after it moved.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

MOVED = {
    "genward.ops.early": "genward.ops.activations",
    "genward.benchmarks.prompt_sets": "genward.benchmarks.prompt_guard.sets",
    "genward.benchmarks.prompts_csv": "genward.core.prompts_csv",
    "genward.ops.safety_checker": "genward.models.safety_checker",
    "genward.run.audit": "genward.serve.audit",
    "genward.run.calibrate": "genward.serve.calibrate",
    "genward.run.catalog": "genward.catalog.plugins",
    "genward.run.dataset": "genward.catalog.dataset",
    "genward.run.fit": "genward.catalog.fitting",
    "genward.run.guarded": "genward.serve.call",
    "genward.run.moderation": "genward.catalog.text_guards",
    "genward.run.prompt_guard": "genward.benchmarks.prompt_guard",
    "genward.run.models": "genward.catalog.opening",
    "genward.run.policy": "genward.serve.policy",
    "genward.run.prompts": "genward.core.texts",
    "genward.run.protect": "genward.serve.protect",
    "genward.serve.guarded": "genward.serve.call",
    "genward.serve.prompts": "genward.core.texts",
}
"""Old name -> new name (0.1.0: the rooms ``catalog`` and ``serve`` came out of ``run``; one recorder of states;
benchmarks became folders)"""


class Forwarding(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds an old name and hands out the module under its new one."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return importlib.machinery.ModuleSpec(fullname, self) if fullname in MOVED else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = MOVED[spec.name]
        warnings.warn(f"{spec.name} has moved to {new}; import it from there", DeprecationWarning, stacklevel=2)
        return importlib.import_module(new)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: the module under its new name has run already."""


def install() -> None:
    """Make the old names importable; once a process."""
    if not any(isinstance(finder, Forwarding) for finder in sys.meta_path):
        sys.meta_path.append(Forwarding())
