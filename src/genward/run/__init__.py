"""Plan, generate, judge, measure; guards; the one room that knows all the others. Modules are imported where they are
used. The package can be called: ``genward.run("erasure", …)`` is ``run.api.run``."""

import sys
from types import ModuleType
from typing import Any


class _Run(ModuleType):
    def __call__(self, benchmark: str, preset: str = "", **how: Any) -> Any:
        """See ``genward.run.api.run``."""
        from genward.run.api import run

        return run(benchmark, preset, **how)


sys.modules[__name__].__class__ = _Run
