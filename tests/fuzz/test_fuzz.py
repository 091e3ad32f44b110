"""A part of the hostile inputs, at the seed that is recorded; all of them: ``python tests/fuzz/fuzz.py 100000``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

COUNT = 2000


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("genward_fuzz", Path(__file__).with_name("fuzz.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_hostile_inputs_end_in_a_result_or_an_error_of_ours() -> None:
    fuzz = script()
    found = fuzz.fuzz(COUNT)
    assert sum(found.counts.values()) == COUNT and set(found.counts) == set(fuzz.WEIGHTS)
    assert not found.uncaught, "\n".join(found.uncaught[:5])
    assert not found.hung, "\n".join(found.hung[:5])
    assert all(found.refused[name] for name in ("prompts", "concept", "artifact", "case")), "nothing hostile in it"
