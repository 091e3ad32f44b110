"""Safety alignment of generative models: defend, attack, measure, serve.

Public names load on first use, so ``import genward`` costs nothing and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from genward._moved import install as _install

if TYPE_CHECKING:
    from genward import lab, run
    from genward.catalog.opening import open_model
    from genward.core import Case, Concept, Sample, Sampler, Spec, load_concept
    from genward.errors import GenwardError
    from genward.run.api import Results
    from genward.run.guard import Guard
    from genward.serve.policy import Policy, load_policy
    from genward.serve.protect import protect

_install()
__version__ = "0.1.0"
__all__ = [
    "Case", "Concept", "GenwardError", "Guard", "Policy", "Results", "Sample", "Sampler", "Spec", "__version__", "lab",
    "load_concept", "load_policy", "open_model",
    "protect", "run",
]  # fmt: skip

_HOMES = {
    "Case": "genward.core",
    "Concept": "genward.core",
    "GenwardError": "genward.errors",
    "Guard": "genward.run.guard",
    "Results": "genward.run.api",
    "Sample": "genward.core",
    "Sampler": "genward.core",
    "Spec": "genward.core",
    "load_concept": "genward.core",
    "open_model": "genward.catalog.opening",
    "Policy": "genward.serve.policy",
    "load_policy": "genward.serve.policy",
    "protect": "genward.serve.protect",
}


def __getattr__(name: str) -> Any:
    if name in ("lab", "run"):
        return import_module(f"genward.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'genward' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
