"""The small run that the report's tests draw (``tests/report/conftest.py``), for the sections that it is made of."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_path = Path(__file__).parents[1] / "report" / "conftest.py"
_spec = importlib.util.spec_from_file_location("small_run", _path)
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
store, metrics, hostile = _module.store, _module.metrics, _module.hostile
